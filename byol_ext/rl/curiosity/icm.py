"""Intrinsic curiosity module (Pathak et al., arXiv 1705.05363).

Its reward is the error of a forward model in the features of an inverse model.

Legend: ``T`` transitions, ``B`` environments, ``N`` embedding width, ``A`` actions; time-major.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.losses.pair import full_precision
from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss, Reward
from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser
from byol_ext.rl.encoders import ObservationEncoder
from byol_ext.rl.segment import Segment

_CHUNK = 512
"""Observations that an encoder sees at once: bounds the memory of rollouts."""


class InverseModel(nn.Module):
    """Features that hold what the agent controls: ``p(a_t | phi_t, phi_{t+1})`` is learned from them.

    Args:
        encoder: ``phi``.
        actions: ``A``.
        hidden: Width of the hidden layer (256 in the published code).
    """

    def __init__(self, encoder: ObservationEncoder, actions: int, *, hidden: int = 256) -> None:
        super().__init__()
        self.encoder, self.actions = encoder, actions
        self.head = nn.Sequential(nn.Linear(2 * encoder.width, hidden), nn.ReLU(), nn.Linear(hidden, actions))

    def embed(self, segment: Segment) -> Tensor:
        """``phi`` of the observations around the segment's transitions, ``[T + 1, B, N]`` float32."""
        pieces = segment.obs[segment.context :].split(max(1, _CHUNK // segment.batch))
        return torch.cat([self.encoder(piece).float() for piece in pieces])

    def loss(self, phi: Tensor, segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the actions, a mean over all rows in which those that are not real count as 0.

        Args:
            phi: ``[T + 1, B, N]`` of :meth:`embed`.
            segment: Where the actions are read.

        Returns:
            The loss and, to log, the share of real transitions whose action is named.
        """
        real_TB, action_TB = segment.tail(segment.real), real_actions(segment)
        logits = self._logits(phi)
        loss_TB = F.cross_entropy(logits.flatten(0, 1), action_TB.flatten(), reduction="none").view_as(real_TB.float())
        named = (logits.argmax(-1) == action_TB) & real_TB
        accuracy = named.sum() / real_TB.sum().clamp_min(1)
        return torch.where(real_TB, loss_TB, 0.0).mean(), {"accuracy": accuracy}

    @full_precision
    def _logits(self, phi: Tensor) -> Tensor:
        return self.head(torch.cat([phi[:-1], phi[1:]], dim=-1))


def real_actions(segment: Segment) -> Tensor:
    """Actions ``[T, B]`` of the transitions, 0 where not real."""
    return torch.where(segment.tail(segment.real), segment.tail(segment.action), 0)


class ICM(Bonus):
    """``L = (1 - beta) L_inverse + beta L_forward``, and ``eta L_forward`` of each transition as reward.

    ``L_forward = |phi_hat(phi_t, a_t) - phi_{t+1}|^2 / 2`` shapes ``phi_t`` but stops at ``phi_{t+1}``.

    Args:
        inverse: Inverse model with the encoder.
        scale: What makes the error a reward; :class:`RewardNormaliser` or :class:`ForwardFilter`.
        beta: Weight of the forward loss (0.2; from memory of the paper).
        eta: Factor of the raw reward; a scale removes it.
        hidden: Width of the forward model's hidden layer (256 in the published code).

    Example:
        >>> from byol_ext.rl.encoders import mlp_encoder
        >>> icm = ICM(InverseModel(mlp_encoder((5, 5, 5)), actions=5), scale=RewardNormaliser())
    """

    def __init__(
        self,
        inverse: InverseModel,
        *,
        scale: ForwardFilter | RewardNormaliser,
        beta: float = 0.2,
        eta: float = 1.0,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        width = inverse.encoder.width
        self.inverse, self.scale, self.beta, self.eta = inverse, scale, beta, eta
        self.dynamics = nn.Sequential(nn.Linear(width + inverse.actions, hidden), nn.ReLU(), nn.Linear(hidden, width))

    @torch.no_grad()
    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """Half the squared error of the forward model, scaled."""
        real_TB = segment.tail(segment.real)
        error_TB = self._errors(self.inverse.embed(segment), real_actions(segment))
        raw_TB = torch.where(real_TB, self.eta * error_TB, 0.0)
        return Reward(self.scale(raw_TB, real_TB, update=update), raw_TB)

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """Inverse and forward loss, means over all rows."""
        phi = self.inverse.embed(segment)
        inverse, terms = self.inverse.loss(phi, segment)
        error_TB = self._errors(phi, real_actions(segment))
        forward = torch.where(segment.tail(segment.real), error_TB, 0.0).mean()
        terms |= {"inverse": inverse.detach(), "forward": forward.detach()}
        return BonusLoss((1 - self.beta) * inverse + self.beta * forward, terms)

    @full_precision
    def _errors(self, phi: Tensor, action_TB: Tensor) -> Tensor:
        """``|phi_hat - sg(phi_{t+1})|^2 / 2``, ``[T, B]``."""
        one_hot = F.one_hot(action_TB, self.inverse.actions).float()
        predicted = self.dynamics(torch.cat([phi[:-1], one_hot], dim=-1))
        return (predicted - phi[1:].detach()).square().sum(-1) / 2
