"""Observation encoders: any leading dims, uint8 pictures or float vectors in, ``[..., N]`` out.

Legend: ``C, H, W`` channels, height, width; ``F`` features; ``N`` embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn


class ObservationEncoder(nn.Module):
    """A network on single observations, applied over any leading dims.

    Args:
        net: ``[n, *shape] -> [n, N]``.
        shape: Shape of one observation.
        scale: Observations are multiplied by it (1/255 for uint8 pictures).
    """

    def __init__(self, net: nn.Module, shape: Sequence[int], *, scale: float = 1 / 255) -> None:
        super().__init__()
        self.net, self.shape, self.scale = net, tuple(shape), scale
        with torch.no_grad():
            self.width = net(torch.zeros(1, *self.shape)).shape[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """``[..., *shape] -> [..., N]``."""
        rows = len(self.shape)
        if tuple(obs.shape[-rows:]) != self.shape:
            raise ValueError(f"the encoder takes observations {self.shape}, got {tuple(obs.shape)}")
        flat = obs.reshape(-1, *self.shape).float() * self.scale
        return self.net(flat).reshape(*obs.shape[:-rows], self.width)


def mlp_encoder(
    shape: Sequence[int], hidden: Sequence[int] = (128, 64), *, scale: float = 1 / 255
) -> ObservationEncoder:
    """MLP on flattened observations, for grids and vectors (exploration spec 7.2: 128-64).

    Example:
        >>> mlp_encoder((5, 5, 5))(torch.zeros(3, 2, 5, 5, 5, dtype=torch.uint8)).shape
        torch.Size([3, 2, 64])
    """
    sizes = [int(torch.Size(shape).numel()), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(sizes):
        layers += [_orthogonal(nn.Linear(a, b), 2**0.5), nn.ReLU()]
    return ObservationEncoder(nn.Sequential(*layers), shape, scale=scale)


def nature_cnn(shape: Sequence[int], width: int = 512, *, scale: float = 1 / 255) -> ObservationEncoder:
    """The convolutions of DQN (32x8/4, 64x4/2, 64x3/1) with ReLU, and a linear layer, for 84x84 pictures.

    The embedding is linear, as in BYOL-Explore: a ReLU would give all of them a large common part, and a world model
    that only predicts that part already has a cosine near one.
    """
    convolutions = nn.Sequential(
        _orthogonal(nn.Conv2d(shape[0], 32, 8, 4), 2**0.5),
        nn.ReLU(),
        _orthogonal(nn.Conv2d(32, 64, 4, 2), 2**0.5),
        nn.ReLU(),
        _orthogonal(nn.Conv2d(64, 64, 3, 1), 2**0.5),
        nn.ReLU(),
        nn.Flatten(),
    )
    return ObservationEncoder(_with_linear(convolutions, shape, width), shape, scale=scale)


def impala_cnn(
    shape: Sequence[int],
    width: int = 512,
    *,
    channels: Sequence[int] = (16, 32, 32),
    norm: Literal["group", "none"] = "group",
    scale: float = 1 / 255,
) -> ObservationEncoder:
    """IMPALA's residual stack: sections of (3x3 convolution, max-pool of stride 2, two residual blocks), then linear.

    Args:
        shape: ``(C, H, W)``.
        width: ``N``.
        channels: Channels of the sections (from memory of the paper; a field, not a constant).
        norm: ``group``: GroupNorm of one group before each ReLU, as second-hand readings of BYOL-Explore have it.
        scale: Factor of the input.
    """
    layers: list[nn.Module] = []
    previous = shape[0]
    for count in channels:
        layers += [nn.Conv2d(previous, count, 3, padding=1), nn.MaxPool2d(3, 2, 1)]
        layers += [_Residual(count, norm), _Residual(count, norm)]
        previous = count
    layers += [nn.ReLU(), nn.Flatten()]
    return ObservationEncoder(_with_linear(nn.Sequential(*layers), shape, width), shape, scale=scale)


class _Residual(nn.Module):
    def __init__(self, channels: int, norm: Literal["group", "none"]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(1, channels)] if norm == "group" else []
            layers += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def _with_linear(convolutions: nn.Sequential, shape: Sequence[int], width: int) -> nn.Sequential:
    with torch.no_grad():
        features = convolutions(torch.zeros(1, *shape)).shape[-1]
    return nn.Sequential(*convolutions, _orthogonal(nn.Linear(features, width), 2**0.5))


def _orthogonal(layer: nn.Module, gain: float) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
