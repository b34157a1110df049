"""Video encoders: a convolutional or window-attention trunk and a global average pool.

An encoder has ``width``, ``frames`` (the ``T`` of raw clips, checked at construction for all derivative orders),
``forward(x_BCTHW, order_B=None) -> [B, width]`` and ``feature_map(x_BCTHW, order_B=None) -> [B, D, t, h, w]``, the map
before the pool. ``order_B`` matters after :func:`byol_ext.video.order_norm.separate_norms_by_order` only.

Legend: ``B`` clips, ``C`` channels, ``T`` frames, ``H, W`` height and width; ``D`` width, ``t, h, w`` of feature maps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.func import functional_call

from byol_ext._extras import require
from byol_ext.video.order_norm import norm_orders

_CHECK_SIZE = 64  # pixels of the clips on the meta device that a construction check sends through


class VideoEncoder(nn.Module):
    """A trunk and its global average pool.

    Args:
        trunk: ``[B, C, T, H, W] -> [B, D, t, h, w]``.
        width: Its output channels ``D``.
        frames: Frames ``T`` of a raw clip; a derivative of order ``k`` has ``T - k``.
        in_channels: Channels ``C``.
        max_order: Highest derivative order that it will see (2).
        pad_to_T: Repeat the last frame (or difference) of clips with fewer than ``frames``, for trunks that take no
            shorter ones. No part of ViDiDi.

    Raises:
        ValueError: If the trunk does not take ``T``, ``T - 1``, ... ``T - max_order`` frames.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        width: int,
        frames: int = 8,
        in_channels: int = 3,
        max_order: int = 2,
        pad_to_T: bool = False,
    ) -> None:
        super().__init__()
        self.trunk, self.width, self.frames, self.pad_to_T = trunk, width, frames, pad_to_T
        check_frames(self, frames, in_channels=in_channels, max_order=max_order)

    def feature_map(self, x_BCTHW: Tensor, order_B: Tensor | None = None) -> Tensor:
        """The map before the pool, ``[B, D, t, h, w]``; for arguments see :meth:`forward`."""
        missing = self.frames - x_BCTHW.shape[2]
        if self.pad_to_T and missing > 0:
            x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, 0, missing), mode="replicate")
        with norm_orders(self.trunk, order_B):
            return self.trunk(x_BCTHW)

    def forward(self, x: Tensor, order_B: Tensor | None = None) -> Tensor:
        """Representations ``[B, width]``.

        Args:
            x: Clips or their derivatives ``[B, C, T, H, W]``.
            order_B: Derivative order of each ``[B]``, int64 on the CPU; read by norms with statistics by order, for
                which None means order 0.
        """
        return self.feature_map(x, order_B).mean((2, 3, 4))


def check_frames(encoder: nn.Module, frames: int, *, in_channels: int = 3, max_order: int = 2) -> None:
    """Check that an encoder takes a clip and its derivatives, without computing anything (on the meta device).

    Args:
        encoder: ``[B, C, T, H, W] -> [B, D]``.
        frames: Frames ``T`` of a raw clip.
        in_channels: Channels ``C``.
        max_order: Highest derivative order.

    Raises:
        ValueError: If it fails for ``T``, ``T - 1``, ... ``T - max_order``.
    """
    if frames <= max_order:
        raise ValueError(f"clips of {frames} frames have no derivative of order {max_order}: give more frames")
    tensors = [*encoder.named_parameters(), *encoder.named_buffers()]
    state = {name: tensor.detach().to("meta") for name, tensor in tensors}
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        for length in range(frames, frames - max_order - 1, -1):
            _check_length(encoder, state, length, in_channels, f"{frames} down to {frames - max_order}")
    finally:
        for module, training in modes:
            module.training = training


def _check_length(encoder: nn.Module, state: dict[str, Tensor], length: int, in_channels: int, needed: str) -> None:
    x_BCTHW = torch.zeros(1, in_channels, length, _CHECK_SIZE, _CHECK_SIZE, device="meta")
    try:
        functional_call(encoder, state, (x_BCTHW,))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the encoder does not take {length} frames ({str(error).partition(chr(10))[0]}); with clips and their "
            f"derivatives it must take {needed}. Use longer clips, or pad_to_T=True (repeats the last difference; no "
            "part of ViDiDi)"
        ) from error


