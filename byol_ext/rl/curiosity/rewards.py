"""From losses to intrinsic rewards: the sum a transition collects, running statistics, normalisation.

Statistics are float64 buffers, so checkpoints hold them and they do not drift; they are taken over real transitions
only, and over all processes where a process group is up.

Legend: ``T`` transitions, ``B`` environments, ``K`` horizon, ``S`` shape of one sample; time-major.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

_CHUNK = 256
"""Rows that statistics are summed of at once: float32 sums of so many squares of a uint8 are exact."""


def transition_sums(ell_TBK: Tensor, valid_TBK: Tensor) -> Tensor:
    """Uncertainty of each transition: the sum of all losses whose *target* is its next observation.

    ``u[t] = sum over p + q = t + 1 of valid[p, q] ell[p, q]``, an anti-diagonal over start ``p`` and horizon ``q`` in
    ``1..K``. The first ``K - 1`` transitions of a segment collect fewer terms; give the segment that much context.

    Args:
        ell_TBK: Loss of predicting ``o_{t+k}`` from ``b_t`` at ``[t, b, k - 1]``.
        valid_TBK: Whether that loss exists; what ``ell`` holds elsewhere, NaN included, does not matter.

    Returns:
        ``u_TB`` float32, where row ``t`` is the transition ``o_t -> o_{t+1}``.

    Example:
        >>> ell = torch.tensor([[[1.0, 10.0]], [[2.0, 20.0]]])  # T=2, B=1, K=2
        >>> transition_sums(ell, torch.tensor([[[True, True]], [[True, False]]])).tolist()
        [[1.0], [12.0]]
    """
    if ell_TBK.shape != valid_TBK.shape or ell_TBK.ndim != 3:
        raise ValueError(
            f"losses and their mask must both be [T, B, K], got {tuple(ell_TBK.shape)} and {tuple(valid_TBK.shape)}"
        )
    steps, batch, horizon = ell_TBK.shape
    existing_TBK = torch.where(valid_TBK, ell_TBK.float(), 0.0)
    u_TB = existing_TBK.new_zeros(steps, batch)
    for ahead in range(min(horizon, steps)):
        u_TB[ahead:] += existing_TBK[: steps - ahead, :, ahead]
    return u_TB


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes; the tensor itself where no process group is up."""
    if dist.is_available() and dist.is_initialized():
        x = x.clone()
        dist.all_reduce(x)
    return x


