"""Augmentation of images on the device, from ``uint8`` to normalised float32, keyed by sample and view.

Order (core spec 3): random resized crop, flip, colour jitter in random order with clipping after each step, grey, blur,
solarisation, normalisation. Each view of a sample draws its own parameters, and each named view may have its own
probabilities (``views.py``).

Legend: ``B`` images, ``V`` views of each, ``N = B * V``; ``H, W, C`` source, ``c, M, M`` result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from byol_ext.crops import CROP_TRIES, crop_boxes
from byol_ext.images import photometric
from byol_ext.images.geometry import METHODS, Geometry, Method, cut_out
from byol_ext.rng import keyed_uniform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_GEOMETRY, _PHOTOMETRY = 0x20000, 0x30000
_ORDERS = tuple(itertools.permutations(range(4)))


@dataclass(frozen=True)
class Draws:
    """Parameters drawn for ``N`` views; tensors on the host.

    Attributes:
        box_N4: Crop: top, left, height, width in source pixels, int64.
        flip_N: Flipped horizontally, bool.
        jitter_N: Whether colours are jittered, bool.
        order_N4: Order of brightness 0, contrast 1, saturation 2, hue 3, int64.
        brightness_N: Factor, or what is added.
        contrast_N: Factor.
        saturation_N: Factor.
        hue_N: Turns.
        grey_N: Turned grey, bool.
        sigma_N: Blur in output pixels; 0 where there is none.
        solarise_N: Solarised, bool.
    """

    box_N4: Tensor
    flip_N: Tensor
    jitter_N: Tensor
    order_N4: Tensor
    brightness_N: Tensor
    contrast_N: Tensor
    saturation_N: Tensor
    hue_N: Tensor
    grey_N: Tensor
    sigma_N: Tensor
    solarise_N: Tensor


@dataclass(frozen=True)
class ImageAugment:
    """Random crop, flip, colours, blur and solarisation; the defaults are the first view of BYOL (core spec 3).

    The result of a view depends on the sample's key and the view's number alone: not on the batch it comes in, nor on
    padding.

    Attributes:
        size: Height and width of the result in pixels.
        area: Range of the crop's share of the image.
        aspect: Range of the crop's width over height, log-uniform (spec: second-hand).
        p_flip: Probability of a horizontal flip.
        p_jitter: Probability of the colour jitter.
        brightness: Factors are uniform on ``1 -+ brightness``, or shifts on ``-+ brightness``.
        brightness_mode: ``additive`` as in BYOL's reference, or ``multiplicative`` as in torchvision.
        contrast: Factors are uniform on ``1 -+ contrast``; they turn about the mean luma of the crop.
        saturation: Likewise, about each pixel's luma.
        hue: Turns of HSV's hue are uniform on ``-+ hue``.
        jitter_order: ``random``, each sample its own, or ``fixed``: brightness, contrast, saturation, hue.
        p_grey: Probability of grey.
        p_blur: Probability of a Gaussian blur.
        sigma: Range of its standard deviation in output pixels.
        kernel: Its taps, odd; None for a tenth of ``size``, made odd, at least 3.
        p_solarise: Probability of solarisation.
        threshold: Pixels at or above it are inverted.
        mean: Subtracted from pixels in [0, 1], one a channel of the result. Three numbers with grey images give three
            equal channels before normalisation.
        std: Divides them.
        method: How images are resampled, see ``geometry.py``.

    Raises:
        ValueError: For a value out of its range, naming it.

    Example:
        >>> from byol_ext.rng import sample_keys
        >>> images = torch.randint(0, 256, (2, 60, 80, 3), dtype=torch.uint8)
        >>> augment = ImageAugment(size=32)
        >>> augment(images, torch.tensor([[60, 80], [50, 80]]), sample_keys(0, 0, torch.arange(2)), views=2).shape
        torch.Size([2, 2, 3, 32, 32])
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    p_flip: float = 0.5
    p_jitter: float = 0.8
    brightness: float = 0.4
    brightness_mode: Literal["additive", "multiplicative"] = "additive"
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter_order: Literal["random", "fixed"] = "random"
    p_grey: float = 0.2
    p_blur: float = 1.0
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int | None = None
    p_solarise: float = 0.0
    threshold: float = 0.5
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    method: Method = "auto"

    def __post_init__(self) -> None:
        check_output(self.size, self.mean, self.std, self.method)
        for name in ("p_flip", "p_jitter", "p_grey", "p_blur", "p_solarise", "brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1]")
        if not 0.0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue}: expected turns in [0, 0.5]")
        if not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise ValueError(f"area={self.area}: expected 0 < least <= most <= 1, shares of the image")
        for name in ("aspect", "sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ValueError(f"{name}={(low, high)}: expected 0 < least <= most")
        if self.brightness_mode not in ("additive", "multiplicative"):
            raise ValueError(f"brightness_mode={self.brightness_mode!r}: expected 'additive' or 'multiplicative'")
        if self.jitter_order not in ("random", "fixed"):
            raise ValueError(f"jitter_order={self.jitter_order!r}: expected 'random' or 'fixed'")
        if self.taps < 1 or self.taps % 2 == 0 or (self.p_blur and self.taps // 2 >= self.size):
            raise ValueError(f"kernel={self.taps}: expected an odd number below twice size={self.size}")

    @property
    def taps(self) -> int:
        """Taps of the blur."""
        return max(3, self.size // 10 | 1) if self.kernel is None else self.kernel

    def __call__(
        self, images_BHWC: Tensor, sizes_B2: Tensor, keys_B: Tensor, *, views: int = 1, first_view: int = 0
    ) -> Tensor:
        """Augment a batch.

        Args:
            images_BHWC: ``uint8 [B, H, W, C]``, ``C`` 1 or 3, padded at the bottom and right.
            sizes_B2: True height and width of each image, int64; pixels beyond are never read.
            keys_B: One key an image, of :func:`byol_ext.rng.sample_keys`. Sizes and keys are read on the host: on the
                GPU they cost a wait.
            views: Views ``V`` of each image.
            first_view: Number of the first view; views with other numbers draw other parameters.

        Returns:
            ``[B, V, c, M, M]`` float32 on the device of the images, ``c = len(mean)``.

        Raises:
            TypeError: If the images are not ``uint8``.
            ValueError: For shapes that do not fit together.
        """
        check_images(images_BHWC, sizes_B2, keys_B)
        draws = self.draw(keys_B, sizes_B2, views=views, first_view=first_view)
        resized_N2 = torch.full((len(draws.box_N4), 2), self.size)
        cut = Geometry(draws.box_N4, resized_N2, torch.zeros_like(resized_N2), draws.flip_N, self.size)
        with torch.autocast(images_BHWC.device.type, enabled=False):
            x_NCMM = cut_out(images_BHWC, cut, views=views, method=self.method)
            x_NCMM = normalise(self._recolour(x_NCMM, draws), self.mean, self.std)
        return x_NCMM.unflatten(0, (len(images_BHWC), views))

    def draw(self, keys_B: Tensor, sizes_B2: Tensor, *, views: int = 1, first_view: int = 0) -> Draws:
        """The parameters that :meth:`__call__` uses, for tests and pictures.

        Args:
            keys_B: One key an image.
            sizes_B2: True height and width of each image.
            views: Views of each image.
            first_view: Number of the first.
        """
        keys_B = keys_B.cpu()

        def uniform(n: int, stream: int) -> Tensor:
            numbers = range(first_view, first_view + views)
            u_BVn = torch.stack([keyed_uniform(keys_B, n, stream=stream + view) for view in numbers], 1)
            return u_BVn.flatten(0, 1).double().T.contiguous()

        sizes_N2 = sizes_B2.cpu().repeat_interleave(views, 0)
        u_nN, p_nN = uniform(2 * CROP_TRIES + 3, _GEOMETRY), uniform(10, _PHOTOMETRY)
        order_N = (p_nN[5] * len(_ORDERS)).long() if self.jitter_order == "random" else torch.zeros_like(p_nN[5]).long()
        sigma_N = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * p_nN[8]
        return Draws(
            box_N4=crop_boxes(u_nN[3:], u_nN[0], u_nN[1], sizes_N2, self.area, self.aspect),
            flip_N=u_nN[2] < self.p_flip,
            jitter_N=p_nN[0] < self.p_jitter,
            order_N4=torch.tensor(_ORDERS)[order_N],
            brightness_N=float(self.brightness_mode == "multiplicative") + self.brightness * (2.0 * p_nN[1] - 1.0),
            contrast_N=1.0 + self.contrast * (2.0 * p_nN[2] - 1.0),
            saturation_N=1.0 + self.saturation * (2.0 * p_nN[3] - 1.0),
            hue_N=self.hue * (2.0 * p_nN[4] - 1.0),
            grey_N=p_nN[6] < self.p_grey,
            sigma_N=torch.where(p_nN[7] < self.p_blur, sigma_N, 0.0),
            solarise_N=p_nN[9] < self.p_solarise,
        )

    def _recolour(self, x_NCMM: Tensor, draws: Draws) -> Tensor:
        """Everything between crop and normalisation, in place."""
        shift = self.brightness_mode == "additive"
        steps: tuple[tuple[float, Callable[[Tensor, Tensor], Tensor], Tensor], ...] = (
            (
                self.brightness,
                photometric.shift_brightness if shift else photometric.scale_brightness,
                draws.brightness_N,
            ),
            (self.contrast, photometric.scale_contrast, draws.contrast_N),
            (self.saturation, photometric.scale_saturation, draws.saturation_N),
            (self.hue, photometric.shift_hue, draws.hue_N),
        )
        for place in range(4):
            for number, (spread, step, amount_N) in enumerate(steps):
                if spread > 0:
                    chosen_N = draws.jitter_N & (draws.order_N4[:, place] == number)
                    _change(x_NCMM, chosen_N, amount_N, step)
        _change(x_NCMM, draws.grey_N, draws.sigma_N, lambda x, _: photometric.to_grey(x))
        _change(x_NCMM, draws.sigma_N > 0, draws.sigma_N, lambda x, sigma: photometric.blur(x, sigma, self.taps))
        _change(x_NCMM, draws.solarise_N, draws.sigma_N, lambda x, _: photometric.solarise(x, self.threshold))
        return x_NCMM


@dataclass(frozen=True)
class CentreCrop:
    """Resize the short side and cut out a square: the same pixels each time, for evaluation.

    Attributes:
        size: Height and width of the result in pixels.
        short_side: Pixels of the short side after the resize: 256 for 224 in BYOL's evaluation (recalled); equal to
            ``size`` for small pictures.
        mean: See :class:`ImageAugment`.
        std: See :class:`ImageAugment`.
        method: See :class:`ImageAugment`.

    Raises:
        ValueError: For a value out of its range, naming it.

    Example:
        >>> images = torch.zeros(1, 60, 80, 3, dtype=torch.uint8)
        >>> CentreCrop()(images, torch.tensor([[60, 80]])).shape
        torch.Size([1, 3, 224, 224])
    """

    size: int = 224
    short_side: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    method: Method = "auto"

    def __post_init__(self) -> None:
        check_output(self.size, self.mean, self.std, self.method)
        if self.short_side < self.size:
            raise ValueError(f"short_side={self.short_side} is less than size={self.size}: the square does not fit")

    def __call__(self, images_BHWC: Tensor, sizes_B2: Tensor) -> Tensor:
        """Cut out the square of each image.

        Args:
            images_BHWC: See :meth:`ImageAugment.__call__`.
            sizes_B2: See there.

        Returns:
            ``[B, c, M, M]`` float32 on the device of the images.

        Raises:
            TypeError: If the images are not ``uint8``.
            ValueError: For shapes that do not fit together.
        """
        check_images(images_BHWC, sizes_B2)
        sizes_B2 = sizes_B2.cpu()
        # The longer side is cut off, as torchvision's Resize does.
        resized_B2 = self.short_side * sizes_B2 // sizes_B2.amin(1, keepdim=True)
        offset_B2 = ((resized_B2 - self.size) / 2).round().long()
        box_B4 = torch.cat([torch.zeros_like(sizes_B2), sizes_B2], 1)
        cut = Geometry(box_B4, resized_B2, offset_B2, torch.zeros(len(sizes_B2), dtype=torch.bool), self.size)
        with torch.autocast(images_BHWC.device.type, enabled=False):
            return normalise(cut_out(images_BHWC, cut, method=self.method), self.mean, self.std)


def normalise(x_NCMM: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(x - mean) / std`` by channel; one channel spreads over three numbers.

    Raises:
        ValueError: If three channels meet one number.
    """
    if x_NCMM.shape[1] > len(mean):
        raise ValueError(f"images have {x_NCMM.shape[1]} channels, mean={mean} one; decode them with channels=1")
    mean_c11, std_c11 = (x_NCMM.new_tensor(values)[:, None, None] for values in (mean, std))
    return (x_NCMM - mean_c11).div_(std_c11)


def check_output(size: int, mean: tuple[float, ...], std: tuple[float, ...], method: str) -> None:
    """Refuse options that make no image.

    Raises:
        ValueError: For a value out of its range, naming it.
    """
    if size < 2:
        raise ValueError(f"size={size}: expected at least 2 pixels")
    if len(mean) not in (1, 3) or len(std) != len(mean) or min(std) <= 0:
        raise ValueError(f"mean={mean}, std={std}: expected one or three numbers each, std > 0")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: expected one of {METHODS}")


def check_images(images_BHWC: Tensor, sizes_B2: Tensor, keys_B: Tensor | None = None) -> None:
    """Refuse a batch whose parts do not fit together.

    Raises:
        TypeError: If the images are not ``uint8``.
        ValueError: For shapes that do not fit together.
    """
    if images_BHWC.dtype != torch.uint8:
        raise TypeError(f"images are {images_BHWC.dtype}; expected uint8 pixels")
    if images_BHWC.dim() != 4 or images_BHWC.shape[-1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(images_BHWC.shape)}; expected [B, H, W, 1 or 3]")
    batch, height, width, _ = images_BHWC.shape
    if sizes_B2.shape != (batch, 2):
        raise ValueError(f"sizes have shape {tuple(sizes_B2.shape)}; expected height and width an image, ({batch}, 2)")
    if batch and bool(((sizes_B2.cpu() < 1) | (sizes_B2.cpu() > torch.tensor([height, width]))).any()):
        raise ValueError(f"sizes {sizes_B2.tolist()} do not fit in images of {height} x {width} pixels")
    if keys_B is not None and keys_B.shape != (batch,):
        raise ValueError(f"keys have shape {tuple(keys_B.shape)}; expected one key an image, ({batch},)")


def _change(x_NCMM: Tensor, chosen_N: Tensor, amount_N: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Put a step's result in the place of the chosen images."""
    if not bool(chosen_N.any()):
        return
    (index,) = torch.nonzero(chosen_N, as_tuple=True)
    amount = amount_N[index].float().to(x_NCMM.device)
    index = index.to(x_NCMM.device)
    x_NCMM.index_copy_(0, index, step(x_NCMM.index_select(0, index), amount))
