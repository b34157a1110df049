"""What judges text: an independently trained autoregressive model, an n-gram model, gaps filled from both sides, words.

A judge never comes from the run that is judged. Scores of different judges are not comparable, and neither are those of
different tokens (spec cdcd 10.1): every judge here reads the judged model's own ids.

Legend: ``N`` sequences, ``L`` positions, ``V`` vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from byol_ext.diffusion.autoregressive import Autoregressive, token_nll
from byol_ext.diffusion.averaged import Averaged
from byol_ext.metrics.ngram_model import NGramInfiller, NGramModel
from byol_ext.metrics.text import word_vocabulary
from byol_ext.text.language_data import LanguageData
from byol_ext.text.markov import MarkovSource
from recipes.cdcd import Trained, load_run

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
_DECODE_AT_ONCE = 2**20


class Scorer(Protocol):
    """A fixed model of text, read from left to right."""

    @property
    def name(self) -> str:
        """What it is, in a phrase for tables; scores under one name are comparable."""
        ...

    def nll(self, ids_NL: Ids) -> Array:
        """Nats of each token given those before it in its row, ``[N, L]``."""
        ...


@dataclass(frozen=True)
class NGramScorer:
    """The interpolated n-gram model: always at hand, blind to whatever spans more tokens than its order.

    Args:
        model: Counts of the training text.
    """

    model: NGramModel

    @property
    def name(self) -> str:
        """Such as ``6-gram``."""
        return f"{self.model.order}-gram"

    def nll(self, ids_NL: Ids) -> Array:
        """See :class:`Scorer`."""
        return -self.model.log_prob(ids_NL)


@dataclass(frozen=True)
class SourceScorer:
    """The Markov source that made the text: no model can be closer.

    Args:
        source: The source.
    """

    source: MarkovSource
    name = "the Markov source itself"

    def nll(self, ids_NL: Ids) -> Array:
        """See :class:`Scorer`."""
        return -self.source.log_prob(ids_NL)


@dataclass(frozen=True)
class ReferenceScorer:
    """A trained autoregressive model.

    Args:
        model: The network, on its device.
        name: See :class:`Scorer`.
        batch: Sequences at once.
    """

    model: Autoregressive
    name: str
    batch: int = 256

    @torch.no_grad()
    def nll(self, ids_NL: Ids) -> Array:
        """See :class:`Scorer`."""
        device = self.model.output.weight.device
        parts = [token_nll(self.model, part.to(device)).double().cpu() for part in _batches(ids_NL, self.batch)]
        return np.asarray(torch.cat(parts).numpy())


@dataclass(frozen=True)
class Judges:
    """All judges of one text; make them once for all models that are compared on it.

    Attributes:
        reference: The neural judge, or the source; None without one.
        ngram: The second opinion.
        infiller: Floor of infilling.
        words: Words of the training text.
    """

    reference: Scorer | None
    ngram: Scorer
    infiller: NGramInfiller
    words: frozenset[str]

    @property
    def first(self) -> Scorer:
        """The judge whose score is called ``ar_nll``: the reference, or for want of one the n-gram model."""
        return self.reference if self.reference is not None else self.ngram


def open_judges(data: LanguageData, *, order: int, reference: Scorer | None = None) -> Judges:
    """Count the training text.

    Args:
        data: The text.
        order: Of the n-gram models; lowered until ``V ** order`` fits into 63 bits.
        reference: The first judge.

    Raises:
        ValueError: If the order is below 1.
    """
    size = data.tokenizer.vocab_size
    while order > 1 and size**order >= 2**63:
        order -= 1
    tokens = np.asarray(data.train.tokens_N, dtype=np.int64)
    return Judges(
        reference=reference,
        ngram=NGramScorer(NGramModel(tokens, order=order, vocab_size=size)),
        infiller=NGramInfiller(tokens, order=order, vocab_size=size),
        words=word_vocabulary(_texts(data)),
    )


def default_judges(trained: Trained, *, reference: Scorer | None = None) -> Judges:
    """The judges that a run's configuration names.

    Args:
        trained: The judged model with its text.
        reference: A scorer that is open already, in place of ``eval.reference``.

    Raises:
        FileNotFoundError: If the reference is no run.
        ValueError: If it cannot judge the model; see :func:`open_reference`.
    """
    config = trained.config
    if reference is None and config.eval.reference:
        reference = open_reference(config.eval.reference, trained=trained)
    if reference is None and config.data.text == "markov":
        reference = SourceScorer(MarkovSource(seed=config.data.markov_seed))
    return open_judges(trained.data, order=config.eval.ngram_order, reference=reference)


def open_reference(path: str | Path, *, trained: Trained) -> ReferenceScorer:
    """A run of ``--method ar`` as the judge of another run.

    Args:
        path: Its run directory.
        trained: The judged model with its text.

    Raises:
        FileNotFoundError: If it is no run with a checkpoint.
        ValueError: If it is not autoregressive, is the judged model itself, has seen other text or other ids, or was
            trained on shorter sequences.
    """
    path = Path(path)
    check_reference(path, trained.data)
    reference = load_run(path, data=trained.data)[0]
    model = reference.model
    if not isinstance(model, Averaged) or not isinstance(model.average, Autoregressive):
        raise ValueError(f"{path} is a run of method {reference.config.method!r}; a reference is one of --method ar")
    if _same_run(path, trained) or _same_weights(model, trained.model):
        raise ValueError(f"{path} is the judged model itself; train the reference independently, with another name")
    length = trained.config.data.length
    if reference.config.data.length < length:
        raise ValueError(
            f"{path} was trained on {reference.config.data.length} positions and has not learned what lies beyond; "
            f"the judged sequences have {length}. Train it with --data.length {length}"
        )
    count, config = sum(p.numel() for p in model.average.parameters()), reference.config
    name = f"AR {config.name}, {count / 1e6:.2g} M parameters, {config.train.steps} steps, seed {config.seed}"
    return ReferenceScorer(model.average, name)


def check_reference(path: Path, data: LanguageData) -> None:
    """Refuse a reference of another text, without opening it.

    Args:
        path: Its run directory.
        data: The text of the judged model.

    Raises:
        FileNotFoundError: If it is no run.
        ValueError: If text or tokens differ.
    """
    file = path / "data.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a run directory of cdcd: it has no data.json")
    recorded: dict[str, Any] = json.loads(file.read_text())
    facts = data.facts()
    for name in ("tokenizer_sha256", "train", "validation"):
        if recorded[name] != facts[name]:
            raise ValueError(
                f"{path} cannot judge this model: its {name} is {recorded[name]}, the model's is {facts[name]}. A "
                "reference shares tokens and split: train one with --method ar and the same --data options"
            )


def _same_run(path: Path, trained: Trained) -> bool:
    return path.resolve() == (Path(trained.config.root) / "cdcd" / trained.config.name).resolve()


def _same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have equal parameters, as a copied run has."""
    ours, theirs = list(a.parameters()), list(b.parameters())
    return len(ours) == len(theirs) and all(
        p.shape == q.shape and bool((p.cpu() == q.cpu()).all()) for p, q in zip(ours, theirs, strict=True)
    )


def _texts(data: LanguageData) -> Iterator[str]:
    """The training text in large pieces."""
    for start in range(0, len(data.train.tokens_N), _DECODE_AT_ONCE):
        yield data.tokenizer.decode(data.train.tokens_N[start : start + _DECODE_AT_ONCE].tolist())


def _batches(ids_NL: Ids, batch: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(ids_NL), batch):
        yield torch.from_numpy(np.asarray(ids_NL[start : start + batch], dtype=np.int64))
