"""Where an encoder looks: input gradients and Grad-CAM over frames, and how much of it lies on what moves.

ViDiDi's claim is that differencing moves attention from the background to the motion; how the paper measured it is not
known to us (spec section 11), so the score is ours: the share of the saliency that lies inside a mask of the moving
pixels, beside the share of the area that the mask covers, which is what a map without structure would reach.

Legend: ``B`` clips, ``C`` channels, ``T`` frames, ``H, W`` their size, ``D`` width, ``t, h, w`` size of the last map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.losses.pair import as_float

Score = Callable[[Tensor], Tensor]
"""Features ``[B, D]`` to one number a clip ``[B]``: what the saliency explains."""


class MappedEncoder(Protocol):
    """An encoder of video whose features are the mean of its last map, such as those of `byol_ext.video.encoders`."""

    def feature_map(self, x: Tensor, /) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, D, t, h, w]``."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """``[B, C, T, H, W]`` to ``[B, D]``."""
        ...


def feature_norm(features_BD: Tensor) -> Tensor:
    """Length of the features: what a self-supervised encoder has instead of the score of a class."""
    return features_BD.norm(dim=1)


def class_score(weight_CD: Tensor, label_B: Tensor) -> Score:
    """A linear probe's evidence for each clip's class, above the mean of all classes.

    Args:
        weight_CD: The probe's weights *for raw features* (divide by the standard deviations it was fitted with).
        label_B: Class of each clip.

    Example:
        >>> score = class_score(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1]))
        >>> score(torch.tensor([[2.0, 5.0]])).tolist()
        [1.5]
    """
    centred_CD = weight_CD - weight_CD.mean(0)
    return lambda features_BD: (features_BD * centred_CD[label_B]).sum(1)


def input_gradient(
    encoder: nn.Module,
    clips_BCTHW: Tensor,
    *,
    score: Score = feature_norm,
    noise: float = 0.0,
    samples: int = 16,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Length over channels of the gradient of the score by each pixel (Simonyan et al. 2013).

    With noise it is the mean over noisy copies of a clip, which is smoother (SmoothGrad, Smilkov et al. 2017).

    Args:
        encoder: ``[B, C, T, H, W] -> [B, D]``. Run in eval mode, in float32; mode and gradients are left as they were.
        clips_BCTHW: Clips as the encoder takes them: augmented for evaluation, normalised, or differenced.
        score: What to explain.
        noise: Standard deviation of the noise as a share of the clip's range (SmoothGrad: 0.1 to 0.2); 0 for none.
        samples: Noisy copies.
        generator: Draws the noise, on the device of the clips.

    Returns:
        ``[B, T, H, W]``, not negative.

    Raises:
        ValueError: For noise without a generator, or fewer than one copy.
    """
    clips = as_float(clips_BCTHW).detach()
    if noise == 0.0:
        return _gradient_length(encoder, clips, score)
    if generator is None or samples < 1:
        raise ValueError(f"noise={noise}, samples={samples}: noise needs a generator and at least one sample")
    sigma_B1111 = noise * (clips.amax((1, 2, 3, 4), keepdim=True) - clips.amin((1, 2, 3, 4), keepdim=True))
    total_BTHW = torch.zeros_like(clips[:, 0])
    for _ in range(samples):
        drawn = torch.randn(clips.shape, generator=generator, dtype=clips.dtype, device=clips.device)
        total_BTHW += _gradient_length(encoder, clips + sigma_B1111 * drawn, score)
    return total_BTHW / samples


def grad_cam(encoder: MappedEncoder, clips_BCTHW: Tensor, *, score: Score = feature_norm) -> Tensor:
    """Grad-CAM on the last map: ``relu(sum_d (d score / d f_d) map_d)``, scaled up to the clip (Selvaraju et al. 2017).

    ``f`` is the mean of the map over time and space, so that the gradient by the map is that by ``f`` at every place.

    Args:
        encoder: With ``feature_map``. Run in eval mode, in float32; mode and gradients are left as they were.
        clips_BCTHW: Clips as the encoder takes them.
        score: What to explain.

    Returns:
        ``[B, T, H, W]``, not negative. Coarse: the map of a residual network has one cell for 16 by 16 pixels.

    Raises:
        ValueError: If the encoder's features are not the mean of its map; use `input_gradient` then.
    """
    clips = as_float(clips_BCTHW).detach()
    assert isinstance(encoder, nn.Module)
    with _explaining(encoder, clips):
        with torch.no_grad():
            map_BDthw = encoder.feature_map(clips)
            features_BD = encoder(clips)
        pooled_BD = map_BDthw.mean((2, 3, 4)).requires_grad_()
        if pooled_BD.shape != features_BD.shape or not torch.allclose(pooled_BD, features_BD, rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"features {tuple(features_BD.shape)} are not the mean of the map {tuple(map_BDthw.shape)}: Grad-CAM "
                "needs a global average pool behind the last map; use input_gradient"
            )
        (weight_BD,) = torch.autograd.grad(score(pooled_BD).sum(), pooled_BD)
    cam_Bthw = torch.einsum("bd,bdthw->bthw", weight_BD, map_BDthw).relu()
    scaled = F.interpolate(cam_Bthw[:, None], size=clips.shape[2:], mode="trilinear", align_corners=False)
    return scaled[:, 0]


