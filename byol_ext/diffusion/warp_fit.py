r"""Fitting a warp to cross-entropies seen in training (CDCD App. A).

The fit minimises ``mean_b w_b (H S(F(t_b)) - CE_b)^2`` with its own optimiser, where ``S`` is the wanted shape of the
cross-entropy over quantiles (the identity: linear) and ``w_b = 1 / F'(t_b)`` undoes that the warp itself chose the
``t_b``. What draws times is an exponential moving average of what is fitted.

Legend: ``B`` sequences, ``N`` bins of ``u``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from scipy.special import betainc, betaln
from torch import Tensor, nn

from byol_ext.diffusion.warp import PiecewiseLinearWarp
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp
from byol_ext.ema import EMA
from byol_ext.schedules import ema_warmup

LearnableWarp = PiecewiseLinearWarp | LogisticWarp | GumbelWarp
Shape = Callable[[Tensor], Tensor]


def linear_shape(u_B: Tensor) -> Tensor:
    """``S(u) = u``: the cross-entropy rises linearly (the paper's default)."""
    return u_B


class FittedWarp(nn.Module):
    """A warp that learns: itself a :class:`~byol_ext.diffusion.warp.Warp`, drawn from the moving average.

    Its parameters are frozen for everyone else (a model's optimiser, clipping and DDP pass over them). The state of
    the optimiser is part of ``state_dict``, so that a resumed run goes on as it would have. On several processes
    :meth:`fit` is a collective call: gradients are means over all rows.

    Args:
        warp: The warp to fit.
        lr: Learning rate of Adam (1e-2, ours; Plaid's reimplementation has the same).
        betas: Its betas ((0.9, 0.99), ours).
        decay: Decay of the average, reached from below as ``(1 + n) / (10 + n)`` (0.99, ours).
        max_weight: Largest importance weight (50, ours): one loss in the flat region would move the whole curve.
        shape: ``S``, differentiable, from [0, 1] onto [0, 1]; :func:`beta_shape` has the published ones.

    Raises:
        ValueError: If ``decay`` lies outside [0, 1] or ``max_weight`` is not positive.

    Example:
        >>> warp = FittedWarp(PiecewiseLinearWarp(1.0, 10.0))
        >>> t = warp.times(torch.linspace(0, 1, 8))
        >>> sorted(warp.fit(0, t_B=t, cross_entropy_B=torch.linspace(0, 2, 8)))
        ['warp/loss', 'warp/plateau']
    """

    def __init__(
        self,
        warp: LearnableWarp,
        *,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        decay: float = 0.99,
        max_weight: float = 50.0,
        shape: Shape = linear_shape,
    ) -> None:
        super().__init__()
        if max_weight <= 0.0:
            raise ValueError(f"max_weight={max_weight} must be positive")
        self.live = warp.requires_grad_(False)
        self.average = EMA(warp, ema_warmup(decay))
        self.max_weight, self.shape = max_weight, shape
        self.optimizer = torch.optim.Adam(self.live.parameters(), lr=lr, betas=betas)

    @property
    def t_min(self) -> float:
        """Smallest noise standard deviation."""
        return self.live.t_min

    @property
    def t_max(self) -> float:
        """Largest noise standard deviation."""
        return self.live.t_max

    @property
    def drawn(self) -> LearnableWarp:
        """The moving average."""
        warp = self.average.module
        assert isinstance(warp, LearnableWarp)
        return warp

    def times(self, u_B: Tensor) -> Tensor:
        """``F^-1`` of the average."""
        return self.drawn.times(u_B)

    def quantiles(self, t_B: Tensor) -> Tensor:
        """``F`` of the average."""
        return self.drawn.quantiles(t_B)

    def density(self, t_B: Tensor) -> Tensor:
        """``dF/dt'`` of the average."""
        return self.drawn.density(t_B)

    def cross_entropy(self, t_B: Tensor) -> Tensor:
        """The average's prediction of the cross-entropy, in nats.

        Args:
            t_B: Noise levels.
        """
        with torch.no_grad():
            cdf_B, plateau = self.drawn.curve(t_B)
            return (plateau * self.shape(cdf_B)).to(t_B.dtype)

    def fit(self, step: int, *, t_B: Tensor, cross_entropy_B: Tensor) -> dict[str, float]:
        """One step of the fit, then of the average.

        Args:
            step: Index of the optimiser step, from 0.
            t_B: Noise levels that :meth:`times` drew for this step; those of all micro-batches.
            cross_entropy_B: Mean cross-entropy over each sequence's noised positions, in nats.

        Returns:
            Weighted squared error and plateau, to log.
        """
        t_B, ce_B = t_B.detach(), cross_entropy_B.detach().double()
        weight_B = (1.0 / self.density(t_B).double()).clamp(max=self.max_weight)
        parameters = list(self.live.parameters())
        with torch.enable_grad():
            self.live.requires_grad_(True)
            cdf_B, plateau = self.live.curve(t_B)
            loss = (weight_B * (plateau * self.shape(cdf_B) - ce_B).square()).sum()
            gradients = torch.autograd.grad(loss, parameters)
            self.live.requires_grad_(False)
        sums = [*(gradient.double().flatten() for gradient in gradients), loss.detach()[None]]
        flat = torch.cat([*sums, loss.new_full((1,), len(t_B))])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(flat)
        *means, loss_mean = (flat[:-1] / flat[-1]).split([p.numel() for p in parameters] + [1])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(step)
        return {"warp/loss": loss_mean.item(), "warp/plateau": plateau.item()}

    def get_extra_state(self) -> dict[str, Any]:
        """State of the optimiser."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load the state of the optimiser."""
        self.optimizer.load_state_dict(state)


def beta_shape(alpha: float, beta: float) -> Shape:
    """CDF of a Beta distribution as the wanted shape; the best published is (0.5, 1.0) (CDCD 6.3).

    Raises:
        ValueError: If a parameter is not positive.

    Example:
        >>> beta_shape(0.5, 1.0)(torch.tensor([0.0, 0.25, 1.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    if alpha <= 0.0 or beta <= 0.0:
        raise ValueError(f"alpha={alpha} and beta={beta} must be positive")
    return lambda u_B: _BetaCDF.apply(u_B, alpha, beta)


class _BetaCDF(torch.autograd.Function):
    """SciPy's regularised incomplete beta function; torch has none."""

    @staticmethod
    def forward(ctx: Any, u_B: Tensor, alpha: float, beta: float) -> Tensor:
        ctx.save_for_backward(u_B)
        ctx.alpha, ctx.beta = alpha, beta
        value = betainc(alpha, beta, u_B.detach().double().clamp(0.0, 1.0).cpu().numpy())
        return torch.as_tensor(value).to(u_B)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (u_B,) = ctx.saved_tensors
        # The density may be infinite at an end, where the curve does not depend on the parameters anyway.
        u_B = u_B.double().clamp(1e-6, 1.0 - 1e-6)
        log_density_B = (ctx.alpha - 1.0) * u_B.log() + (ctx.beta - 1.0) * torch.log1p(-u_B)
        density_B = torch.exp(log_density_B - float(betaln(ctx.alpha, ctx.beta)))
        return (gradients[0] * density_B).to(gradients[0].dtype), None, None


@torch.no_grad()
def warp_health(*, u_B: Tensor, cross_entropy_B: Tensor, bins: int = 20, shape: Shape = linear_shape) -> float:
    """How far the cross-entropy is from its wanted shape: ``max |CE(F^-1(u)) - H S(u)| / H`` over bins of ``u``.

    ``H`` is the least-squares fit to the means of the bins. Use held-out sequences at a trained model's times.

    Args:
        u_B: Quantiles in [0, 1], at least one in each bin.
        cross_entropy_B: Cross-entropy of each, in nats.
        bins: Bins of equal size (20, spec 10.9).
        shape: ``S``.

    Raises:
        ValueError: If a bin is empty.

    Example:
        >>> u = torch.arange(200) / 200
        >>> round(warp_health(u_B=u, cross_entropy_B=3 * u), 6), round(warp_health(u_B=u, cross_entropy_B=u**2), 2)
        (0.0, 0.29)
    """
    bin_B = (u_B.double() * bins).long().clamp(0, bins - 1)
    count_N = torch.bincount(bin_B, minlength=bins).double()
    if (count_N == 0).any():
        raise ValueError(f"{int((count_N == 0).sum())} of {bins} bins of u hold no sequence; give more or fewer bins")
    seen_N = torch.bincount(bin_B, weights=cross_entropy_B.double(), minlength=bins) / count_N
    wanted_N = torch.bincount(bin_B, weights=shape(u_B.double()), minlength=bins) / count_N
    plateau = (seen_N * wanted_N).sum() / wanted_N.square().sum()
    return ((seen_N - plateau * wanted_N).abs().max() / plateau).item()
