"""Observation encoders: any leading dims, uint8 pictures or float vectors in, ``[..., N]`` out.

Legend: ``C, H, W`` channels, height, width; ``F`` features; ``N`` embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from byol_ext.rl.curiosity.rewards import RunningMeanStd


class InputStatistics(nn.Module):
    """Standardises each element of an observation: ``(x - mean) / std``, clipped.

    Frames of one room are nearly equal, so embeddings of raw pictures share a large part, and a world model that
    predicts that part alone already has a cosine near one: its embedding collapses. Standardised, they differ.

    What is observed counts from the next :meth:`refresh` on, so that a rollout is acted, rewarded and learned on with
    the same statistics. Buffers, so checkpoints hold them; taken over all processes.

    Args:
        shape: Shape of one observation.
        spread: ``std`` before anything is observed.
        clip: Bound of the result (5, as RND's input).

    Example:
        >>> statistics = InputStatistics((2,))
        >>> statistics.observe(torch.tensor([[1.0, 0.0], [3.0, 8.0]]))
        >>> statistics.refresh()
        >>> statistics(torch.tensor([3.0, 0.0])).tolist()
        [1.0, -1.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int], *, spread: float = 1.0, clip: float = 5.0) -> None:
        super().__init__()
        self.shape, self.clip = tuple(shape), clip
        self.running = RunningMeanStd(self.shape)
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("std", torch.full(self.shape, spread))

    def observe(self, obs: Tensor) -> None:
        """Fold in observations ``[..., *shape]``."""
        self.running.update(obs.reshape(-1, *self.shape))

    def refresh(self) -> None:
        """Take what was observed so far into use."""
        if float(self.running.count):
            self.mean.copy_(self.running.mean)
            self.std.copy_(self.running.std)

    def forward(self, obs: Tensor) -> Tensor:
        """``[..., *shape] -> [..., *shape]`` float32."""
        return ((obs.float() - self.mean) / self.std).clamp(-self.clip, self.clip)


class ObservationEncoder(nn.Module):
    """A network on single observations, applied over any leading dims.

    Args:
        net: ``[n, *shape] -> [n, N]``.
        shape: Shape of one observation.
        scale: Observations are multiplied by it (1/255 for uint8 pictures).
        standardise: Whether running statistics take the place of ``scale``; see :class:`InputStatistics`.
    """

    def __init__(
        self, net: nn.Module, shape: Sequence[int], *, scale: float = 1 / 255, standardise: bool = False
    ) -> None:
        super().__init__()
        self.net, self.shape, self.scale = net, tuple(shape), scale
        self.statistics = InputStatistics(self.shape, spread=1 / scale) if standardise else None
        with torch.no_grad():
            self.width = net(torch.zeros(1, *self.shape)).shape[-1]

    def forward(self, obs: Tensor) -> Tensor:
        """``[..., *shape] -> [..., N]``."""
        rows = len(self.shape)
        if tuple(obs.shape[-rows:]) != self.shape:
            raise ValueError(f"the encoder takes observations {self.shape}, got {tuple(obs.shape)}")
        flat = obs.reshape(-1, *self.shape)
        x = flat.float() * self.scale if self.statistics is None else self.statistics(flat)
        return self.net(x).reshape(*obs.shape[:-rows], self.width)


def mlp_encoder(
    shape: Sequence[int], hidden: Sequence[int] = (128, 64), *, scale: float = 1 / 255, standardise: bool = False
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
    return ObservationEncoder(nn.Sequential(*layers), shape, scale=scale, standardise=standardise)


def nature_cnn(
    shape: Sequence[int], width: int = 512, *, scale: float = 1 / 255, standardise: bool = False
) -> ObservationEncoder:
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
    net = _with_linear(convolutions, shape, width)
    return ObservationEncoder(net, shape, scale=scale, standardise=standardise)


def impala_cnn(
    shape: Sequence[int],
    width: int = 512,
    *,
    channels: Sequence[int] = (16, 32, 32),
    norm: Literal["group", "none"] = "group",
    scale: float = 1 / 255,
    standardise: bool = False,
) -> ObservationEncoder:
    """IMPALA's residual stack: sections of (3x3 convolution, max-pool of stride 2, two residual blocks), then linear.

    Args:
        shape: ``(C, H, W)``.
        width: ``N``.
        channels: Channels of the sections (from memory of the paper; a field, not a constant).
        norm: ``group``: GroupNorm of one group before each ReLU, as second-hand readings of BYOL-Explore have it.
        scale: Factor of the input.
        standardise: Whether running statistics take its place.
    """
    layers: list[nn.Module] = []
    previous = shape[0]
    for count in channels:
        layers += [nn.Conv2d(previous, count, 3, padding=1), nn.MaxPool2d(3, 2, 1)]
        layers += [_Residual(count, norm), _Residual(count, norm)]
        previous = count
    layers += [nn.ReLU(), nn.Flatten()]
    net = _with_linear(nn.Sequential(*layers), shape, width)
    return ObservationEncoder(net, shape, scale=scale, standardise=standardise)


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
