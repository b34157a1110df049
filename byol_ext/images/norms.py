"""From BatchNorm to GroupNorm and weight standardisation, so that no image sees another one (arXiv 2010.10241).

Legend: ``N`` images, ``C`` channels, ``H, W`` height and width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class WSConv2d(nn.Conv2d):
    """Convolution with standardised weights: zero mean and variance ``1 / fan_in`` over each output channel's inputs.

    Recomputed each forward, with gradient, and a learned gain a channel; the convolution of
    :class:`byol_ext.heads.WSLinear`. Made by :func:`standardised`.
    """

    gain: nn.Parameter
    eps: float = 1e-6

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """``[N, C, H, W] -> [N, C', H', W']``."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.weight[0].numel() + self.eps)
        return self._conv_forward(input, weight * self.gain, self.bias)


def standardised(conv: nn.Conv2d, *, eps: float = 1e-6) -> WSConv2d:
    """A convolution of the same shape and weights that standardises them.

    Args:
        conv: The convolution.
        eps: Added to ``fan_in`` times the variance.

    Raises:
        ValueError: If an output channel has a single weight, which standardises to zero.
    """
    if conv.weight[0].numel() == 1:
        raise ValueError(f"{conv}: one weight an output channel cannot be standardised")
    made = WSConv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    made.weight, made.bias, made.eps = conv.weight, conv.bias, eps
    made.gain = nn.Parameter(torch.ones_like(conv.weight[:, :1, :1, :1]))
    return made


def to_gn_ws(module: nn.Module, *, groups: int = 16) -> nn.Module:
    """Turn every convolution of a network into :class:`WSConv2d` and every BatchNorm into GroupNorm, in place.

    Scales and shifts of the norms are kept, so a zero-initialised last scale of a residual block stays zero. Linear
    layers stay as they are; heads have their own switch, ``norm="gn_ws"``. Call it before an optimiser or a target copy
    is made.

    Args:
        module: A network with BatchNorm2d after its convolutions, such as a ResNet.
        groups: Groups of GroupNorm (16 in arXiv 2010.10241, recalled); lowered to a divisor of the channels.

    Returns:
        The same module.

    Raises:
        TypeError: For a convolution or norm of a class of its own, such as one with a fused activation.
        ValueError: If there is no BatchNorm2d to replace, or a convolution has one weight an output channel.

    Example:
        >>> net = to_gn_ws(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        >>> [type(layer).__name__ for layer in net]
        ['WSConv2d', 'GroupNorm', 'ReLU']
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        raise ValueError(f"{type(module).__name__} has no BatchNorm2d: norm='gn_ws' is for networks that have")
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                _refuse_own_forward(child, nn.BatchNorm2d)
                setattr(parent, name, _group_norm(child, groups))
            elif isinstance(child, nn.Conv2d) and not isinstance(child, WSConv2d):
                _refuse_own_forward(child, nn.Conv2d)
                setattr(parent, name, standardised(child))
    return module


def _refuse_own_forward(layer: nn.Module, kind: type[nn.Module]) -> None:
    if type(layer).forward is not kind.forward:
        raise TypeError(f"{type(layer).__name__} has a forward of its own, which the replacement would lose")


def _group_norm(norm: nn.BatchNorm2d, groups: int) -> nn.Module:
    made = nn.GroupNorm(math.gcd(groups, norm.num_features), norm.num_features, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        made.weight, made.bias = norm.weight, norm.bias
    return made