def small_video_encoder(
    frames: int = 8,
    *,
    in_channels: int = 3,
    channels: Sequence[int] = (16, 32, 64),
    max_order: int = 2,
    pad_to_T: bool = False,
) -> VideoEncoder:
    """An encoder for small clips on a CPU: three blocks of convolution, BatchNorm, ReLU (spec vididi 10).

    Kernels 3x5x5, 3x3x3 and 1x3x3, spatial stride 2, no padding in time: a clip needs 5 frames.

    Args:
        frames: Frames of a raw clip.
        in_channels: Channels of a frame: 1 for grey.
        channels: Output channels of the blocks; the last is the width.
        max_order: See :class:`VideoEncoder`.
        pad_to_T: See :class:`VideoEncoder`.

    Raises:
        ValueError: If there are not three blocks, or clips are too short.

    Example:
        >>> encoder = small_video_encoder(8, in_channels=1)
        >>> encoder(torch.zeros(2, 1, 6, 24, 24)).shape
        torch.Size([2, 64])
    """
    if len(channels) != 3:
        raise ValueError(f"channels={tuple(channels)} must name the output channels of three blocks")
    layers: list[nn.Module] = []
    for before, after, (time, space) in zip(
        (in_channels, *channels[:2]), channels, ((3, 5), (3, 3), (1, 3)), strict=True
    ):
        layers += [
            nn.Conv3d(before, after, (time, space, space), (1, 2, 2), (0, space // 2, space // 2), bias=False),
            nn.BatchNorm3d(after),
            nn.ReLU(inplace=True),
        ]
    return VideoEncoder(
        nn.Sequential(*layers),
        width=channels[-1],
        frames=frames,
        in_channels=in_channels,
        max_order=max_order,
        pad_to_T=pad_to_T,
    )


def r3d_18(frames: int = 8, *, max_order: int = 2, pad_to_T: bool = False) -> VideoEncoder:
    """Torchvision's R3D-18 without its classifier: width 512, 33.2 M parameters. See :class:`VideoEncoder`."""
    trunk = _resnet_trunk(_models().r3d_18(weights=None))
    return VideoEncoder(trunk, width=512, frames=frames, max_order=max_order, pad_to_T=pad_to_T)


def r2plus1d_18(frames: int = 8, *, max_order: int = 2, pad_to_T: bool = False) -> VideoEncoder:
    """Torchvision's R(2+1)D-18 without its classifier: width 512, 31.3 M parameters. See :class:`VideoEncoder`."""
    trunk = _resnet_trunk(_models().r2plus1d_18(weights=None))
    return VideoEncoder(trunk, width=512, frames=frames, max_order=max_order, pad_to_T=pad_to_T)


def mc3_18(frames: int = 8, *, max_order: int = 2, pad_to_T: bool = False) -> VideoEncoder:
    """Torchvision's MC3-18 without its classifier: width 512, 11.5 M parameters. See :class:`VideoEncoder`."""
    trunk = _resnet_trunk(_models().mc3_18(weights=None))
    return VideoEncoder(trunk, width=512, frames=frames, max_order=max_order, pad_to_T=pad_to_T)


def s3d(frames: int = 8, *, max_order: int = 2, pad_to_T: bool = False) -> VideoEncoder:
    """Torchvision's S3D without its classifier: width 1024, 7.9 M parameters. See :class:`VideoEncoder`.

    The global pool takes the place of its fixed 2x7x7 one, which refuses short clips.
    """
    trunk = nn.Sequential(OrderedDict(features=_models().s3d(weights=None).features))
    return VideoEncoder(trunk, width=1024, frames=frames, max_order=max_order, pad_to_T=pad_to_T)


def swin3d_t(frames: int = 8, *, max_order: int = 2, pad_to_T: bool = False) -> VideoEncoder:
    """Torchvision's Video Swin-T without its classifier: width 768, 27.9 M parameters. See :class:`VideoEncoder`."""
    model = _models().swin3d_t(weights=None)
    parts = {name: getattr(model, name) for name in ("patch_embed", "pos_drop", "features", "norm")}
    trunk = nn.Sequential(OrderedDict(**parts, channels_first=Rearrange("b t h w d -> b d t h w")))
    return VideoEncoder(trunk, width=768, frames=frames, max_order=max_order, pad_to_T=pad_to_T)


def _models() -> ModuleType:
    return require("torchvision.models.video", extra="vididi")


def _resnet_trunk(model: nn.Module) -> nn.Module:
    """A torchvision video ResNet up to its pool; parameters keep their names."""
    parts = ("stem", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(OrderedDict((name, getattr(model, name)) for name in parts))
