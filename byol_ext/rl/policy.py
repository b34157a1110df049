"""Actor-critic on a trunk: one step for the actor, a segment for the learner, the same numbers from both.

Legend: ``R`` rows of time, ``B`` environments, ``A`` actions, ``M`` recurrent width, ``W`` width of beliefs
(``M``, or the embedding's without recurrence); time-major.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from byol_ext.losses.pair import as_float
from byol_ext.rl.recurrent import Trunk

# The largest float32 below 1: what a uniform number that was rounded up to 1 is taken for.
_BELOW_ONE = 1 - 2.0**-24


class ActOutput(NamedTuple):
    """One step of the policy.

    Attributes:
        logits_BA: ``[B, A]`` float32.
        values: ``[B]`` float32 for each head.
        state_BM: Recurrent state after the step, in the dtype of the state before it.
    """

    logits_BA: Tensor
    values: dict[str, Tensor]
    state_BM: Tensor


class PolicyOutput(NamedTuple):
    """The policy over a segment.

    Attributes:
        logits_RBA: ``[R, B, A]`` float32.
        values: ``[R, B]`` float32 for each head.
        state_BM: Recurrent state after the last row.
    """

    logits_RBA: Tensor
    values: dict[str, Tensor]
    state_BM: Tensor


class ActorCritic(nn.Module):
    """A categorical policy and value heads on the beliefs of a :class:`~byol_ext.rl.recurrent.Trunk`.

    All heads are rows of one linear layer, initialised apart: orthogonal, gain 0.01 for the logits (a nearly uniform
    policy) and 1 for each value. They compute in float32, also under autocast, since a ratio of probabilities does not
    stand half precision.

    Args:
        trunk: Encoder and recurrence; the world model may hold the same one.
        actions: ``A``.
        heads: Names of the value functions.
        hidden: Width of RND's residual head between belief and outputs, ``h + relu(W h)`` with
            ``h = relu(W' belief)`` (448 in the authors' code); 0 for none.

    Example:
        >>> from byol_ext.rl.encoders import mlp_encoder
        >>> policy = ActorCritic(Trunk(mlp_encoder((4,)), 3, width=8), 3)
        >>> start = torch.full((2,), 3), torch.ones(2, dtype=torch.bool), policy.initial_state(2)
        >>> policy.act(torch.zeros(2, 4), *start).logits_BA.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        trunk: Trunk,
        actions: int,
        *,
        heads: Sequence[str] = ("extrinsic", "intrinsic"),
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.trunk, self.actions, self.heads = trunk, actions, tuple(heads)
        self.widen = _orthogonal(nn.Linear(trunk.width, hidden), 2**0.5) if hidden else None
        self.residual = _orthogonal(nn.Linear(hidden, hidden), 0.1) if hidden else None
        self.output = _orthogonal(nn.Linear(hidden or trunk.width, actions + len(self.heads)), 0.01)
        for row in range(actions, actions + len(self.heads)):
            nn.init.orthogonal_(self.output.weight.data[row : row + 1], 1.0)

    def initial_state(self, batch: int) -> Tensor:
        """Zeros ``[batch, M]``; ``[batch, 0]`` without recurrence."""
        return self.trunk.initial_state(batch)

    def act(self, obs: Tensor, prev_action_B: Tensor, first_B: Tensor, state_BM: Tensor) -> ActOutput:
        """One step, without a time dimension: what :meth:`forward` gives in that row, to 1e-5.

        No shape, sync or branch depends on data, so that a CUDA graph can record it. To compile it whole, make the
        first call under ``torch._dynamo.config.patch(allow_rnn=True)``; else the graph breaks at the GRU. Called in
        ``inference_mode``, copy the state into an ordinary tensor before it begins a segment that is learnt from.

        Args:
            obs: ``[B, ...]``.
            prev_action_B: ``[B]`` int64; ``A`` ("none") where an episode begins.
            first_B: ``[B]`` bool: the state is zeroed before the step.
            state_BM: ``[B, M]``.
        """
        trunk = self.trunk
        belief = trunk.encoder(obs)
        if trunk.core is not None:
            x = torch.cat([belief, trunk.embed(prev_action_B).to(belief.dtype)], dim=-1)
            state = (state_BM * ~first_B.unsqueeze(-1)).to(x.dtype)
            belief = torch.gru_cell(x, state, *trunk.core.gru.all_weights[0])
            state_BM = belief.to(state_BM.dtype)
        return ActOutput(*self._outputs(belief), state_BM)

    def forward(
        self,
        obs: Tensor,
        prev_action_RB: Tensor,
        first_RB: Tensor,
        state_BM: Tensor,
        *,
        beliefs: Tensor | None = None,
    ) -> PolicyOutput:
        """Logits and values of a segment, with gradient.

        Args:
            obs: ``[R, B, ...]``.
            prev_action_RB: ``[R, B]`` int64.
            first_RB: ``[R, B]`` bool.
            state_BM: State before row 0.
            beliefs: ``[R, B, W]`` that a world model has computed with this trunk; the trunk is not run again.
        """
        if beliefs is None:
            beliefs, state_BM = self.trunk(obs, prev_action_RB, first_RB, state_BM)
        elif self.trunk.core is not None:
            state_BM = beliefs[-1]
        return PolicyOutput(*self._outputs(beliefs), state_BM)

    def _outputs(self, belief: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        device = belief.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._outputs(belief)
        x = as_float(belief)
        if self.trunk.core is None:
            x = x.relu()  # an embedding is linear
        if self.widen is not None and self.residual is not None:
            x = self.widen(x).relu()
            x = x + self.residual(x).relu()
        out = self.output(x)
        values = out[..., self.actions :].unbind(-1)
        return out[..., : self.actions], dict(zip(self.heads, values, strict=True))


def sample_actions(logits_BA: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Draw actions by inverse transform, so that the caller's keyed uniform numbers decide them.

    The action is the first whose cumulated probability exceeds ``uniform``; one of probability 0 is never drawn.

    Args:
        logits_BA: ``[..., A]``.
        uniform_B: ``[...]`` in [0, 1).

    Returns:
        Actions ``[...]`` int64 and their log-probabilities ``[...]`` float32.

    Example:
        >>> logits = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(3, 3)
        >>> sample_actions(logits, torch.tensor([0.1, 0.4, 0.9]))[0]
        tensor([0, 1, 2])
    """
    log_prob = logits_BA.float().log_softmax(-1)
    cumulated = log_prob.exp().cumsum(-1)
    # Of the total as it was rounded, so that no number points past the last action.
    threshold = uniform_B.float().clamp(max=_BELOW_ONE).unsqueeze(-1) * cumulated[..., -1:]
    action = (cumulated <= threshold).sum(-1, keepdim=True)
    return action.squeeze(-1), log_prob.gather(-1, action).squeeze(-1)


def _orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
