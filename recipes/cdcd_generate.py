"""Sequences, likelihoods and marginals from the averaged weights of a trained text model, whatever its kind.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``N`` sequences of all batches.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from byol_ext.diffusion.autoregressive import Autoregressive
from byol_ext.diffusion.averaged import Averaged
from byol_ext.diffusion.mdlm import MDLM
from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.text.language_data import PackedSequences
from recipes.cdcd import Trained
from recipes.cdcd_adapters import AutoregressiveText, GaussianText, Generated, MaskedText, SimplexText
from recipes.cdcd_config import SampleConfig
from recipes.cdcd_film import Frame

__all__ = ["Drawn", "Frame", "Generated", "TextModel", "draw_sequences", "fill", "prompts", "text_model"]


class TextModel(Protocol):
    """A trained model, whatever its kind. Tensors are on its device; ``noised_BL`` is true where a token is wanted."""

    @property
    def name(self) -> str:
        """cdcd, simplex, mdlm or ar."""
        ...

    @property
    def exact(self) -> bool:
        """Whether :meth:`nats` of whole sequences is the likelihood itself and no bound."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        """Fill the noised positions.

        Args:
            tokens_BL: Tokens, read where given.
            noised_BL: Bool.
            how: Steps, sampler and knobs; ``count``, ``batch`` and ``prompt`` are not read here.
            generator: Source of noise.
            film: Frames wanted of the first sequence, evenly over the steps; fewer if there are fewer steps.

        Raises:
            ValueError: If ``how`` turns a knob that this kind of model does not have.
        """
        ...

    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Nats of the noised tokens given the others, ``[B]`` float64: an upper bound, or exact (:attr:`exact`).

        An autoregressive model sees only what stands to the left of a token; with given tokens further right its
        figure is one of that model, and no bound on the likelihood given both sides.

        Args:
            tokens_BL: Tokens.
            noised_BL: Bool; default: all.
            draws: Noise levels or masks that the bound is averaged over; not read where exact.
            passes: Extra passes at the same noise that feed self-conditioning; a model without it has one law
                whatever their number.
            generator: Source of noise.
        """
        ...

    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        """Log-probabilities ``[B, L, V]`` of each noised token given the given ones, from one evaluation.

        Diffusion sees pure noise at noised positions, mdlm its mask symbol. ar sees the tokens to the left, the true
        content of earlier blanks included, and nothing to the right (:func:`~.autoregressive.token_nll`).

        Args:
            tokens_BL: Tokens; only ar reads noised ones.
            noised_BL: Bool.
            generator: Source of noise.
        """
        ...


def text_model(trained: Trained) -> TextModel:
    """The face of a trained model's averaged weights.

    Raises:
        TypeError: If the model is of no known kind.
    """
    return face(trained.model)


def face(model: nn.Module) -> TextModel:
    """As :func:`text_model`, of the trainable itself.

    Raises:
        TypeError: If the model is of no known kind.
    """
    if isinstance(model, CDCD):
        return GaussianText(model)
    if isinstance(model, SimplexModel):
        return SimplexText(model)
    if isinstance(model, Averaged) and isinstance(model.average, Autoregressive):
        return AutoregressiveText(model.average)
    if isinstance(model, Averaged) and isinstance(model.average, MDLM):
        return MaskedText(model.average)
    raise TypeError(f"a {type(model).__name__} generates no text; expected CDCD, SimplexModel or Averaged")


class Drawn(NamedTuple):
    """What :func:`fill` made; tensors on the CPU.

    Attributes:
        tokens_NL: Tokens, given ones included.
        noised_NL: Bool, true where they were drawn.
        evaluations: Network evaluations of the sequence that needed most.
        seconds: Wall time.
        film: The first sequence's making.
    """

    tokens_NL: Tensor
    noised_NL: Tensor
    evaluations: int
    seconds: float
    film: list[Frame] | None


def draw_sequences(
    model: TextModel, held_out: PackedSequences, *, how: SampleConfig, seed: int, film: int = 0
) -> Drawn:
    """Draw ``how.count`` sequences of the length of the held-out ones.

    Args:
        model: The model.
        held_out: Where prompts come from.
        how: How to sample.
        seed: Of prompts and noise; the same prompts whatever the other knobs.
        film: Frames wanted of the first sequence.
    """
    tokens_NL, noised_NL = prompts(held_out, count=how.count, share=how.prompt, seed=seed)
    return fill(model, tokens_NL, noised_NL, how=how, seed=seed, film=film)


def fill(
    model: TextModel, tokens_NL: Tensor, noised_NL: Tensor, *, how: SampleConfig, seed: int, film: int = 0
) -> Drawn:
    """Fill the noised positions of any number of sequences, ``how.batch`` at a time.

    Args:
        model: The model.
        tokens_NL: Tokens, read where given, on any device.
        noised_NL: Bool.
        how: How to sample; count and prompt are not read.
        seed: Of the noise.
        film: Frames wanted of the first sequence.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    made, evaluations, shots = [], 0, None
    start = time.perf_counter()
    for first in range(0, len(tokens_NL), how.batch):
        rows = slice(first, first + how.batch)
        tokens_BL, noised_BL = tokens_NL[rows].to(model.device), noised_NL[rows].to(model.device)
        part = model.sample(tokens_BL, noised_BL, how=how, generator=generator, film=0 if first else film)
        made.append(part.tokens_BL.cpu())
        evaluations, shots = max(evaluations, part.evaluations), shots or part.film
    return Drawn(torch.cat(made), noised_NL, evaluations, time.perf_counter() - start, shots)


def prompts(held_out: PackedSequences, *, count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences of which the first tokens are given.

    Args:
        held_out: Held-out sequences; taken in a shuffled order, from the first again if there are too few.
        count: Sequences ``N``.
        share: Share of a sequence that is given, rounded down; 0 reads no text.
        seed: Of the order.

    Returns:
        ``tokens_NL``, zero where nothing is given, and ``noised_NL``.
    """
    given = int(share * held_out.length)
    tokens_NL = torch.zeros(count, held_out.length, dtype=torch.int64)
    noised_NL = (torch.arange(held_out.length) >= given).expand(count, -1)
    if given:
        order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed)).tolist()
        for row in range(count):
            tokens_NL[row, :given] = held_out[order[row % len(order)]]["tokens"][:given]
    return tokens_NL, noised_NL
