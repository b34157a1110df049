"""Sequences to rows of numbers: a model's samples, real text and nonsense by the same judges, in equal numbers.

Legend: ``N`` sequences of a row, ``M`` held-out sequences, ``L`` positions, ``G`` generated positions, ``R`` resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from byol_ext.metrics.nonsense import nonsense_samples
from byol_ext.metrics.text import pooled_entropy, sequence_entropies, text_metrics, word_shares, word_vocabulary
from byol_ext.text.language_data import LanguageData, PackedSequences
from byol_ext.text.language_tokenizers import CharTokenizer
from recipes.cdcd_config import EvalConfig, SampleConfig
from recipes.cdcd_generate import Drawn, TextModel, draw_sequences, prompts
from recipes.cdcd_measures import with_interval
from recipes.cdcd_page import FrontierPoint, TextRow
from recipes.cdcd_reference import Judges, Scorer

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
HELD_OUT = "held-out text"
_LONG_WORD = 4  # letters, as in word_shares


@dataclass(frozen=True)
class Bench:
    """What turns sequences into a row of numbers, the same for every row.

    Attributes:
        data: The text.
        judges: Its judges.
        held_out_ML: Held-out sequences, shuffled; the first ``count`` are the row of real text and give the prompts,
            the others are what distances are taken from.
        count: Sequences of a row.
        generated_L: Which positions are generated.
        copy_length: Tokens of a span that counts as copied.
        seed: Of the shuffle, of nonsense and of the bootstrap.
    """

    data: LanguageData
    judges: Judges
    held_out_ML: Ids
    count: int
    generated_L: npt.NDArray[np.bool_]
    copy_length: int
    seed: int

    @property
    def real_NL(self) -> Ids:
        """The row of real text."""
        return self.held_out_ML[: self.count]

    def texts(self, ids_NL: Ids) -> list[str]:
        """Text of the generated positions."""
        return [self.data.tokenizer.decode(row) for row in ids_NL[:, self.generated_L].tolist()]

    def scores(self, ids_NL: Ids) -> dict[str, float]:
        """Nats a generated token under the judges, with intervals over samples, and the two entropies.

        Without a reference ``ar_nll`` is the n-gram model's too.
        """
        out = with_interval("ar_nll", self._nll(self.judges.first, ids_NL), seed=self.seed)
        out |= with_interval("ngram_nll", self._nll(self.judges.ngram, ids_NL), seed=self.seed)
        ids_NG = ids_NL[:, self.generated_L]
        return out | {
            "entropy_pooled": pooled_entropy(ids_NG),
            "entropy_sequence": float(sequence_entropies(ids_NG).mean()),
        }

    def row(self, ids_NL: Ids) -> dict[str, float]:
        """All numbers that say what sequences are like."""
        return (
            self.scores(ids_NL)
            | text_metrics(
                ids_NL[:, self.generated_L],
                held_out_ML=self.held_out_ML[self.count :, self.generated_L],
                training_T=self.data.train.tokens_N,
                copy_length=self.copy_length,
                seed=self.seed,
            )
            | self._words(self.texts(ids_NL))
        )

    def nonsense(self) -> dict[str, Ids]:
        """The samplers of nonsense, after the same prompts."""
        rows = nonsense_samples(self.data.train.tokens_N, self.real_NL, count=self.count, seed=self.seed)
        return {name: np.where(self.generated_L, ids_NL, self.real_NL) for name, ids_NL in rows.items()}

    def _nll(self, scorer: Scorer, ids_NL: Ids) -> Array:
        return np.asarray(scorer.nll(ids_NL)[:, self.generated_L].mean(axis=1))

    def _words(self, texts: Sequence[str]) -> dict[str, float]:
        """Shares of known words, with intervals over samples."""
        long_words = frozenset(word for word in word_vocabulary(texts, min_count=1) if len(word) >= _LONG_WORD)
        counts: dict[str, list[tuple[int, int]]] = {"words/found": [], "words/found_long": []}
        for text in texts:
            shares = word_shares([text], self.judges.words)
            total = round(shares["words/count"])
            total_long = round(word_shares([text], long_words)["words/found"] * total)
            counts["words/found"].append((round(shares["words/found"] * total), total))
            counts["words/found_long"].append((round(shares["words/found_long"] * total_long), total_long))
        out = word_shares(texts, self.judges.words)
        for name, pairs in counts.items():
            known_W = np.concatenate([np.arange(total) < found for found, total in pairs])
            text_W = np.repeat(np.arange(len(pairs)), [total for _, total in pairs])
            out |= with_interval(name, known_W, groups=text_W, seed=self.seed) if len(known_W) else {}
        return out


def make_bench(
    data: LanguageData, judges: Judges, held_out: PackedSequences, *, how: SampleConfig, config: EvalConfig
) -> Bench:
    """The bench of a text.

    Args:
        data: The text.
        judges: Its judges.
        held_out: Its held-out sequences.
        how: How many sequences of a row, and how much of each is a prompt.
        config: Seed, and which spans count as copied.

    Raises:
        ValueError: See :func:`check_rows`.
    """
    check_rows(held_out, how)
    # The order in which prompts() takes them.
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(config.seed)).numpy()
    generated_L = prompts(held_out, count=1, share=how.prompt, seed=config.seed)[1][0].numpy()
    copy_length = config.copy_length or (40 if isinstance(data.tokenizer, CharTokenizer) else 20)
    return Bench(
        data=data,
        judges=judges,
        held_out_ML=held_out.rows()[order],
        count=how.count,
        generated_L=generated_L,
        # A shorter sequence that is copied whole counts, too.
        copy_length=min(copy_length, int(generated_L.sum())),
        seed=config.seed,
    )


def check_rows(held_out: PackedSequences, how: SampleConfig) -> None:
    """Refuse sizes that the metrics of text cannot do with; call it before a training that ends with an evaluation.

    Args:
        held_out: Held-out sequences.
        how: How many sequences of a row, and how much of each is a prompt.

    Raises:
        ValueError: For a single sequence, fewer than four generated positions, or fewer held-out sequences than three
            for each sample: one to stand beside it, two for the distance and its floor.
    """
    generated = held_out.length - int(how.prompt * held_out.length)
    if how.count < 2 or generated < 4:
        raise ValueError(
            f"sample.count={how.count} with {generated} generated positions: expected at least 2 and 4, for self-BLEU"
        )
    if len(held_out) < 3 * how.count:
        raise ValueError(
            f"sample.count={how.count} samples are compared with three times as many held-out sequences, there are "
            f"{len(held_out)}: set sample.count to {len(held_out) // 3} or less, or data.validation_share higher"
        )


def text_rows(name: str, bench: Bench, ids_NL: Ids) -> list[TextRow]:
    """The model, the samplers of nonsense, and held-out text.

    Args:
        name: Of the model.
        bench: What makes the numbers.
        ids_NL: Its samples.
    """
    rows = [TextRow(name, "model", bench.row(ids_NL))]
    rows += [TextRow(name, "nonsense", bench.row(ids)) for name, ids in bench.nonsense().items()]
    return [*rows, TextRow(HELD_OUT, "real", bench.row(bench.real_NL))]


def frontier(
    model: TextModel, held_out: PackedSequences, bench: Bench, *, how: SampleConfig, config: EvalConfig, drawn: Drawn
) -> list[FrontierPoint]:
    """Score and entropy along sweeps of temperature, steps and guidance, at equal numbers of samples and one seed.

    Args:
        model: The model.
        held_out: Where prompts come from.
        bench: What makes the numbers.
        how: The setting that the sweeps vary.
        config: What is swept.
        drawn: Samples of ``how``, which serve where a sweep comes by it.

    Returns:
        One series after the other; empty for ``frontier_count`` 0.
    """
    if not config.frontier_count:
        return []
    known: dict[SampleConfig, dict[str, float]] = {}
    if config.frontier_count <= how.count:
        own = replace(how, count=config.frontier_count)
        known[own] = _point(bench, drawn.tokens_NL[: own.count], drawn.evaluations)
    points = []
    for series, label, setting in _settings(model.name, replace(how, count=config.frontier_count), config):
        if setting not in known:
            made = draw_sequences(model, held_out, how=setting, seed=bench.seed)
            known[setting] = _point(bench, made.tokens_NL, made.evaluations)
        points.append(FrontierPoint(series, label, known[setting]))
    return points


def _point(bench: Bench, tokens_NL: torch.Tensor, evaluations: int) -> dict[str, float]:
    return bench.scores(tokens_NL.numpy()) | {"evaluations": float(evaluations), "samples": float(len(tokens_NL))}


def _settings(model: str, how: SampleConfig, config: EvalConfig) -> Iterator[tuple[str, str, SampleConfig]]:
    """Series, label and setting of each point."""
    swept = how if model == "ar" else replace(how, steps=config.temperature_steps)
    for value in sorted(config.temperatures):
        if model == "cdcd":
            yield "score temperature", f"{value:g}", replace(swept, score_temperature=value)
        else:
            yield "softmax temperature", f"{value:g}", replace(swept, softmax_temperature=value)
    if model != "ar":
        for steps in sorted(config.steps):
            yield "steps", f"{steps}", replace(how, steps=steps)
    if model == "cdcd":
        for value in sorted(config.guidances):
            yield "guidance", f"{value:g}", replace(swept, guidance=value)


def nll_at_entropy(
    points: Sequence[FrontierPoint],
    target: float,
    *,
    entropy: str = "entropy_sequence",
    score: str = "ar_nll",
) -> float:
    """Score of a model at a given entropy, linear between the neighbouring points of one sweep: how models compare.

    Args:
        points: One series of :func:`frontier`.
        target: The entropy, such as that of held-out text.
        entropy: Its name.
        score: Name of the score.

    Returns:
        nan where the sweep does not reach so far.

    Raises:
        ValueError: If the points are of several series, or there are none.

    Example:
        >>> sweep = [FrontierPoint("T", str(i), {"ar_nll": 2.0 + i, "entropy_sequence": 1.0 + i}) for i in range(2)]
        >>> nll_at_entropy(sweep, 1.5), nll_at_entropy(sweep, 2.5)
        (2.5, nan)
    """
    if len({point.series for point in points}) != 1:
        raise ValueError(f"expected the points of one series, got {sorted({point.series for point in points})}")
    pairs = sorted((point.metrics[entropy], point.metrics[score]) for point in points)
    entropies, scores = zip(*pairs, strict=True)
    return float(np.interp(target, entropies, scores, left=np.nan, right=np.nan))
