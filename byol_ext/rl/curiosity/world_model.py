"""BYOL-Explore on the core: a world model that predicts its own future embeddings, and is rewarded where it fails.

One branch (the trunk's encoder), its EMA as target, one predictor (the world model: closed-loop belief, open-loop
roll-out by actions alone, MLP head) and one edge ``obs -> obs`` whose targets are the next ``K`` embeddings. The
unreduced losses of that edge train encoder and dynamics and *are* the reward: that of a transition is the sum of all
losses whose target is its next observation.

Legend: ``R`` transitions of a segment with its context, ``P = R + 1`` observations, ``S`` starts (every ``stride``-th
of the ``R`` rows), ``T`` rewarded transitions, ``B`` environments, ``K`` horizon, ``N`` embedding width, ``M`` belief
width, ``E`` action embedding width; time-major.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from byol_ext import graph
from byol_ext.bootstrap import Bootstrap
from byol_ext.graph import Edge, Out
from byol_ext.heads import mlp_head
from byol_ext.losses.pair import as_float, full_precision, unit
from byol_ext.metrics import spectrum
from byol_ext.predictors import Ctx, Prediction, Predictor
from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss, Reward
from byol_ext.rl.curiosity.invariance import by_row
from byol_ext.rl.curiosity.rewards import RewardNormaliser, transition_sums
from byol_ext.rl.recurrent import Trunk
from byol_ext.rl.segment import Segment
from byol_ext.schedules import Schedule
from byol_ext.target import Branch, Target

_VIEW, _PREDICTOR = "obs", "world_model"
_RANK_ROWS = 256
Windows = Callable[[Tensor, Ctx], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class OpenLoop:
    """Beliefs of all starts, rolled out by actions alone.

    Attributes:
        start_SBM: ``c_{t,0} = b_t``.
        action_KSBE: Embedding of ``a_{t+i-1}`` for ``i = 1..K``.
        after_KSBM: ``c_{t,i}``, which has read that action.
    """

    start_SBM: Tensor
    action_KSBE: Tensor
    after_KSBM: Tensor

    @property
    def before_KSBM(self) -> Tensor:
        """``c_{t,i-1}``, which has not: a copy."""
        return torch.cat([self.start_SBM[None], self.after_KSBM[:-1]])


class Head(nn.Module, ABC):
    """From open-loop beliefs to predictions of the embeddings that follow."""

    couples_samples = False

    @abstractmethod
    def forward(self, roll: OpenLoop, ctx: Ctx) -> Prediction:
        """``q [S, B, K, N]``.

        ``inner["penalty"] [S, B, K]``, where given, is added to the losses; scalars in ``inner`` are logged.
        """


class MLPHead(Head):
    """BYOL-Explore's predictor ``c_{t,i} -> q``.

    Args:
        widths: Belief, hidden and embedding widths.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp_head(widths, norm="none")

    def forward(self, roll: OpenLoop, ctx: Ctx) -> Prediction:
        """``[K, S, B, M] -> [S, B, K, N]``."""
        return Prediction(rearrange(by_row(self.net, roll.after_KSBM), "k s b n -> s b k n"), {})


