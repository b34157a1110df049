"""How much a latent tells of what came before it: a contrastive estimate that one side raises and the other lowers.

``inv[m] = g(x_m, z_m) - log mean_n exp g(x_m, z_n)`` is, in the mean, a lower bound on the mutual information of ``x``
and ``z``, at most the log of the number of columns. The critic ``g`` maximises it, the generator of ``z`` minimises it.
Both happen in one backward pass: the critic stands between two gradient reversals, so that whoever minimises ``inv``
sends its plain gradient to ``z`` and the opposite one to the critic's parameters.

Legend: ``S`` starts, ``B`` environments, ``K`` horizon, ``M`` belief, ``E`` action embedding, ``Z`` width of ``z``,
``H`` features of the critic, ``C`` columns to tell the own ``z`` from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from byol_ext.heads import mlp_head
from byol_ext.losses.pair import as_float, full_precision

Bound = Literal["sigmoid", "tanh5", "none"]
Negatives = Literal["batch", "batch_time"]

_BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh5": lambda score: 5 * torch.tanh(score / 5),
    "none": lambda score: score,
}
LEAST_COLUMNS = 8
"""With fewer columns, the own one counted, a cell's estimate is set to zero (exploration spec 3.4)."""


class PartsLinear(nn.Linear):
    """A linear layer on a concatenation that is never made: ``W [a; b] = W_a a + W_b b``.

    A part that many rows share is multiplied once and broadcast.

    Args:
        parts: Widths of the parts.
        width: Output width.

    Example:
        >>> layer, a, b = PartsLinear((2, 3), 4), torch.randn(5, 2), torch.randn(5, 3)
        >>> torch.allclose(layer.part(0, a) + layer.part(1, b), layer(torch.cat([a, b], 1)), atol=1e-6)
        True
    """

    def __init__(self, parts: Sequence[int], width: int) -> None:
        super().__init__(sum(parts), width)
        self.parts = tuple(parts)

    def part(self, index: int, x: Tensor) -> Tensor:
        """What one part contributes; the first one brings the bias."""
        weight = self.weight.split(self.parts, dim=1)[index]
        return F.linear(x, weight, self.bias if index == 0 else None)


def by_row(net: nn.Module, x: Tensor) -> Tensor:
    """A network on rows ``[n, D]``, applied to ``[..., D]``.

    Flattened first: an in-place ReLU on the *view* that a linear layer returns for more dims costs the backward pass
    five copies of the layer.
    """
    return cast(Tensor, net(x.flatten(0, -2)).unflatten(0, x.shape[:-1]))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.scale * gradients[0], None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """``x`` whose gradient is multiplied by ``-scale`` on the way back.

    Example:
        >>> x = torch.ones(1, requires_grad=True)
        >>> reverse_gradient(x, 2.0).sum().backward()
        >>> x.grad
        tensor([-2.])
    """
    return cast(Tensor, _Reverse.apply(x, scale))


