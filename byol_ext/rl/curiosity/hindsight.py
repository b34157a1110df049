"""BYOL-Hindsight: the world model of BYOL-Explore, told the luck of each step but nothing that it could have known.

A generator reads, in hindsight, what happened and writes ``z``; a reconstructor predicts the embedding from belief and
``z``; a critic estimates how much ``z`` says of belief and action, and the generator learns to bring that down. What
error is left can still be learned: noise pays nothing. Loss and reward of a (start, horizon) are the same number,
``rec / lam + inv``; everything around it is :class:`BYOLExplore`.

Gradients: ``rec`` trains generator, reconstructor, both recurrences and the encoder; ``inv`` trains the generator
(down) and the critic (up), and reaches neither beliefs nor encoder.

Legend: ``P`` observations, ``S`` starts, ``B`` environments, ``K`` horizon, ``N`` embedding, ``M`` belief, ``E`` action
embedding, ``Z`` width of ``z``; time-major.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from byol_ext.heads import mlp_head
from byol_ext.predictors import Ctx, Prediction
from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss, Reward
from byol_ext.rl.curiosity.invariance import (
    Bound,
    CosineCritic,
    Critic,
    Invariance,
    JointCritic,
    Negatives,
    PartsLinear,
    by_row,
)
from byol_ext.rl.curiosity.rewards import RewardNormaliser
from byol_ext.rl.curiosity.world_model import BYOLExplore, Head, MLPHead, OpenLoop, Windows, distance_to_unit, following
from byol_ext.rl.recurrent import Trunk
from byol_ext.rl.segment import Segment
from byol_ext.rng import sample_keys
from byol_ext.schedules import Schedule

CriticBelief = Literal["pre", "post"]
CriticForm = Literal["joint", "cosine"]
_PROBED_STARTS = 8


class Generator(nn.Module):
    """``z = G(c_{t,i-1}, emb(a_{t+i-1}), y_{t+i}, eps)``.

    Args:
        parts: Widths of belief, action embedding, target embedding and noise.
        hidden: Hidden widths.
        width: ``Z``.
        align: Windows of the rows that follow each start.
        squash: Whether a tanh bounds ``z``.
    """

    def __init__(
        self, parts: tuple[int, int, int, int], hidden: Sequence[int], width: int, align: Windows, *, squash: bool
    ) -> None:
        super().__init__()
        self.first = PartsLinear(parts, hidden[0])
        self.rest = mlp_head([*hidden, width], norm="none")
        if squash:
            self.rest.append(nn.Tanh())
        self.align = align

    def outcome(self, *, action_KSBE: Tensor, target_PBN: Tensor, noise_KSBD: Tensor, ctx: Ctx) -> Tensor:
        """What the first layer makes of action, outcome and noise ``[K, S, B, H]``; outcomes are read once a frame."""
        y_SBKH = self.align(self.first.part(2, target_PBN), ctx)[0]
        known = self.first.part(1, action_KSBE) + self.first.part(3, noise_KSBD)
        return known + rearrange(y_SBKH, "s b k h -> k s b h")

    def forward(self, before_KSBM: Tensor, outcome_KSBH: Tensor) -> Tensor:
        """``z [K, S, B, Z]``."""
        return by_row(self.rest, (self.first.part(0, before_KSBM) + outcome_KSBH).relu_())


class HindsightHead(Head):
    """Generator, reconstructor and the pressure for invariance.

    Args:
        generator: Writes ``z``.
        reconstructor: Predicts the embedding from ``[c_{t,i}; z]``.
        invariance: Keeps ``z`` free of what was known; ``None`` for none, and ``z`` then copies the outcome.
        critic_belief: Whether the critic sees the belief before (``pre``) or after (``post``) the action.
        noise_width: Width of ``eps``.
        seed: Of the noise; each draw is keyed by it and the step (or, for rewards, the count of rollouts).
        align: Windows of the rows that follow each start.
    """

    def __init__(
        self,
        generator: Generator,
        reconstructor: nn.Module,
        invariance: Invariance | None,
        *,
        critic_belief: CriticBelief,
        noise_width: int,
        seed: int,
        align: Windows,
    ) -> None:
        super().__init__()
        if critic_belief not in ("pre", "post"):
            raise ValueError(f"critic_belief={critic_belief!r} is not one of 'pre', 'post'")
        self.generator, self.reconstructor, self.invariance = generator, reconstructor, invariance
        self.critic_belief, self.noise_width, self.seed, self.align = critic_belief, noise_width, seed, align
        self.couples_samples = invariance is not None

    def forward(self, roll: OpenLoop, ctx: Ctx) -> Prediction:
        """See :class:`Head`; logs ``inv``, ``critic_accuracy`` and, in rewards, ``rec_shuffled``."""
        random = self._random(ctx.data["draw"], roll.start_SBM.device)
        before_KSBM, action_KSBE = roll.before_KSBM, roll.action_KSBE.detach()
        noise = torch.randn(*action_KSBE.shape[:3], self.noise_width, generator=random, device=action_KSBE.device)
        outcome = self.generator.outcome(
            action_KSBE=action_KSBE, target_PBN=ctx.data["target"], noise_KSBD=noise, ctx=ctx
        )
        z_KSBZ = self.generator(before_KSBM, outcome)
        inner: dict[str, Tensor] = {}
        if self.invariance is not None:
            # The same values from beliefs without gradient: invariance shapes the generator alone.
            severed = self.generator(before_KSBM.detach(), outcome) if torch.is_grad_enabled() else z_KSBZ
            inner["penalty"], inner["critic_accuracy"] = self.invariance(
                belief_KSBM=before_KSBM if self.critic_belief == "pre" else roll.after_KSBM,
                action_KSBE=action_KSBE,
                z_KSBZ=severed,
                valid_SBK=ctx.data["valid"],
                random=random,
            )
            inner["inv"] = inner["penalty"].detach().sum() / ctx.data["valid"].sum().clamp_min(1)
        if ctx.data["probe"]:
            inner["rec_shuffled"] = self._shuffled(roll.after_KSBM, z_KSBZ, ctx)
        return Prediction(self._reconstruct(roll.after_KSBM, z_KSBZ), {}, inner)

    def _reconstruct(self, after_KSBM: Tensor, z_KSBZ: Tensor) -> Tensor:
        return rearrange(by_row(self.reconstructor, torch.cat([after_KSBM, z_KSBZ], -1)), "k s b n -> s b k n")

    def _shuffled(self, after_KSBM: Tensor, z_KSBZ: Tensor, ctx: Ctx) -> Tensor:
        """Error with another environment's belief: near zero where ``z`` copies the outcome (spec 3.8)."""
        few = slice(None, None, max(1, after_KSBM.shape[1] // _PROBED_STARTS))
        q_SBKN = self._reconstruct(after_KSBM[:, few].roll(1, dims=2), z_KSBZ[:, few])
        valid_SBK = ctx.data["valid"][few] & ctx.data["valid"][few].roll(1, dims=1)
        error_SBK = distance_to_unit(q=q_SBKN, target=self.align(ctx.data["target"], ctx)[0][few])
        return (error_SBK * valid_SBK).sum() / valid_SBK.sum().clamp_min(1)

    def _random(self, draw: int, device: torch.device) -> torch.Generator:
        key = int(sample_keys(self.seed, draw, torch.zeros(1, dtype=torch.int64)))
        return torch.Generator(device).manual_seed(key)


def _critic(form: CriticForm, parts: tuple[int, int, int], hidden: Sequence[int], bound: Bound) -> Critic:
    if form == "joint":
        return JointCritic(parts, hidden, bound=bound)
    if form == "cosine":
        return CosineCritic(parts, hidden)
    raise ValueError(f"critic={form!r} is not one of 'cosine', 'joint', None")


class BYOLHindsight(Bonus):
    """Curiosity that is not caught by noise (Jarrett et al. 2023, arXiv 2211.10515).

    Defaults are those of exploration spec 3.7, second-hand. Unlike a step of :class:`BYOLExplore`, one of this depends
    on which environments share a minibatch: each is told from the others. There is one critic step a loss; give
    :meth:`critic_parameters` about three times the learning rate of the rest, or ``z`` outruns the critic: in the toy
    of spec 3.8 noise then pays a tenth of what it pays in BYOL-Explore, and at equal rates a fifth.

    With ``negatives="batch"`` the columns of a cell are its ``B - 1`` neighbours; ``batch_time`` has as many as asked,
    whatever ``B`` is. In the toy of spec 3.8 both did equally well with 16 environments (``batch`` is cheaper); with a
    single row of 64, more columns kept ``z`` cleaner. Below 8 environments ``batch_time`` is the only choice.

    Args:
        trunk: As in :class:`BYOLExplore`.
        horizon: ``K`` (8).
        hind_dim: Width of ``z`` (256); 0, with ``critic=None``, makes this :class:`BYOLExplore` bit for bit.
        eps_dim: Width of the noise that the generator reads (256).
        hidden: Hidden widths of generator and reconstructor (three of 512).
        lam: ``rec`` counts ``1 / lam`` (1).
        squash: Keep ``z`` within (-1, 1) by a tanh (ours: where it can grow, it runs away from the critic).
        critic: ``cosine`` of two MLPs, which is ours: cheap, and steady; ``joint``, one MLP on everything as in
            second-hand readings; ``None``, no invariance.
        critic_hidden: Hidden widths of the critic; default ``hidden``.
        critic_bound: Bound of the joint critic's scores: ``sigmoid`` in second-hand readings, ``tanh5`` or ``none``.
        critic_belief: ``post``: it sees the belief after the action (second-hand), ``pre``: before.
        critic_weight: Factor of the critic's own loss.
        critic_chunk: Pairs that it scores at once; bounds memory.
        negatives: ``batch`` or ``batch_time``, see above.
        n_neg: Columns of ``batch_time`` (64).
        seed: Of the noise; give each process its own.
        tau, start_stride, horizon_average, count_normalise, shares_recurrence, checkpoint_open_loop, normaliser: As in
            :class:`BYOLExplore`.

    Raises:
        ValueError: If a critic has no ``z`` to look at, or an option is unknown.

    Example:
        >>> from byol_ext.rl.encoders import mlp_encoder
        >>> trunk = Trunk(mlp_encoder((5, 5, 5)), actions=4, width=32)
        >>> bonus = BYOLHindsight(trunk, hind_dim=16, eps_dim=16, hidden=(64,))
        >>> critic = {id(p) for p in bonus.critic_parameters()}
        >>> rest = [p for p in bonus.parameters() if p.requires_grad and id(p) not in critic]
        >>> optimizer = torch.optim.Adam([{"params": rest}, {"params": bonus.critic_parameters(), "lr": 1e-3}], lr=1e-4)
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        horizon: int = 8,
        hind_dim: int = 256,
        eps_dim: int = 256,
        hidden: Sequence[int] = (512, 512, 512),
        lam: float = 1.0,
        squash: bool = True,
        critic: CriticForm | None = "cosine",
        critic_hidden: Sequence[int] | None = None,
        critic_bound: Bound = "tanh5",
        critic_belief: CriticBelief = "post",
        critic_weight: float = 1.0,
        critic_chunk: int = 2**18,
        negatives: Negatives = "batch",
        n_neg: int = 64,
        seed: int = 0,
        tau: float | Schedule = 0.99,
        start_stride: int = 1,
        horizon_average: bool = True,
        count_normalise: bool = False,
        shares_recurrence: bool = False,
        checkpoint_open_loop: bool = False,
        normaliser: RewardNormaliser | None = None,
    ) -> None:
        super().__init__()
        if hind_dim and not hidden:
            raise ValueError("hidden=() must name at least one width where there is a generator")
        if critic is not None and not hind_dim:
            raise ValueError(f"hind_dim=0 leaves the critic ({critic!r}) nothing to look at: give critic=None")
        belief, action, embedding = trunk.width, trunk.embed.width, trunk.encoder.width
        align = following(horizon, stride=start_stride)
        head: Head = MLPHead([belief, *hidden, embedding])
        if hind_dim:
            invariance = None
            if critic is not None:
                invariance = Invariance(
                    _critic(critic, (belief, action, hind_dim), critic_hidden or hidden, critic_bound),
                    negatives=negatives,
                    draws=n_neg,
                    weight=critic_weight,
                    chunk_pairs=critic_chunk,
                )
            head = HindsightHead(
                Generator((belief, action, embedding, eps_dim), hidden, hind_dim, align, squash=squash),
                mlp_head([belief + hind_dim, *hidden, embedding], norm="none"),
                invariance,
                critic_belief=critic_belief,
                noise_width=eps_dim,
                seed=seed,
                align=align,
            )
        self.explore = BYOLExplore(
            trunk,
            horizon=horizon,
            tau=tau,
            start_stride=start_stride,
            horizon_average=horizon_average,
            count_normalise=count_normalise,
            shares_recurrence=shares_recurrence,
            checkpoint_open_loop=checkpoint_open_loop,
            normaliser=normaliser,
            head=head,
            error_weight=1 / lam,
        )

    def critic_parameters(self) -> list[nn.Parameter]:
        """The critic's, for a parameter group (learning rate, Adam moments) of their own; empty without a critic."""
        head = self.explore.world_model.head
        if not isinstance(head, HindsightHead) or head.invariance is None:
            return []
        return list(head.invariance.parameters())

    def initial_memory(self, batch: int) -> dict[str, Tensor]:
        """See :meth:`BYOLExplore.initial_memory`."""
        return self.explore.initial_memory(batch)

    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """See :meth:`BYOLExplore.reward`; the noise is keyed by the seed and the count of rollouts, a buffer."""
        return self.explore.reward(segment, update=update)

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """World-model and critic loss; ``terms["loss"]`` counts ``inv`` as the generator does.

        The noise is keyed by the seed and ``step``.
        """
        return self.explore.loss(segment, step=step)

    def after_step(self, step: int) -> Mapping[str, float]:
        """Move the target encoder."""
        return self.explore.after_step(step)
