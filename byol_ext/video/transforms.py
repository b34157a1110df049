"""Augmentation of clips on the device, from ``uint8`` frames to normalised float32, keyed by sample.

Crop, flip, resize, blur, colour and normalisation are all linear in the pixels, so a clip is two weighted sums over its
crop (``byol_ext/resample.py``), one affine map of its colours (``colour.py``) and one clamp to [0, 1]. Unless
``photometric="per_frame"`` all frames of a clip share all parameters: what differs between frames is motion, which
temporal differences then see undisturbed (CVRL, arXiv 2008.03800).

Legend: ``B`` videos, ``V`` clips a video, ``N = B * V``, ``T`` frames, ``H, W, C`` source, ``c, M, M`` result; ``P``
parameter sets a clip: 1, or ``T`` per frame.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from byol_ext.crops import CROP_TRIES, crop_boxes
from byol_ext.resample import Axis, Taps, bilinear_taps
from byol_ext.rng import keyed_uniform
from byol_ext.video.colour import ColourMap, colour_map, colour_matrix, grey_matrix
from byol_ext.video.draws import Draws
from byol_ext.video.render import Method, Plan, blur_weights, render
from byol_ext.video.samples import Invariance, short_side_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN = (0.449,)
GREY_STD = (0.226,)
_GEOMETRY, _PHOTOMETRY = 0x1D00, 0x1E00

_CHOICES = {
    "grey": ("luma", "channel"),
    "photometric": ("clip", "per_frame"),
    "method": ("auto", "dense", "taps"),
}


@dataclass(frozen=True)
class ClipAugment:
    """Random crop, flip, blur and colours of clips; the defaults are the authors' probabilities, clip-consistent.

    The result depends on a sample's key alone, bit for bit: not on the batch it comes in, nor on padding. Each clip of
    a video draws its own parameters.

    Attributes:
        size: Height and width of the result in pixels (112, spec 4).
        area: Range of the crop's share of the frame (.08-1, spec 5).
        aspect: Range of the crop's width over height, log-uniform (3/4-4/3, spec 5).
        resized: Pixels of the bilinear resize when a nearest-neighbour one to ``size`` follows (the authors' 128);
            None resizes once.
        antialias: Widen the bilinear triangle when shrinking, as PIL and torchvision do.
        p_flip: Probability of a horizontal flip (.5, spec 5).
        p_reverse: Probability of playing a clip backwards (not in the method).
        p_colour: Probability of the colour jitter (.8, spec 5).
        brightness: Factors are uniform on ``1 -+ brightness`` (.2, spec 5).
        contrast: Likewise (.2); contrast turns about the mean luma of the crop.
        saturation: Likewise (.2).
        hue: Turns of the chroma plane are uniform on ``-+ hue`` (.05, spec 5).
        p_grey: Probability of grey (.2, spec 5).
        grey: ``"luma"``, or ``"channel"``: one random channel copied to all (the authors').
        p_blur: Probability of a 3x3 Gaussian blur (.5, spec 5).
        sigma: Range of its standard deviation in output pixels (.1-2, spec 5).
        photometric: ``"clip"``: colours, grey and sigma are drawn once a clip; ``"per_frame"``: for each frame (the
            authors').
        mean: Subtracted from pixels in [0, 1], one a channel of the result; one number gives luma alone.
        std: Divides them.
        method: How clips are resampled: ``"dense"``, ``"taps"``, or ``"auto"``: matrix products a clip on the
            CPU, gathers over the batch elsewhere. They agree to rounding.

    Raises:
        ValueError: For a value out of its range, naming it.

    Example:
        >>> from byol_ext.rng import sample_keys
        >>> clips = torch.randint(0, 256, (2, 2, 8, 60, 80, 3), dtype=torch.uint8)
        >>> augment = ClipAugment(size=56)
        >>> augment(clips, torch.tensor([[60, 80], [50, 80]]), sample_keys(0, 0, torch.arange(2))).shape
        torch.Size([2, 2, 3, 8, 56, 56])
    """

    size: int = 112
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    resized: int | None = None
    antialias: bool = True
    p_flip: float = 0.5
    p_reverse: float = 0.0
    p_colour: float = 0.8
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.05
    p_grey: float = 0.2
    grey: Literal["luma", "channel"] = "luma"
    p_blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    photometric: Literal["clip", "per_frame"] = "clip"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    method: Method = "auto"

    def __post_init__(self) -> None:
        _check_output(self.size, self.mean, self.std)
        for name in ("p_flip", "p_reverse", "p_colour", "p_grey", "p_blur"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a probability in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1]; factors are 1 -+ it")
        if not 0.0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue}: expected turns in [0, 0.5]")
        if not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise ValueError(f"area={self.area}: expected 0 < least <= most <= 1, shares of the frame")
        for name in ("aspect", "sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ValueError(f"{name}={(low, high)}: expected 0 < least <= most")
        if self.resized is not None and self.resized < 1:
            raise ValueError(f"resized={self.resized}: expected at least 1 pixel, or None")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {known}")

    def __call__(self, clips_BVTHWC: Tensor, sizes_B2: Tensor, keys_B: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            clips_BVTHWC: ``uint8 [B, V, T, H, W, C]``, ``C`` 1 or 3, padded at the bottom and right.
            sizes_B2: True height and width of each video, int64; pixels beyond are never read.
            keys_B: One key a video, of :func:`byol_ext.rng.sample_keys`. Sizes and keys are read on the host: on the
                GPU they cost a wait.

        Returns:
            ``[B, V, c, T, M, M]`` float32 on the device of the clips, ``c = len(mean)``.

        Raises:
            TypeError: If the clips are not ``uint8``.
            ValueError: For shapes that do not fit together.
        """
        batch, views, frames = _check_clips(clips_BVTHWC, sizes_B2)
        if keys_B.shape != (batch,):
            raise ValueError(f"keys have shape {tuple(keys_B.shape)}; expected one key a video, ({batch},)")
        draws = self.draw(keys_B, sizes_B2, clips=views, frames=frames)
        top_N, left_N, height_N, width_N = draws.box_N4.unbind(1)
        plan = Plan(
            self._taps(top_N, height_N, torch.zeros_like(draws.flip_N)),
            self._taps(left_N, width_N, draws.flip_N),
            self._colours(draws, channels=clips_BVTHWC.shape[-1]),
            blur=blur_weights(draws.sigma_NP) if self.p_blur else None,
            reverse_N=draws.reverse_N if self.p_reverse else None,
        )
        return render(clips_BVTHWC.flatten(0, 1), plan, self.method).unflatten(0, (batch, views))

    def draw(self, keys_B: Tensor, sizes_B2: Tensor, *, clips: int, frames: int) -> Draws:
        """The parameters that :meth:`__call__` uses, for tests and pictures.

        Args:
            keys_B: One key a video.
            sizes_B2: True height and width of each video.
            clips: Clips a video, ``V``.
            frames: Frames a clip, ``T``.
        """
        keys_B = keys_B.cpu()
        per_frame = frames if self.photometric == "per_frame" else 1

        def uniform(n: int, stream: int) -> Tensor:
            u_BVn = torch.stack([keyed_uniform(keys_B, n, stream=stream + v) for v in range(clips)], 1)
            return u_BVn.flatten(0, 1).double()

        sizes_N2 = repeat(sizes_B2.cpu(), "b two -> (b v) two", v=clips)
        u_nN = uniform(2 * CROP_TRIES + 5, _GEOMETRY).T.contiguous()
        u_nNP = rearrange(uniform(8 * per_frame, _PHOTOMETRY), "n (p k) -> k n p", k=8).contiguous()
        coloured_NP = u_nNP[0] < self.p_colour

        def jitter(u_NP: Tensor, spread: float, neutral: float) -> Tensor:
            return torch.where(coloured_NP, neutral + spread * (2.0 * u_NP - 1.0), neutral)

        blurred_N1 = (u_nN[4] < self.p_blur)[:, None]
        return Draws(
            box_N4=crop_boxes(u_nN[5:], u_nN[2], u_nN[3], sizes_N2, self.area, self.aspect),
            flip_N=u_nN[0] < self.p_flip,
            reverse_N=u_nN[1] < self.p_reverse,
            brightness_NP=jitter(u_nNP[1], self.brightness, 1.0),
            contrast_NP=jitter(u_nNP[2], self.contrast, 1.0),
            saturation_NP=jitter(u_nNP[3], self.saturation, 1.0),
            hue_NP=jitter(u_nNP[4], self.hue, 0.0),
            grey_NP=u_nNP[5] < self.p_grey,
            channel_NP=(u_nNP[6] * 3).long(),
            sigma_NP=torch.where(blurred_N1, self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u_nNP[7], 0.0),
        )

    def _taps(self, begin_N: Tensor, length_N: Tensor, mirror_N: Tensor) -> Taps:
        scale_N = length_N.double() / (self.resized or self.size)
        axis = Axis(begin_N, length_N, scale_N, torch.zeros_like(scale_N), mirror_N)
        return bilinear_taps(axis, size=self.size, resized=self.resized, antialias=self.antialias)

    def _colours(self, draws: Draws, *, channels: int) -> ColourMap:
        jitter = colour_matrix(
            brightness_NP=draws.brightness_NP,
            contrast_NP=draws.contrast_NP,
            saturation_NP=draws.saturation_NP,
            hue_NP=draws.hue_NP,
        )
        grey = grey_matrix(draws.grey_NP, draws.channel_NP if self.grey == "channel" else None)
        turns_about_pivot = self.contrast > 0 and self.p_colour > 0
        gain_NP = (1.0 - draws.contrast_NP) * draws.brightness_NP if turns_about_pivot else None
        return colour_map(grey @ jitter, gain_NP, channels=channels, mean=self.mean, std=self.std)

    def breaks(self) -> dict[Invariance, str]:
        """What this augmentation changes, each with the options that switch it off."""
        jitters = max(self.brightness, self.contrast, self.saturation, self.hue) > 0
        used: dict[Invariance, tuple[bool, str]] = {
            "hflip": (self.p_flip > 0, "p_flip=0"),
            "reverse": (self.p_reverse > 0, "p_reverse=0"),
            "crop": (self.area[0] < 1, "area=(1, 1)"),
            "colour": (self.p_colour > 0 and jitters, "p_colour=0"),
            "grey": (self.p_grey > 0, "p_grey=0"),
            "blur": (self.p_blur > 0, "p_blur=0"),
        }
        return {name: off for name, (on, off) in used.items() if on}


@dataclass(frozen=True)
class CentreClip:
    """Resize the short side and cut out a square: the same pixels each time, for evaluation.

    Attributes:
        size: Height and width of the result in pixels (112, spec 6).
        short_side: Pixels of the short side after the resize (128, spec 6).
        position: Place of the square along each axis: 0.5 the centre; 0, 0.5 and 1 with ``short_side=size`` are the
            three crops along the long side.
        antialias: See :class:`ClipAugment`.
        mean: See :class:`ClipAugment`.
        std: See :class:`ClipAugment`.
        method: See :class:`ClipAugment`.

    Raises:
        ValueError: For a value out of its range, naming it.

    Example:
        >>> clips = torch.zeros(1, 2, 8, 60, 80, 3, dtype=torch.uint8)
        >>> CentreClip()(clips, torch.tensor([[60, 80]])).shape
        torch.Size([1, 2, 3, 8, 112, 112])
    """

    size: int = 112
    short_side: int = 128
    position: float = 0.5
    antialias: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    method: Method = "auto"

    def __post_init__(self) -> None:
        _check_output(self.size, self.mean, self.std)
        if self.short_side < self.size:
            raise ValueError(f"short_side={self.short_side} is less than size={self.size}: the square does not fit")
        if not 0.0 <= self.position <= 1.0:
            raise ValueError(f"position={self.position}: expected a number in [0, 1]")
        if self.method not in _CHOICES["method"]:
            raise ValueError(f"method={self.method!r}: expected one of {_CHOICES['method']}")

    def __call__(self, clips_BVTHWC: Tensor, sizes_B2: Tensor) -> Tensor:
        """Cut out the square of each clip.

        Args:
            clips_BVTHWC: See :meth:`ClipAugment.__call__`.
            sizes_B2: See there.

        Returns:
            ``[B, V, c, T, M, M]`` float32 on the device of the clips.

        Raises:
            TypeError: If the clips are not ``uint8``.
            ValueError: For shapes that do not fit together.
        """
        batch, views, _ = _check_clips(clips_BVTHWC, sizes_B2)
        sizes_N2 = repeat(sizes_B2.cpu(), "b two -> (b v) two", v=views)
        resized = [short_side_size(h, w, self.short_side) for h, w in sizes_N2.tolist()]
        resized_N2 = torch.tensor(resized, dtype=torch.int64).reshape(-1, 2)
        offset_N2 = ((resized_N2 - self.size) * self.position).round().double()
        rows, columns = (
            bilinear_taps(
                Axis(torch.zeros_like(source), source, source / resized, offset, torch.zeros_like(source).bool()),
                size=self.size,
                antialias=self.antialias,
            )
            for source, resized, offset in zip(sizes_N2.T, resized_N2.T.double(), offset_N2.T, strict=True)
        )
        same = torch.eye(3, dtype=torch.float64).expand(len(sizes_N2), 1, 3, 3)
        colours = colour_map(same, None, channels=clips_BVTHWC.shape[-1], mean=self.mean, std=self.std)
        plan = Plan(rows, columns, colours)
        return render(clips_BVTHWC.flatten(0, 1), plan, self.method).unflatten(0, (batch, views))


def default(size: int = 112) -> ClipAugment:
    """The authors' transforms, all parameters clip-consistent, one resize, grey by luma (spec 5)."""
    return ClipAugment(size=size)


def authors(size: int = 112) -> ClipAugment:
    """The authors' transforms: colours, grey and sigma per frame, bilinear to 8/7 size, then nearest (spec 5)."""
    return replace(default(size), resized=round(size * 128 / 112), photometric="per_frame", grey="channel")


def motion_sprites(size: int = 24, *, channels: int = 1) -> ClipAugment:
    """MotionSprites (spec 10): square crops of at least half the frame, brightness and contrast, no flip.

    Args:
        size: Pixels of a frame.
        channels: 1 for luma, 3 for colour.
    """
    return ClipAugment(
        size=size,
        area=(0.5, 1.0),
        aspect=(1.0, 1.0),
        p_flip=0.0,
        saturation=0.0,
        hue=0.0,
        p_grey=0.0,
        p_blur=0.0,
        mean=GREY_MEAN if channels == 1 else IMAGENET_MEAN,
        std=GREY_STD if channels == 1 else IMAGENET_STD,
    )


def check_invariances(augment: ClipAugment, invariances: Collection[Invariance], *, force: bool = False) -> list[str]:
    """Refuse an augmentation that changes what the labels say.

    Args:
        augment: The augmentation.
        invariances: What the labels survive, of a :class:`~byol_ext.video.samples.VideoSource`.
        force: Return the breaking changes instead of raising.

    Returns:
        Names of the changes that break labels; empty unless forced.

    Raises:
        ValueError: If there are any, with the options that switch them off.

    Example:
        >>> check_invariances(motion_sprites(), {"crop", "colour"})
        []
    """
    breaking = {name: off for name, off in augment.breaks().items() if name not in invariances}
    if breaking and not force:
        raise ValueError(
            f"the labels of this data do not survive {', '.join(breaking)}: set {', '.join(breaking.values())}, "
            f"or force it; they survive {', '.join(sorted(invariances)) or 'nothing'}"
        )
    return list(breaking)


def _check_output(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if size < 2:
        raise ValueError(f"size={size}: expected at least 2 pixels")
    if len(mean) not in (1, 3) or len(std) != len(mean) or min(std) <= 0:
        raise ValueError(f"mean={mean}, std={std}: expected one or three numbers each, std > 0")


def _check_clips(clips_BVTHWC: Tensor, sizes_B2: Tensor) -> tuple[int, int, int]:
    """``B, V, T`` of a good batch."""
    if clips_BVTHWC.dtype != torch.uint8:
        raise TypeError(f"clips are {clips_BVTHWC.dtype}; expected uint8 frames")
    if clips_BVTHWC.dim() != 6 or clips_BVTHWC.shape[-1] not in (1, 3):
        raise ValueError(f"clips have shape {tuple(clips_BVTHWC.shape)}; expected [B, V, T, H, W, 1 or 3]")
    batch, views, frames, height, width, _ = clips_BVTHWC.shape
    if sizes_B2.shape != (batch, 2):
        raise ValueError(f"sizes have shape {tuple(sizes_B2.shape)}; expected height and width a video, ({batch}, 2)")
    largest = torch.tensor([height, width])
    if batch and bool(((sizes_B2.cpu() < 1) | (sizes_B2.cpu() > largest)).any()):
        raise ValueError(f"sizes {sizes_B2.tolist()} do not fit in frames of {height} x {width} pixels")
    return batch, views, frames