class WorldModel(Predictor):
    """Closed-loop beliefs, an open-loop GRU by actions only, and a head.

    All ``S * B`` starts advance together: the roll-out is one library call over ``K``.

    Args:
        trunk: Recurrence of the beliefs and action embedding.
        head: From open-loop beliefs to predictions.
        align: Windows of the ``K`` rows that follow each start.
        stride: Every ``stride``-th row is a start.
        recompute: Whether to recompute roll-out and head in the backward pass instead of keeping their activations.
    """

    def __init__(self, trunk: Trunk, head: Head, align: Windows, *, stride: int = 1, recompute: bool = False) -> None:
        super().__init__()
        self.trunk, self.head, self.align = trunk, head, align
        self.open_loop = nn.GRU(trunk.embed.width, trunk.width)
        self.stride, self.recompute = stride, recompute

    @property
    def couples_samples(self) -> bool:
        """Whether a row's prediction depends on the other environments."""
        return super().couples_samples or self.head.couples_samples

    def forward(self, z: Tensor, ctx: Ctx) -> Prediction:
        """Predict from embeddings ``z [P, B, N]``; ``inner["beliefs"] [P, B, M]`` are the closed-loop ones."""
        beliefs_PBM, _ = self.trunk.beliefs(z, ctx.data["prev_action"], ctx.data["first"], ctx.data["state"])
        unroll: Callable[..., Prediction] = self._unroll
        if self.recompute and torch.is_grad_enabled():
            unroll = partial(checkpoint, self._unroll, use_reentrant=False)
        prediction = unroll(beliefs_PBM[: -1 : self.stride], ctx)
        return prediction._replace(inner={**prediction.inner, "beliefs": beliefs_PBM})

    def _unroll(self, start_SBM: Tensor, ctx: Ctx) -> Prediction:
        # The action a_{t+i-1} is the one that led to o_{t+i}; where that is no transition the loss is masked.
        led_SBK = self.align(ctx.data["prev_action"].unsqueeze(-1), ctx)[0].squeeze(-1)
        action_KSBE = self.trunk.embed(rearrange(led_SBK, "s b k -> k s b")).to(start_SBM.dtype)
        after, _ = self.open_loop(action_KSBE.flatten(1, 2), start_SBM.flatten(0, 1)[None])
        return self.head(OpenLoop(start_SBM, action_KSBE, after.unflatten(1, start_SBM.shape[:2])), ctx)


def following(steps: int, *, stride: int = 1) -> Windows:
    """:func:`byol_ext.graph.horizon` for time-major rows: views of the ``K`` rows after each start.

    Args:
        steps: Horizon ``K``.
        stride: Every ``stride``-th row is a start; the last row starts nothing.

    Returns:
        ``(x [P, B, D], ctx) -> (windows [S, B, K, D], validity [S, B, K])``; ``ctx.data["ends"]`` is ``[B, P]``.
    """
    batch_major = graph.horizon(steps)

    def align(x_PBD: Tensor, ctx: Ctx) -> tuple[Tensor, Tensor]:
        windows_BPKD, valid_BPK = batch_major(x_PBD.transpose(0, 1), ctx)
        assert valid_BPK is not None
        return windows_BPKD.transpose(0, 1)[:-1:stride], valid_BPK.transpose(0, 1)[:-1:stride]

    return align


@full_precision
def distance_to_unit(*, q: Tensor, target: Tensor) -> Tensor:
    """``|q/|q| - t|^2 = 2 - 2 cos`` in [0, 4] for targets of norm one: BYOL's loss without a copy of either.

    Args:
        q: Predictions ``[..., N]``.
        target: Targets ``[..., N]`` of unit norm, possibly a view of overlapping windows.

    Returns:
        ``[...]`` float32.
    """
    q = as_float(q)
    inverse_norm = q.square().sum(-1).clamp_min(1e-12).rsqrt()
    return (2.0 - 2.0 * inverse_norm * (q * target).sum(-1)).clamp(0.0, 4.0)


