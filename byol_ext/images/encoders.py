"""Image encoders: a small CNN for CPUs, torchvision's and timm's ResNets, and small vision transformers.

An encoder has ``width`` and ``forward(x_NCHW) -> y [N, width]``. ``norm="gn_ws"`` replaces BatchNorm, so that an
image's representation does not depend on the others (core spec 4).

Legend: ``N`` images, ``C`` channels, ``H, W`` height and width, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from byol_ext._extras import require
from byol_ext.images.norms import to_gn_ws

EncoderNorm = Literal["batch", "gn_ws"]
Stem = Literal["imagenet", "cifar"]


class ImageEncoder(nn.Module):
    """A network without its classifier.

    Args:
        body: ``[N, C, H, W] -> [N, D]``; its parameters keep their names below ``body``.
        width: ``D``.

    Example:
        >>> import torch
        >>> ImageEncoder(nn.Flatten(), width=12)(torch.zeros(2, 3, 2, 2)).shape
        torch.Size([2, 12])
    """

    def __init__(self, body: nn.Module, *, width: int) -> None:
        super().__init__()
        self.body, self.width = body, width

    def forward(self, x: Tensor) -> Tensor:
        """Representations ``[N, width]`` of images ``[N, C, H, W]``."""
        y: Tensor = self.body(x)
        return y


def small_cnn(
    *,
    in_channels: int = 1,
    channels: Sequence[int] = (16, 32, 64),
    strides: Sequence[int] = (1, 2, 2),
    norm: Literal["batch", "gn_ws", "none"] = "batch",
) -> ImageEncoder:
    """3x3 convolutions with norm and ReLU, and a global average pool (core spec 15): 64 wide, 23 thousand parameters.

    Args:
        in_channels: Channels of the images.
        channels: Output channels of each convolution; the last is the width.
        strides: Stride of each.
        norm: ``none`` is the control that collapses; its convolutions have a bias.

    Raises:
        ValueError: If channels and strides differ in number, there are none, or the norm is unknown.

    Example:
        >>> import torch
        >>> small_cnn()(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 64])
    """
    if len(channels) != len(strides) or not channels:
        raise ValueError(f"channels={tuple(channels)}, strides={tuple(strides)}: expected one stride a convolution")
    if norm not in ("batch", "gn_ws", "none"):
        raise ValueError(f"norm={norm!r} is not one of 'batch', 'gn_ws', 'none'")
    layers: list[nn.Module] = []
    for before, after, stride in zip((in_channels, *channels[:-1]), channels, strides, strict=True):
        layers.append(nn.Conv2d(before, after, 3, stride, 1, bias=norm == "none"))
        layers += [nn.ReLU(inplace=True)] if norm == "none" else [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if norm == "gn_ws":
        to_gn_ws(body)
    return ImageEncoder(body, width=channels[-1])


def torchvision_resnet(
    name: str = "resnet18",
    *,
    stem: Stem = "imagenet",
    norm: EncoderNorm = "batch",
    in_channels: int = 3,
    zero_init_residual: bool = False,
) -> ImageEncoder:
    """A torchvision ResNet (also ResNeXt and wide ones) with new weights.

    Args:
        name: Torchvision's, such as ``resnet50``.
        stem: ``cifar`` for small images: a 3x3 convolution of stride 1 instead of 7x7 of stride 2, and no max-pool.
        norm: ``gn_ws``: see :func:`byol_ext.images.norms.to_gn_ws`.
        in_channels: Channels of the images.
        zero_init_residual: Start the last scale of each residual block at 0: more stable; the BYOL paper's results used
            1 (core spec 3).

    Raises:
        ValueError: For an unknown name, stem or norm.

    Example:
        >>> import torch
        >>> torchvision_resnet("resnet18", stem="cifar")(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 512])
    """
    models = require("torchvision.models", extra="image")
    known = [other for other in models.list_models(module=models) if "resnet" in other or "resnext" in other]
    if name not in known:
        raise ValueError(f"{name!r} is no torchvision ResNet; known are {', '.join(known)}")
    body = models.get_model(name, weights=None, zero_init_residual=zero_init_residual)
    width = body.fc.in_features
    body.fc = nn.Identity()
    if in_channels != 3:
        body.conv1 = _first_conv(in_channels, kernel=7, stride=2)
    return _finished(body, width, stem, norm)


def timm_resnet(
    name: str = "resnet18",
    *,
    pretrained: bool = False,
    stem: Stem = "imagenet",
    norm: EncoderNorm = "batch",
    in_channels: int = 3,
    zero_init_last: bool = False,
) -> ImageEncoder:
    """A ResNet of timm, such as ``resnet50`` or ``resnet26d``.

    Args:
        name: Timm's.
        pretrained: Load timm's weights from the Hub; only with the ``imagenet`` stem and ``batch`` norm.
        stem: See :func:`torchvision_resnet`; ``cifar`` needs a stem of one convolution.
        norm: See there.
        in_channels: Channels of the images.
        zero_init_last: As ``zero_init_residual`` there.

    Raises:
        ValueError: For a name that is no ResNet, or weights that the changes would make meaningless.

    Example:
        >>> import torch
        >>> timm_resnet("resnet18", norm="gn_ws")(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
    """
    timm = require("timm", extra="image")
    if pretrained and (stem != "imagenet" or norm != "batch"):
        raise ValueError(f"pretrained weights do not survive stem={stem!r}, norm={norm!r}")
    if name.partition(".")[0] not in timm.list_models(module="resnet"):
        raise ValueError(f"{name!r} is no ResNet of timm; see timm.list_models(module='resnet')")
    body = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=in_channels, zero_init_last=zero_init_last
    )
    return _finished(body, body.num_features, stem, norm)


def vit_small(
    image_size: int = 224, *, patch_size: int = 16, in_channels: int = 3, pool: Literal["token", "avg"] = "token"
) -> ImageEncoder:
    """ViT-S: width 384, 12 blocks of 6 heads, 21.7 M parameters at patches of 16 (timm, new weights).

    It has no BatchNorm: no image sees another one.

    Args:
        image_size: Pixels of a side; a multiple of the patches'.
        patch_size: Pixels of a patch's side: 16 for 224, 4 for 32.
        in_channels: Channels of the images.
        pool: The class token, or the mean over patches.

    Raises:
        ValueError: If patches do not tile the image, or for another pool.

    Example:
        >>> import torch
        >>> vit_small(32, patch_size=8)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 384])
    """
    return _vit(image_size, patch_size, in_channels, pool, width=384, depth=12, heads=6)


def vit_tiny(
    image_size: int = 32, *, patch_size: int = 4, in_channels: int = 3, pool: Literal["token", "avg"] = "token"
) -> ImageEncoder:
    """ViT-Ti: width 192, 12 blocks of 3 heads, 5.4 M parameters. For arguments see :func:`vit_small`.

    Example:
        >>> import torch
        >>> vit_tiny(16)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 192])
    """
    return _vit(image_size, patch_size, in_channels, pool, width=192, depth=12, heads=3)


def _vit(
    image_size: int, patch_size: int, in_channels: int, pool: str, *, width: int, depth: int, heads: int
) -> ImageEncoder:
    if image_size % patch_size:
        raise ValueError(f"image_size={image_size} is no multiple of patch_size={patch_size}")
    if pool not in ("token", "avg"):
        raise ValueError(f"pool={pool!r}: expected 'token' or 'avg'")
    vision_transformer = require("timm.models.vision_transformer", extra="image")
    body = vision_transformer.VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=0,
        global_pool=pool,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
    )
    return ImageEncoder(body, width=width)


def _finished(body: Any, width: int, stem: str, norm: str) -> ImageEncoder:
    """A ResNet with the wished stem and norm."""
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem={stem!r}: expected 'imagenet' or 'cifar'")
    if norm not in ("batch", "gn_ws"):
        raise ValueError(f"norm={norm!r}: expected 'batch' or 'gn_ws'")
    if stem == "cifar":
        if not isinstance(body.conv1, nn.Conv2d):
            raise ValueError("stem='cifar' is for networks whose stem is one convolution; this one's is several")
        body.conv1 = _first_conv(body.conv1.in_channels, kernel=3, stride=1)
        body.maxpool = nn.Identity()
    if norm == "gn_ws":
        to_gn_ws(body)
    return ImageEncoder(body, width=width)


def _first_conv(in_channels: int, *, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, 64, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
