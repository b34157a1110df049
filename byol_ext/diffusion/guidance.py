r"""From a network's token probabilities to the estimate of the clean embeddings that a sampler follows (CDCD 4.1, 4.3).

A posterior is called with ``(x_BLd, t_B, previous_BLd)``, where ``previous`` is its last estimate of the clean
embeddings (self-conditioning), zero at the first step. Classifier-free guidance acts on scores, hence on estimates:
``x0 = x0_u + gamma (x0_c - x0_u)``; on logits it would be another method.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width; ``x0`` expected clean embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from byol_ext.diffusion.categorical import nucleus
from byol_ext.diffusion.score_interpolation import ScoreInterpolator, SelfConditionedPosterior, TokenPosterior


def memoryless(posterior: TokenPosterior) -> SelfConditionedPosterior:
    """A posterior without self-conditioning in the form that samplers call."""
    return lambda x_BLd, t_B, previous_BLd: posterior(x_BLd, t_B)


class Memory(NamedTuple):
    """What the branches see of the step before.

    Attributes:
        conditional_BLd: ``previous`` of the conditional branch.
        unconditional_BLd: ``previous`` of the unconditional one.
    """

    conditional_BLd: Tensor
    unconditional_BLd: Tensor

    @classmethod
    def empty(cls, x_BLd: Tensor) -> Self:
        """Zeros: before the first step."""
        return cls(torch.zeros_like(x_BLd), torch.zeros_like(x_BLd))


class Estimate(NamedTuple):
    """What a sampler follows.

    Attributes:
        p_BLV: Token probabilities. With a guidance scale other than 1, ``p_u + gamma (p_c - p_u)`` held above zero and
            normalised again: ``x0`` is linear in it but for that.
        x0_BLd: Expected clean embeddings; guided ones may lie outside the embeddings' hull.
        memory: For the next step.
    """

    p_BLV: Tensor
    x0_BLd: Tensor
    memory: Memory


def sharpened(p_V: Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Probabilities of the logits divided by a temperature, cut to a nucleus; unchanged at 1 and 1.

    Args:
        p_V: Probabilities ``[..., V]``.
        temperature: Softmax temperature, positive.
        top_p: Mass of the nucleus, in (0, 1].

    Example:
        >>> sharpened(torch.tensor([0.25, 0.75]), temperature=0.5)
        tensor([0.1000, 0.9000])
    """
    if temperature != 1.0:
        p_V = (p_V.log() / temperature).softmax(-1)
    return nucleus(p_V, top_p)


@dataclass(frozen=True)
class Guidance:
    """Estimates of one or two branches.

    Args:
        scale: ``gamma``: 1 is the conditional branch alone and evaluates no other, 0 the unconditional one; above 1
            pushes towards the condition (the paper goes to 16).
        memory: What the unconditional branch sees as ``previous``: its ``own`` estimate (ours), ``zero`` (SED), or the
            conditional's (``shared``).
        softmax_temperature: Divides the logits of each branch (1).
        top_p: Nucleus of each branch (1).

    Raises:
        ValueError: If an argument lies outside its range.
    """

    scale: float = 1.0
    memory: Literal["own", "zero", "shared"] = "own"
    softmax_temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 0.0:
            raise ValueError(f"guidance scale={self.scale} must not be negative")
        if self.memory not in ("own", "zero", "shared"):
            raise ValueError(f"memory={self.memory!r} is not one of 'own', 'zero', 'shared'")
        if self.softmax_temperature <= 0.0:
            raise ValueError(f"softmax_temperature={self.softmax_temperature} must be positive")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]")

    @property
    def branches(self) -> int:
        """Network evaluations an estimate."""
        return 1 if self.scale == 1.0 else 2

    def estimate(
        self,
        conditional: SelfConditionedPosterior,
        unconditional: SelfConditionedPosterior | None,
        *,
        x_BLd: Tensor,
        t_B: Tensor,
        memory: Memory,
        interpolator: ScoreInterpolator,
    ) -> Estimate:
        """Evaluate the branches at one noise level.

        Args:
            conditional: The posterior given the condition.
            unconditional: The posterior with the condition dropped; needed unless ``scale`` is 1.
            x_BLd: Noisy embeddings.
            t_B: Their noise standard deviations.
            memory: Of the step before, :meth:`Memory.empty` at first.
            interpolator: Embeddings of the vocabulary.

        Raises:
            ValueError: If the unconditional branch is missing.
        """
        p_BLV = self._branch(conditional, x_BLd, t_B, memory.conditional_BLd)
        x0_BLd = interpolator.clean(p_BLV)
        if self.branches == 1:
            return Estimate(p_BLV, x0_BLd, Memory(x0_BLd, memory.unconditional_BLd))
        if unconditional is None:
            raise ValueError(f"a guidance scale of {self.scale} needs the unconditional posterior")
        free_BLV = self._branch(unconditional, x_BLd, t_B, memory.unconditional_BLd)
        free_x0_BLd = interpolator.clean(free_BLV)
        mixed_BLV = (free_BLV + self.scale * (p_BLV - free_BLV)).clamp(min=0.0)
        remembered = {"own": free_x0_BLd, "zero": torch.zeros_like(x0_BLd), "shared": x0_BLd}[self.memory]
        return Estimate(
            mixed_BLV / mixed_BLV.sum(-1, keepdim=True),
            free_x0_BLd + self.scale * (x0_BLd - free_x0_BLd),
            Memory(x0_BLd, remembered),
        )

    def _branch(self, posterior: SelfConditionedPosterior, x_BLd: Tensor, t_B: Tensor, previous_BLd: Tensor) -> Tensor:
        p_BLV = posterior(x_BLd, t_B, previous_BLd).to(x_BLd.dtype)
        return sharpened(p_BLV, temperature=self.softmax_temperature, top_p=self.top_p)