class BYOLExplore(Bonus):
    """Curiosity by bootstrapped prediction (Guo et al. 2022, arXiv 2206.08332).

    ``loss`` is the mean over all starts, context included, of each start's mean over its own valid horizons, taken of
    the same unreduced elements as the reward. Defaults are those of exploration spec 2.8, most of them second-hand.

    Args:
        trunk: Encoder, action embedding and belief recurrence; a policy may share all of it, or its encoder, or none.
        horizon: ``K`` (8; spec: second-hand).
        predictor_hidden: Hidden widths of the head (one layer of 512; readings differ).
        tau: EMA decay of the target encoder (0.99; spec: second-hand), or a schedule of the step.
        start_stride: Roll out from every ``n``-th row only; rewards then collect fewer terms.
        horizon_average: Divide each start's loss by its number of valid horizons (spec 2.2).
        count_normalise: Scale a transition's reward to ``K`` terms where an episode's start left it fewer (spec 2.3;
            the paper does not).
        shares_recurrence: The policy runs the same trunk: beliefs start from ``segment.state`` and go back in
            ``BonusLoss.beliefs``. Otherwise they are carried in ``memory``.
        checkpoint_open_loop: Recompute the roll-out in the backward pass, for memory.
        normaliser: Scale and prioritisation of the reward; default as in spec 2.4.
        head: In place of the MLP of ``predictor_hidden``.
        error_weight: Factor of the prediction error in loss and reward.

    Example:
        >>> from byol_ext.rl.encoders import mlp_encoder
        >>> bonus = BYOLExplore(Trunk(mlp_encoder((5, 5, 5)), actions=4, width=32), horizon=4)
        >>> {name: tuple(x.shape) for name, x in bonus.initial_memory(3).items()}
        {'belief': (3, 32)}
    """

    rollouts: Tensor

    def __init__(
        self,
        trunk: Trunk,
        *,
        horizon: int = 8,
        predictor_hidden: Sequence[int] = (512,),
        tau: float | Schedule = 0.99,
        start_stride: int = 1,
        horizon_average: bool = True,
        count_normalise: bool = False,
        shares_recurrence: bool = False,
        checkpoint_open_loop: bool = False,
        normaliser: RewardNormaliser | None = None,
        head: Head | None = None,
        error_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if horizon < 1 or start_stride < 1:
            raise ValueError(f"horizon={horizon} and start_stride={start_stride} must be at least 1")
        head = head or MLPHead([trunk.width, *predictor_hidden, trunk.encoder.width])
        branches = {"encoder": Branch(trunk.encoder)}
        self.align = following(horizon, stride=start_stride)
        self.edge = Edge(_VIEW, _VIEW, _PREDICTOR, weight=error_weight, align=self._targets)
        self.model = Bootstrap(
            branches,
            {_VIEW: "encoder"},
            target=Target(branches, tau=tau, buffers="copy"),
            predictors={
                _PREDICTOR: WorldModel(trunk, head, self.align, stride=start_stride, recompute=checkpoint_open_loop)
            },
            plan=[self.edge],
            pair=distance_to_unit,
        )
        self.normaliser = normaliser or RewardNormaliser()
        self.horizon, self.start_stride, self.error_weight = horizon, start_stride, error_weight
        self.horizon_average, self.count_normalise = horizon_average, count_normalise
        self.shares_recurrence = shares_recurrence
        self.register_buffer("rollouts", torch.zeros((), dtype=torch.int64))

    @property
    def world_model(self) -> WorldModel:
        """The predictor of the graph's one edge."""
        return cast(WorldModel, self.model.predictors[_PREDICTOR])

    def initial_memory(self, batch: int) -> dict[str, Tensor]:
        """``belief [batch, M]``, unless the policy carries it."""
        return {} if self.shares_recurrence else {"belief": self.world_model.trunk.initial_state(batch)}

    @torch.no_grad()
    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """Normalised sums of the losses that reach each transition; see :class:`Bonus`."""
        ell_SBK, valid_SBK, out = self._losses(segment, draw=-1 - int(self.rollouts), probe=True)
        ell_RBK, valid_RBK = (self._every_row(x, len(segment.action)) for x in (ell_SBK, valid_SBK))
        novelty_RB = transition_sums(ell_RBK, valid_RBK)
        if self.count_normalise:
            count_RB = transition_sums(valid_RBK.float(), valid_RBK)
            novelty_RB = novelty_RB * self.horizon / count_RB.clamp_min(1)
        raw_TB = segment.tail(novelty_RB)
        scaled_TB = self.normaliser(raw_TB, segment.tail(segment.real), update=update)
        self.rollouts += update
        beliefs_PBM = out.inner[_VIEW, _PREDICTOR]["beliefs"]
        # The next segment begins at this one's row T, with the belief that row T - 1 left.
        state_BM = beliefs_PBM[segment.steps - 1, :, : self.world_model.trunk.state_width].float()
        memory = {} if self.shares_recurrence else {"belief": state_BM}
        terms = self._terms(ell_SBK, valid_SBK, out) | self._health(out)
        return Reward(scaled_TB, raw_TB, memory, terms)

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """World-model loss; see :class:`Bonus`."""
        ell_SBK, valid_SBK, out = self._losses(segment, draw=step, step=step)
        per_start_SB = ell_SBK.sum(-1)
        if self.horizon_average:
            per_start_SB = per_start_SB / valid_SBK.sum(-1).clamp_min(1)
        total = per_start_SB.mean()
        beliefs = out.inner[_VIEW, _PREDICTOR]["beliefs"] if self.shares_recurrence else None
        return BonusLoss(total, {"loss": total.detach(), **self._terms(ell_SBK, valid_SBK, out)}, beliefs)

    def after_step(self, step: int) -> Mapping[str, float]:
        """Move the target encoder."""
        return self.model.after_step(step)

    def _losses(self, segment: Segment, *, draw: int, step: int = 0, probe: bool = False) -> tuple[Tensor, Tensor, Out]:
        """Losses ``[S, B, K]``, zero where invalid; their validity; the core's result."""
        encoded = self.model.encode({_VIEW: segment.obs}, step)
        ends_RB = segment.first[1:] | ~segment.real
        target_PBN = unit(encoded.target[_VIEW])
        ends = {"ends": F.pad(ends_RB, (0, 0, 0, 1)).T}
        valid_SBK = self.align(target_PBN, Ctx(data=ends))[1]
        data = ends | {
            "prev_action": segment.prev_action,
            "first": segment.first,
            "state": segment.state if self.shares_recurrence else segment.memory["belief"],
            "target": target_PBN,
            "valid": valid_SBK,
            "draw": draw,
            "probe": probe,
        }
        out = self.model.objective(encoded, Ctx(data=data), step)
        ell_SBK = self.error_weight * out.elements[self.edge.name]
        penalty_SBK = out.inner[_VIEW, _PREDICTOR].get("penalty")
        if penalty_SBK is not None:
            ell_SBK = ell_SBK + penalty_SBK
        return ell_SBK, valid_SBK, out

    def _targets(self, y_PBN: Tensor, ctx: Ctx) -> tuple[Tensor, Tensor]:
        """The future target embeddings of each start, normalised once a frame and not once a window."""
        return self.align(unit(y_PBN), ctx)

    def _every_row(self, x_SBK: Tensor, rows: int) -> Tensor:
        """Starts as rows ``[R, B, K]``: zeros where a stride left a row out."""
        if self.start_stride == 1:
            return x_SBK
        x_RBK = x_SBK.new_zeros(rows, *x_SBK.shape[1:])
        x_RBK[:: self.start_stride] = x_SBK
        return x_RBK

    def _terms(self, ell_SBK: Tensor, valid_SBK: Tensor, out: Out) -> dict[str, Tensor]:
        """Mean loss by horizon, mean prediction error, and what the head reports."""
        count_K = valid_SBK.sum((0, 1))
        by_horizon_K = ell_SBK.detach().sum((0, 1)) / count_K.clamp_min(1)
        error = out.elements[self.edge.name].detach().sum() / count_K.sum().clamp_min(1)
        inner = {name: x for name, x in out.inner[_VIEW, _PREDICTOR].items() if x.ndim == 0}
        return {f"ell/k{k}": x for k, x in enumerate(by_horizon_K, 1)} | {"error": error} | inner

    def _health(self, out: Out) -> dict[str, Tensor]:
        """Is the target's embedding space used, and how far is it behind?"""
        rows_XN = out.target[_VIEW].y.flatten(0, 1)
        few_XN = rows_XN[:: max(1, len(rows_XN) // _RANK_ROWS)]
        finite = bool(few_XN.isfinite().all())
        online, target = self.model.branches, self.model.target
        assert target is not None
        assert target.ema is not None
        values = {
            "y/std_sqrt_n": spectrum.std_sqrt_d(few_XN) if finite else float("nan"),
            "y/rankme": spectrum.rankme(few_XN) if finite else float("nan"),
            "ema/distance": spectrum.ema_distance(online=online, target=target.ema.module),
        }
        return {name: torch.tensor(value) for name, value in values.items()}
