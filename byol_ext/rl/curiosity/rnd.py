"""Random network distillation (Burda et al., arXiv 1810.12894): novelty is the error of a predictor of random features.

The published code (openai/random-network-distillation) is followed, not its popular copies: the input is the newest
frame of the *next* observation, the reward filter runs over time, and the bonus is a mean of squares (exploration
spec 5.1).

Legend: ``T`` transitions, ``B`` environments, ``n`` rows of a batch, ``S`` shape of the networks' input, ``D``
features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from byol_ext.losses.gather import world
from byol_ext.losses.pair import full_precision
from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss, Reward
from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser, RunningMeanStd
from byol_ext.rl.segment import Segment
from byol_ext.rng import keyed_uniform, sample_keys

_CHUNK = 512
"""Observations a forward pass of :meth:`Distillation.errors`: bounds the memory that activations take."""


@dataclass(frozen=True)
class DistillationNetworks:
    """The two networks of RND.

    Attributes:
        target: ``[n, *S] -> [n, D]``; :class:`Distillation` freezes it.
        predictor: ``[n, *S] -> [n, D]``.
        shape: ``S``.
    """

    target: nn.Module
    predictor: nn.Module
    shape: tuple[int, ...]


def conv_networks(shape: Sequence[int] = (1, 84, 84), width: int = 512) -> DistillationNetworks:
    """For pictures, as published.

    Three convolutions (32x8/4, 64x4/2, 64x3/1, LeakyReLU) and a linear layer; the predictor has two more layers of 512.
    Orthogonal weights of gain sqrt(2). Channels-last, which is a fifth faster on CPU.

    Args:
        shape: ``(C, H, W)`` of one frame.
        width: ``D``.

    Example:
        >>> networks = conv_networks((1, 84, 84))
        >>> networks.target(torch.zeros(2, 1, 84, 84)).shape, networks.predictor(torch.zeros(2, 1, 84, 84)).shape
        (torch.Size([2, 512]), torch.Size([2, 512]))
    """

    def convolutions() -> nn.Sequential:
        pieces = [nn.Conv2d(shape[0], 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
        layers = [layer for piece in pieces for layer in (_orthogonal(piece), nn.LeakyReLU(0.2))]
        return nn.Sequential(*layers, nn.Flatten())

    with torch.no_grad():
        features = convolutions()(torch.zeros(1, *shape)).shape[-1]
    target = nn.Sequential(*convolutions(), *_linears([features, width]))
    predictor = nn.Sequential(*convolutions(), *_linears([features, 512, 512, width]))
    return DistillationNetworks(_channels_last(target), _channels_last(predictor), tuple(shape))


def mlp_networks(shape: Sequence[int], hidden: Sequence[int] = (128,), width: int = 64) -> DistillationNetworks:
    """For grids and vectors: the target has the ``hidden`` layers, the predictor two more of the last one's width.

    Args:
        shape: ``S``, flattened.
        hidden: Widths of the hidden layers, at least one.
        width: ``D``.
    """
    sizes = [int(torch.Size(shape).numel()), *hidden]
    target = nn.Sequential(nn.Flatten(), *_linears([*sizes, width]))
    predictor = nn.Sequential(nn.Flatten(), *_linears([*sizes, hidden[-1], hidden[-1], width]))
    return DistillationNetworks(target, predictor, tuple(shape))


class Distillation(nn.Module):
    """The pair of networks with the normalisation of their input: what RND and NGU's lifelong term share.

    Inputs are ``(x - mean) / std`` clipped to ``[-5, 5]``. The statistics are seeded by :meth:`observe_random` with the
    observations of a random agent (128 * 50 steps as published); without it the first :meth:`update` seeds them.
    The networks run in float32 under autocast too, for the bonus is a small difference of large features.

    Args:
        networks: See :func:`conv_networks` and :func:`mlp_networks`.
        newest: Channels of a stack's newest frame, its last ones (1 for grey pictures); ``None`` for all channels.
        fraction: Share of the transitions that a loss is taken of (0.25 with 128 environments as published, 1 with 32).
        clip: Bound of the normalised input.
        seed: Of the draw of these transitions.

    Raises:
        ValueError: If ``fraction`` is not in (0, 1].
    """

    def __init__(
        self,
        networks: DistillationNetworks,
        *,
        newest: int | None = None,
        fraction: float = 0.25,
        clip: float = 5.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction={fraction} must be in (0, 1]")
        self.target, self.predictor = networks.target.requires_grad_(False), networks.predictor
        self.stats = RunningMeanStd(networks.shape)
        self.newest, self.fraction, self.clip, self.seed = newest, fraction, clip, seed

    def observe_random(self, obs: Tensor) -> None:
        """Fold a random agent's observations ``[..., *observation]`` into the input's statistics."""
        self.stats.update(self._frames(obs))

    def update(self, segment: Segment) -> None:
        """Fold in the next observations of a rollout's real transitions."""
        next_TBS = self._next(segment)
        self.stats.update(next_TBS[segment.tail(segment.real)])

    @torch.no_grad()
    def errors(self, segment: Segment) -> Tensor:
        """Mean squared difference of the features of each next observation, ``[T, B]``; arbitrary where not real."""
        next_TBS = self._next(segment)
        errors = [self._error(self.stats.normalise(x, clip=self.clip)) for x in next_TBS.flatten(0, 1).split(_CHUNK)]
        return torch.cat(errors).view(next_TBS.shape[:2])

    def loss(self, segment: Segment, *, step: int = 0) -> Tensor:
        """Mean error of the drawn transitions, those that are not real counting as 0.

        Each environment's draw is keyed by (seed, step, environment): it depends on neither minibatch nor rank.

        Args:
            segment: A minibatch; ``memory["environment"]`` of :func:`environment_ids` names its environments (their
                position does where it is absent).
            step: Index of the optimiser step.
        """
        next_TBS, real_TB = self._next(segment), segment.tail(segment.real)
        drawn = self._draw(segment, step)
        if drawn is not None:
            column_B = torch.arange(segment.batch, device=drawn.device)
            next_TBS, real_TB = next_TBS[drawn, column_B], real_TB[drawn, column_B]
        error = self._error(self.stats.normalise(next_TBS.flatten(0, 1), clip=self.clip))
        return torch.where(real_TB.flatten(), error, 0.0).mean()

    def _draw(self, segment: Segment, step: int) -> Tensor | None:
        """Rows ``[n, B]`` of the drawn transitions, or ``None`` for all."""
        if self.fraction == 1:
            return None
        environments = segment.memory.get("environment")
        if environments is None:
            environments = torch.arange(segment.batch, device=segment.real.device)
        order_BT = keyed_uniform(sample_keys(self.seed, step, environments), segment.steps)
        return order_BT.topk(max(1, round(self.fraction * segment.steps)), dim=1).indices.T

    def _next(self, segment: Segment) -> Tensor:
        """The network's raw input ``[T, B, *S]``."""
        frames = segment.obs[segment.context + 1 :]
        return self._frames(frames).view(*frames.shape[:2], *self.stats.shape)

    def _frames(self, obs: Tensor) -> Tensor:
        """``[..., *observation] -> [n, *S]``."""
        shape = self.stats.shape
        if self.newest is not None:
            obs = obs[..., -self.newest :, :, :]
        if tuple(obs.shape[-len(shape) :]) != shape:
            raise ValueError(
                f"the networks take {shape}, but with newest={self.newest} the observations {tuple(obs.shape)} give "
                f"{tuple(obs.shape[-len(shape) :])}; newest is the number of channels of a stack's newest frame"
            )
        return obs.reshape(-1, *shape)

    @full_precision
    def _error(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.target(x)
        return (self.predictor(x) - target).square().mean(-1)


def environment_ids(batch: int, device: torch.device | None = None) -> Tensor:
    """Index ``[batch]`` of each of this process's environments among those of all processes."""
    return torch.arange(batch, device=device) + world()[0] * batch


class RND(Bonus):
    """RND as an intrinsic reward.

    Args:
        distillation: The networks.
        scale: What makes the error a reward: :class:`ForwardFilter` as published, or :class:`RewardNormaliser`.

    Example:
        >>> rnd = RND(Distillation(mlp_networks((5, 5, 5))), scale=ForwardFilter(num_envs=16))
        >>> rnd.initial_memory(2)["environment"].tolist()
        [0, 1]
    """

    def __init__(self, distillation: Distillation, *, scale: ForwardFilter | RewardNormaliser) -> None:
        super().__init__()
        self.distillation, self.scale = distillation, scale

    def observe_random(self, obs: Tensor) -> None:
        """Seed the input's statistics, see :class:`Distillation`."""
        self.distillation.observe_random(obs)

    def initial_memory(self, batch: int) -> dict[str, Tensor]:
        """Names of the environments, by which :meth:`loss` draws transitions."""
        return {"environment": environment_ids(batch, self.distillation.stats.mean.device)}

    @torch.no_grad()
    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """Errors of the next observations; the input's statistics move first, so rewards and losses see the same."""
        if update:
            self.distillation.update(segment)
        real_TB = segment.tail(segment.real)
        raw_TB = torch.where(real_TB, self.distillation.errors(segment), 0.0)
        return Reward(self.scale(raw_TB, real_TB, update=update), raw_TB, memory=dict(segment.memory))

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """Mean error over a random share of the transitions."""
        total = self.distillation.loss(segment, step=step)
        return BonusLoss(total, {"error": total.detach()})


def _linears(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers with ReLU between them, not after the last."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [_orthogonal(nn.Linear(a, b)), nn.ReLU()]
    return layers[:-1]


def _channels_last(net: nn.Module) -> nn.Module:
    return net.to(memory_format=torch.channels_last)


def _orthogonal(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.orthogonal_(layer.weight, 2**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