class Critic(nn.Module, ABC):
    """Scores of (belief, action) rows against ``z`` columns."""

    @abstractmethod
    def rows(self, belief: Tensor, action: Tensor) -> Tensor:
        """Features ``[..., H]`` of rows ``[..., M]``, ``[..., E]``."""

    @abstractmethod
    def columns(self, z: Tensor) -> Tensor:
        """Features ``[..., H]`` of columns ``[..., Z]``."""

    @abstractmethod
    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores ``[...]`` of features ``[..., H]`` that stand side by side."""

    @abstractmethod
    def table(self, rows_XBH: Tensor, columns_XCH: Tensor) -> Tensor:
        """Scores ``[..., B, C]`` of every row against every column."""


class JointCritic(Critic):
    """An MLP on ``[belief; action; z]``: general, but its hidden layers run once a *pair*.

    Its first layer is linear in row and column and runs once each.

    Args:
        parts: ``(M, E, Z)``.
        hidden: Hidden widths.
        bound: ``sigmoid`` (scores in 0..1, so at most about one nat), ``tanh5`` (within 5) or ``none``.
    """

    def __init__(self, parts: tuple[int, int, int], hidden: Sequence[int], *, bound: Bound = "tanh5") -> None:
        super().__init__()
        if bound not in _BOUNDS:
            raise ValueError(f"bound={bound!r} is not one of {sorted(_BOUNDS)}")
        self.bound = bound
        self.first = PartsLinear(parts, hidden[0])
        self.rest = mlp_head([*hidden, 1], norm="none")

    def rows(self, belief: Tensor, action: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return self.first.part(0, belief) + self.first.part(1, action)

    def columns(self, z: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return self.first.part(2, z)

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return _BOUNDS[self.bound](by_row(self.rest, (rows + columns).relu_()).squeeze(-1).float())

    def table(self, rows_XBH: Tensor, columns_XCH: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return self.pairs(rows_XBH.unsqueeze(-2), columns_XCH.unsqueeze(-3))


class CosineCritic(Critic):
    """The cosine of two MLPs, ``sharpness cos(f(belief, action), h(z))``: its layers run once a *row*, not once a pair.

    Bounded by its form: scale up what it may, it cannot saturate, which is how the bounded joint critic dies.

    Args:
        parts: ``(M, E, Z)``.
        hidden: Hidden widths; the features are as wide as the last.
        sharpness: Largest score.
    """

    def __init__(self, parts: tuple[int, int, int], hidden: Sequence[int], *, sharpness: float = 5.0) -> None:
        super().__init__()
        belief, action, z = parts
        self.of_row = mlp_head([belief + action, *hidden, hidden[-1]], norm="none")
        self.of_column = mlp_head([z, *hidden, hidden[-1]], norm="none")
        self.sharpness = sharpness

    def rows(self, belief: Tensor, action: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return as_float(by_row(self.of_row, torch.cat([belief, action], -1)))

    def columns(self, z: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return as_float(by_row(self.of_column, z))

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See :class:`Critic`."""
        return self.sharpness * (rows * columns).sum(-1) * _inverse_norm(rows) * _inverse_norm(columns)

    @full_precision
    def table(self, rows_XBH: Tensor, columns_XCH: Tensor) -> Tensor:
        """See :class:`Critic`."""
        norms_XBC = _inverse_norm(rows_XBH).unsqueeze(-1) * _inverse_norm(columns_XCH).unsqueeze(-2)
        return self.sharpness * (rows_XBH @ columns_XCH.mT) * norms_XBC


def _inverse_norm(x: Tensor) -> Tensor:
    """Applied to scores: dividing the features first costs three times as much in the backward pass."""
    return x.square().sum(-1).clamp_min(1e-12).rsqrt()


