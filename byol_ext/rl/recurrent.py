"""Recurrence with episode resets, and the trunk that policy and world model may share.

Legend: ``T`` time, ``B`` environments, ``M`` recurrent width, ``E`` action embedding, ``N`` observation embedding.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from byol_ext.rl.encoders import ObservationEncoder


class ActionEmbedding(nn.Module):
    """A vector an action; the index ``actions`` stands for "none", the zero vector.

    Args:
        actions: Number of actions ``A``.
        width: ``E`` (32 in second-hand readings of BYOL-Explore).
        trainable: Whether it learns; fixed by default, as in those readings.
    """

    def __init__(self, actions: int, width: int = 32, *, trainable: bool = False) -> None:
        super().__init__()
        self.actions, self.width = actions, width
        weight = torch.cat([torch.randn(actions, width) / width**0.5, torch.zeros(1, width)])
        if trainable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def forward(self, action: Tensor) -> Tensor:
        """``[...] int64 -> [..., E]``."""
        weight = self.weight
        if isinstance(weight, nn.Parameter):
            return nn.functional.embedding(action, weight, padding_idx=self.actions)
        return weight[action]


class ResetGRU(nn.Module):
    """A GRU whose state is zeroed where an episode begins.

    The sequence is cut at the rows where any environment begins an episode and each piece runs in one call, so that a
    segment costs a few library calls instead of ``T``.

    Args:
        inputs: Width of the input.
        width: ``M``.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.gru = nn.GRU(inputs, width)

    def forward(self, x_TBI: Tensor, state_BM: Tensor, first_TB: Tensor) -> tuple[Tensor, Tensor]:
        """Run over time.

        Args:
            x_TBI: Inputs ``[T, B, I]``.
            state_BM: State before row 0.
            first_TB: Where the state is zeroed before the row is read.

        Returns:
            States after each row ``[T, B, M]`` and after the last ``[B, M]``.
        """
        cuts = first_TB.any(1).nonzero().flatten().tolist()
        bounds = sorted({0, *cuts, len(x_TBI)})
        pieces = []
        for start, end in pairwise(bounds):
            state_BM = state_BM * ~first_TB[start].unsqueeze(-1)
            states, last = self.gru(x_TBI[start:end], state_BM.unsqueeze(0).to(x_TBI.dtype))
            state_BM = last[0]
            pieces.append(states)
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)), state_BM


class Trunk(nn.Module):
    """Encoder, action embedding and closed-loop recurrence ``b_t = GRU([omega_t; emb(a_{t-1})], b_{t-1})``.

    Args:
        encoder: Observation encoder.
        actions: Number of actions.
        width: ``M``; 0 for a memoryless trunk whose belief is the embedding itself.
        action_width: ``E``.
        trainable_actions: Whether the action embedding learns.
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        actions: int,
        *,
        width: int = 256,
        action_width: int = 32,
        trainable_actions: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed = ActionEmbedding(actions, action_width, trainable=trainable_actions)
        self.core = ResetGRU(encoder.width + action_width, width) if width else None
        self.state_width = width
        self.width = width or encoder.width

    def initial_state(self, batch: int) -> Tensor:
        """Zeros ``[batch, M]``."""
        return torch.zeros(batch, self.state_width, device=self.embed.weight.device)

    def beliefs(
        self, omega_TBN: Tensor, prev_action_TB: Tensor, first_TB: Tensor, state_BM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Beliefs from embeddings: ``[T, B, M]``, and the state after the last row ``[B, M]``."""
        if self.core is None:
            return omega_TBN, state_BM
        x = torch.cat([omega_TBN, self.embed(prev_action_TB).to(omega_TBN.dtype)], dim=-1)
        return self.core(x, state_BM, first_TB)

    def forward(self, obs: Tensor, prev_action_TB: Tensor, first_TB: Tensor, state_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Beliefs from observations ``[T, B, ...]``."""
        return self.beliefs(self.encoder(obs), prev_action_TB, first_TB, state_BM)