def frame_difference_mask(clips_BTHWC: Tensor, *, threshold: float = 20.0, grow: int = 1) -> Tensor:
    """Moving pixels of videos without a known mask: those that differ from the frame before *and* from the one after.

    Asking for both leaves out the ground that an object has just uncovered. The first and last frame have one
    neighbour. The camera is taken to stand still.

    Args:
        clips_BTHWC: Pictures, uint8 or any float.
        threshold: Least change of a channel, in the unit of the clips (20 of 255 grey levels; ours).
        grow: Pixels added around what was found, since the inside of an even surface does not change.

    Returns:
        Bool ``[B, T, H, W]``.

    Raises:
        ValueError: For clips of one frame.

    Example:
        >>> clip = torch.zeros(1, 3, 1, 5, 1)
        >>> for t in range(3): clip[0, t, 0, t + 1] = 255.0
        >>> frame_difference_mask(clip, grow=0)[0, 1, 0].int().tolist()
        [0, 0, 1, 0, 0]
    """
    if clips_BTHWC.shape[1] < 2:
        raise ValueError(f"clips {tuple(clips_BTHWC.shape)}: motion needs at least two frames")
    changed = clips_BTHWC.float().diff(dim=1).abs().amax(-1) > threshold
    moving_BTHW = torch.cat([changed[:, :1], changed[:, 1:] & changed[:, :-1], changed[:, -1:]], dim=1)
    if grow:
        around = F.max_pool2d(moving_BTHW.float().flatten(0, 1)[:, None], 2 * grow + 1, stride=1, padding=grow)
        moving_BTHW = around[:, 0].reshape(moving_BTHW.shape) > 0
    return moving_BTHW


def share_inside(saliency_BTHW: Tensor, mask_BTHW: Tensor) -> Tensor:
    """Share of each clip's saliency that lies inside the mask; NaN for a clip without any saliency.

    Args:
        saliency_BTHW: Not negative.
        mask_BTHW: Bool.

    Raises:
        ValueError: For shapes that differ, or negative saliency.

    Example:
        >>> share_inside(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[True, False]]]])).tolist()
        [0.25]
    """
    if saliency_BTHW.shape != mask_BTHW.shape:
        raise ValueError(f"saliency {tuple(saliency_BTHW.shape)}, mask {tuple(mask_BTHW.shape)}: expected equal shapes")
    if bool((saliency_BTHW < 0).any()):
        raise ValueError("saliency is negative somewhere: take its absolute value or its positive part")
    saliency = saliency_BTHW.double()
    inside_B = (saliency * mask_BTHW).sum((1, 2, 3))
    return inside_B / saliency.sum((1, 2, 3))


def saliency_metrics(saliency_BTHW: Tensor, mask_BTHW: Tensor) -> dict[str, float]:
    """Attention to motion, as flat names under `saliency/`.

    Args:
        saliency_BTHW: Not negative.
        mask_BTHW: Bool, what moves.

    Returns:
        `saliency/share_inside` (mean over clips), `saliency/mask_area` (mean share of the area: what an even map
        reaches), `saliency/lift` (their ratio), `saliency/clips`, and `saliency/skipped`: clips where nothing moves,
        everything moves, or the saliency is 0.

    Raises:
        ValueError: If no clip is left, and the causes of `share_inside`.
    """
    share_B, area_B = share_inside(saliency_BTHW, mask_BTHW), mask_BTHW.double().mean((1, 2, 3))
    usable_B = share_B.isfinite() & (area_B > 0) & (area_B < 1)
    if not bool(usable_B.any()):
        raise ValueError(f"of {len(share_B)} clips none has saliency and both moving and still pixels")
    share, area = float(share_B[usable_B].mean()), float(area_B[usable_B].mean())
    return {
        "saliency/share_inside": share,
        "saliency/mask_area": area,
        "saliency/lift": share / area,
        "saliency/clips": float(usable_B.sum()),
        "saliency/skipped": float((~usable_B).sum()),
    }


def _gradient_length(encoder: nn.Module, clips: Tensor, score: Score) -> Tensor:
    clips = clips.detach().requires_grad_()
    with _explaining(encoder, clips):
        (gradient_BCTHW,) = torch.autograd.grad(score(encoder(clips)).sum(), clips)
    return gradient_BCTHW.norm(dim=1)


@contextmanager
def _explaining(encoder: nn.Module, clips: Tensor) -> Iterator[None]:
    """Eval mode, full precision, gradients on; every module's mode is put back."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.enable_grad(), torch.autocast(clips.device.type, enabled=False):
            yield
    finally:
        for module, training in modes:
            module.training = training