@full_precision
def contrast(*, own: Tensor, others: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """``own - log mean exp`` over the own score and the allowed others.

    Args:
        own: ``[...]``: score of each row with its own column.
        others: ``[..., C]``: scores with other columns.
        allowed: ``[..., C]`` bool: which of them exist and are another sequence's.

    Returns:
        Estimates ``[...]`` float32, zero with fewer than 8 columns; and whether the own score is the best.

    Example:
        >>> allowed = torch.ones(8, dtype=torch.bool)
        >>> round(contrast(own=torch.tensor(9.0), others=torch.zeros(8), allowed=allowed)[0].item(), 3)  # at most log 9
        2.196
    """
    own, others = own.float(), others.float()
    # Finite, so that rows without any column leave no NaN in the gradient.
    others = others.masked_fill(~allowed, torch.finfo(torch.float32).min / 2)
    count = 1 + allowed.sum(-1)
    estimate = own - torch.logaddexp(own, others.logsumexp(-1)) + count.log()
    return torch.where(count >= LEAST_COLUMNS, estimate, 0.0), own > others.amax(-1)


class Invariance(nn.Module):
    """The estimate for all (start, horizon) cells, and the critic.

    Negatives: ``batch`` takes the ``z`` of the other environments at the same (start, horizon), so each cell has ``B``
    columns; ``batch_time`` draws ``draws`` of them for each horizon over all valid starts and environments, and leaves
    out a row's own environment, whose frames are near-duplicates.

    Args:
        critic: Scores (belief, action) against ``z``.
        negatives: See above.
        draws: Columns of ``batch_time``, those of a row's own environment included.
        weight: Factor of the critic's own loss; it matters where a gradient norm is clipped over everything.
        chunk_pairs: Pairs scored at once; more are done in pieces, recomputed in the backward pass.

    Raises:
        ValueError: If an option is unknown or leaves too few columns.
    """

    def __init__(
        self,
        critic: Critic,
        *,
        negatives: Negatives = "batch",
        draws: int = 64,
        weight: float = 1.0,
        chunk_pairs: int = 2**18,
    ) -> None:
        super().__init__()
        if negatives not in ("batch", "batch_time"):
            raise ValueError(f"negatives={negatives!r} is not one of 'batch', 'batch_time'")
        if draws < LEAST_COLUMNS - 1:
            raise ValueError(f"draws={draws} leaves fewer than {LEAST_COLUMNS} columns, the own one counted")
        self.critic, self.negatives, self.draws = critic, negatives, draws
        self.weight, self.chunk_pairs = weight, chunk_pairs

    def forward(
        self, *, belief_KSBM: Tensor, action_KSBE: Tensor, z_KSBZ: Tensor, valid_SBK: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Estimate for each cell.

        Args:
            belief_KSBM: Beliefs; they get no gradient.
            action_KSBE: Action embeddings; nor they.
            z_KSBZ: Latents.
            valid_SBK: Which cells exist.
            random: Where ``batch_time`` draws from.

        Returns:
            ``inv [S, B, K]`` float32, zero where invalid; minimising it lowers it in ``z`` and raises it in the critic.
            And the share of valid cells whose own ``z`` scored best.

        Raises:
            ValueError: If there are too few environments for any cell to have the columns it needs.
        """
        valid_SKB = rearrange(valid_SBK, "s b k -> s k b")
        least = LEAST_COLUMNS if self.negatives == "batch" else 2
        if valid_SKB.shape[-1] < least:
            raise ValueError(
                f"negatives={self.negatives!r} needs at least {least} environments in a minibatch, got "
                f"{valid_SKB.shape[-1]}: take fewer minibatches or more environments; 'batch_time' does with 2"
            )
        rows = rearrange(self.critic.rows(belief_KSBM.detach(), action_KSBE.detach()), "k s b h -> s k b h")
        z_KSBZ = reverse_gradient(z_KSBZ, 1 / self.weight)
        columns = rearrange(self.critic.columns(z_KSBZ), "k s b h -> s k b h")
        if self.negatives == "batch":
            scores_SKBC = self._scores(rows, columns)
            own_SKB = scores_SKBC.diagonal(dim1=-2, dim2=-1)
            itself = torch.eye(scores_SKBC.shape[-1], dtype=torch.bool, device=scores_SKBC.device)
            allowed = valid_SKB.unsqueeze(-2) & ~itself
        else:
            drawn_KC = self._draw(valid_SKB, random)
            scores_SKBC = self._scores(rows, self._pick(columns, drawn_KC))
            own_SKB = self.critic.pairs(rows, columns)
            env_B = torch.arange(valid_SKB.shape[-1], device=drawn_KC.device)
            allowed = self._pick(valid_SKB.unsqueeze(-1), drawn_KC).mT
            allowed = (allowed & (drawn_KC.unsqueeze(1) % len(env_B) != env_B[:, None])).expand_as(scores_SKBC)
        inv_SKB, best_SKB = contrast(own=own_SKB, others=scores_SKBC, allowed=allowed)
        inv_SKB = reverse_gradient(torch.where(valid_SKB, inv_SKB, 0.0), self.weight)
        accuracy = (best_SKB & valid_SKB).sum() / valid_SKB.sum().clamp_min(1)
        return rearrange(inv_SKB, "s k b -> s b k"), accuracy

    def _scores(self, rows_SKBH: Tensor, columns_SKCH: Tensor) -> Tensor:
        """Table ``[S, K, B, C]``, by pieces of the starts."""
        _, horizon, batch, _ = rows_SKBH.shape
        step = max(1, self.chunk_pairs // (horizon * batch * columns_SKCH.shape[2]))
        if step >= len(rows_SKBH):
            return self.critic.table(rows_SKBH, columns_SKCH)
        table: Callable[..., Tensor] = self.critic.table
        if torch.is_grad_enabled():
            table = partial(checkpoint, table, use_reentrant=False)
        columns_SKCH = columns_SKCH.expand(len(rows_SKBH), -1, -1, -1)
        pieces = zip(rows_SKBH.split(step), columns_SKCH.split(step), strict=True)
        return torch.cat([table(rows, columns) for rows, columns in pieces])

    def _draw(self, valid_SKB: Tensor, random: torch.Generator) -> Tensor:
        """Places ``s * B + b`` ``[K, C]``, uniform over the valid ones of each horizon (all, if none is)."""
        weight_KX = rearrange(valid_SKB, "s k b -> k (s b)").float()
        weight_KX = torch.where(weight_KX.any(-1, keepdim=True), weight_KX, 1.0)
        return torch.multinomial(weight_KX, self.draws, replacement=True, generator=random)

    def _pick(self, x_SKBD: Tensor, drawn_KC: Tensor) -> Tensor:
        """The drawn columns ``[1, K, C, D]``."""
        x_KXD = rearrange(x_SKBD, "s k b d -> k (s b) d")
        return x_KXD.gather(1, drawn_KC.unsqueeze(-1).expand(-1, -1, x_KXD.shape[-1])).unsqueeze(0)