class RewardNormaliser(nn.Module):
    """Scale of the rewards by an exponential average, and prioritisation (exploration spec 2.4).

    With Adam's bias correction, one update a rollout: ``v = u / std(u)``, uncentred, then
    ``r = max(v - mean(v), 0)``: transitions that are less novel than average pay nothing.

    Args:
        decay: Of the averages a rollout (0.99; spec: second-hand).
        eps: Added to the variance (1e-8; spec: second-hand).
        prioritise: Whether to subtract the mean and clip; false returns ``v``.

    Example:
        >>> real_TB = torch.tensor([[True, True, False]])
        >>> RewardNormaliser()(torch.tensor([[10.0, 30.0, 99.0]]), real_TB).tolist()  # mean 20, std 10
        [[0.0, 1.0, 0.0]]
    """

    m1: Tensor
    m2: Tensor
    m: Tensor
    count: Tensor

    def __init__(self, decay: float = 0.99, eps: float = 1e-8, prioritise: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        self.decay, self.eps, self.prioritise = decay, eps, prioritise
        for name in ("m1", "m2", "m"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, u_TB: Tensor, real_TB: Tensor, *, update: bool = True) -> Tensor:
        """Intrinsic rewards of a rollout.

        Args:
            u_TB: Novelty of each transition.
            real_TB: Which rows are transitions; the others neither count nor pay.
            update: Whether to move the statistics first; all processes must agree.

        Returns:
            ``r_TB`` float32, zero where not real; all zero before the first update.
        """
        u_TB = torch.where(real_TB, u_TB, 0.0).double()
        if update:
            self._update(u_TB, real_TB)
        if not int(self.count):
            return torch.zeros_like(u_TB, dtype=torch.float32)
        v_TB = u_TB / self.sigma
        if self.prioritise:
            v_TB = (v_TB - self._corrected(self.m)).clamp_min(0)
        return torch.where(real_TB, v_TB, 0.0).float()

    @property
    def sigma(self) -> Tensor:
        """Standard deviation that the rewards are divided by, a float64 scalar; NaN before the first update."""
        variance = self._corrected(self.m2) - self._corrected(self.m1).square()
        return (variance.clamp_min(0) + self.eps).sqrt()

    def _update(self, u_TB: Tensor, real_TB: Tensor) -> None:
        sums = sum_over_processes(torch.stack([u_TB.sum(), u_TB.square().sum(), real_TB.sum().double()]))
        if not (float(sums[2]) and bool(sums.isfinite().all())):
            return  # a diverged model must not spoil the statistics that outlive it
        mean, square = sums[:2] / sums[2]
        self.count += 1
        self.m1.lerp_(mean, 1 - self.decay)
        self.m2.lerp_(square, 1 - self.decay)
        self.m.lerp_(mean / self.sigma, 1 - self.decay)

    def _corrected(self, average: Tensor) -> Tensor:
        return average / (1 - self.decay ** self.count.double())


class RunningMeanStd(nn.Module):
    """Mean and variance of everything seen, merged batch by batch (Chan's parallel formula), over all processes.

    The moments of a batch are float64 sums, exact for uint8; the variance of other samples loses its last digits only
    where their mean exceeds their standard deviation a millionfold.

    Args:
        shape: ``S``, shape of one sample; ``()`` for numbers.
        eps: Smallest standard deviation to divide by.

    Example:
        >>> stats = RunningMeanStd(())
        >>> stats.update(torch.tensor([1.0, 3.0]))
        >>> stats.update(torch.tensor([5.0]))
        >>> stats.mean.item(), round(stats.var.item(), 4)
        (3.0, 2.6667)
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int] = (), *, eps: float = 1e-4) -> None:
        super().__init__()
        self.shape, self.eps = tuple(shape), eps
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Fold in samples.

        Args:
            x: ``[n, *S]`` of any type; ``n`` may be 0 and may differ between processes. Samples that make a sum
                infinite or NaN are not folded in, together with their batch.

        Raises:
            ValueError: If the samples have another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"the statistics are of samples {self.shape}, got a batch {tuple(x.shape)}")
        sums, squares = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        for chunk in x.split(_CHUNK):
            wide = chunk.float() if chunk.dtype == torch.uint8 else chunk.double()
            sums += wide.sum(0)
            squares += wide.square().sum(0)
        total = sum_over_processes(torch.cat([sums.flatten(), squares.flatten(), self.count.new_tensor([len(x)])]))
        added = total[-1]
        if not (float(added) and bool(total.isfinite().all())):
            return
        sums, squares = total[:-1].view(2, *self.shape)
        delta = sums / added - self.mean
        count = self.count + added
        spread = self.var * self.count + (squares - sums.square() / added).clamp_min(0)
        self.var.copy_((spread + delta.square() * (self.count * added / count)) / count)
        self.mean += delta * (added / count)
        self.count.copy_(count)

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[*S]`` float32, at least ``eps``; 1 before the first update."""
        return self.var.sqrt().float().clamp_min(self.eps)

    def normalise(self, x: Tensor, *, clip: float = float("inf")) -> Tensor:
        """``(x - mean) / std`` in float32, clipped to ``[-clip, clip]``.

        Args:
            x: ``[..., *S]``.
            clip: Bound.
        """
        return ((x.float() - self.mean.float()) / self.std).clamp(-clip, clip)


class ForwardFilter(nn.Module):
    """RND's reward scale: the running standard deviation of a discounted sum of past rewards, per environment.

    ``f <- gamma f + r`` over **time** (not over environments), ``r / std(f)``; neither centred nor clipped, and not
    reset between episodes, as in openai/random-network-distillation.

    Args:
        num_envs: ``B``.
        gamma: Discount of the intrinsic return (0.99 there).

    Example:
        >>> ForwardFilter(num_envs=1, gamma=0.5)(torch.tensor([[1.0], [0.5]]), torch.ones(2, 1, dtype=torch.bool)).shape
        torch.Size([2, 1])
    """

    filtered: Tensor
    process_local = ("filtered",)

    def __init__(self, num_envs: int, *, gamma: float = 0.99) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("filtered", torch.zeros(num_envs, dtype=torch.float64))
        self.stats = RunningMeanStd((), eps=1e-8)

    @torch.no_grad()
    def forward(self, r_TB: Tensor, real_TB: Tensor, *, update: bool = True) -> Tensor:
        """Rewards divided by the running standard deviation.

        Args:
            r_TB: Rewards of consecutive transitions.
            real_TB: Which rows are transitions; the filter stands still at the others.
            update: Whether to move filter and statistics first; false for other environments (any ``B``).

        Returns:
            ``[T, B]`` float32, zero where not real.

        Raises:
            ValueError: If the filter moves and ``B`` is not ``num_envs``.
        """
        if update:
            self._update(r_TB, real_TB)
        return torch.where(real_TB, r_TB.float() / self.stats.std, 0.0)

    def _update(self, r_TB: Tensor, real_TB: Tensor) -> None:
        if r_TB.shape[1:] != self.filtered.shape:
            raise ValueError(
                f"the filter was made for num_envs={len(self.filtered)}, got rewards {tuple(r_TB.shape)}; they must be "
                "[T, num_envs]"
            )
        finite_TB = real_TB & r_TB.isfinite()
        rewards_TB = r_TB.double()
        filtered_TB = torch.empty_like(rewards_TB)
        for t in range(len(r_TB)):
            moved_B = self.gamma * self.filtered + rewards_TB[t]
            self.filtered.copy_(torch.where(finite_TB[t], moved_B, self.filtered))
            filtered_TB[t] = self.filtered
        self.stats.update(filtered_TB[finite_TB])
