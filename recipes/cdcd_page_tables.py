"""Tables of a text diffusion run's page: measures beside nonsense and real text, n-grams, likelihood, infilling, cost.

Metrics have the flat names of :mod:`byol_ext.metrics.text`, beside ``ar_nll`` and ``ngram_nll`` (nats a token under the
reference model and the n-gram model); ``<name>_low`` and ``<name>_high`` are the ends of an interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from byol_ext.training.report import Report
from recipes.cdcd_figures import SCORE_NAMES, TextRow


@dataclass(frozen=True)
class BitsRow:
    """A likelihood.

    Attributes:
        name: Such as ``bound, k = 1``, ``exact``, ``6-gram``.
        bits_per_char: Bits a character.
        standard_error: Of that; None where it is not an estimate.
        nats_per_token: Nats a token.
        exact: Whether it is the likelihood itself, not a bound on it.
    """

    name: str
    bits_per_char: float
    standard_error: float | None = None
    nats_per_token: float | None = None
    exact: bool = False


@dataclass(frozen=True)
class InfillRow:
    """Infilling with one share of the text given.

    Attributes:
        given: Share of the tokens that were given.
        metrics: ``exact_match`` (share of hidden tokens), ``cross_entropy`` (nats a hidden token), and the same of the
            n-gram infiller as ``exact_match_floor``, ``cross_entropy_floor``; intervals as ``_low``, ``_high``.
        count: Hidden tokens scored.
    """

    given: float
    metrics: Mapping[str, float]
    count: int | None = None


@dataclass(frozen=True)
class CostRow:
    """What sampling costs.

    Attributes:
        batch: Sequences at a time.
        steps: Steps of the sampler.
        evaluations: Network evaluations of a sequence.
        seconds_per_1k: Seconds for 1000 tokens.
    """

    batch: int
    steps: int
    evaluations: int
    seconds_per_1k: float


class _Measure(NamedTuple):
    """A row of the table of measures: flat name, what it is called, unit."""

    key: str
    name: str
    share: bool = False


_MEASURES = (
    *(_Measure(key, name) for key, name in SCORE_NAMES.items()),
    _Measure("entropy_pooled", "pooled entropy"),
    _Measure("entropy_sequence", "sequence entropy"),
    _Measure("rep4", "repeated 4-grams", share=True),
    _Measure("self_bleu", "self-BLEU", share=True),
    _Measure("copy_rate", "copying samples", share=True),
    _Measure("words/found", "real words", share=True),
    _Measure("words/found_long", "long real words", share=True),
)


def _number(measure: _Measure, metrics: Mapping[str, float], *, interval: bool) -> str | None:
    """The value, in percent if it is a share, with its interval where there is one; None where there is no value."""
    value, low, high = (metrics.get(measure.key + end, math.nan) for end in ("", "_low", "_high"))
    if not math.isfinite(value):
        return None
    factor, digits = (100.0, 1) if measure.share else (1.0, 2)
    text = f"{factor * value:.{digits}f}" + (" %" if measure.share else "")
    if interval and math.isfinite(low) and math.isfinite(high):
        text += f" [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"
    return text


def _measures(scorers: Mapping[str, str]) -> list[_Measure]:
    """Without the scores that nobody named here gave."""
    return [measure for measure in _MEASURES if measure.key not in SCORE_NAMES or measure.key in scorers]


def headline(texts: Sequence[TextRow], bits: Sequence[BitsRow], scorers: Mapping[str, str]) -> str:
    """One sentence: score, entropies, bits, each beside real text; empty if there is nothing to say."""
    model = next((row.metrics for row in texts if row.kind == "model"), {})
    real = next((row.metrics for row in texts if row.kind == "real"), {})
    parts: list[str] = []
    for measure in _measures(scorers):
        if measure.share:
            continue
        value, floor = (_number(measure, metrics, interval=False) for metrics in (model, real))
        if value is not None:
            parts.append(f"{measure.name} {value} nats" + (f" (real text {floor})" if floor is not None else ""))
    own = [row for row in bits if row.name not in scorers.values()]
    if own:
        last = own[-1]
        parts.append(f"{'' if last.exact else 'at most '}{last.bits_per_char:.2f} bits a character ({last.name})")
    return "; ".join(parts) + "." if parts else ""


def measures_section(report: Report, texts: Sequence[TextRow], scorers: Mapping[str, str]) -> None:
    """Measures in rows, sources of text in columns."""
    rows = []
    for measure in _measures(scorers):
        cells = {row.name: _number(measure, row.metrics, interval=row.kind == "model") for row in texts}
        if any(cell is not None for cell in cells.values()):
            rows.append({"": measure.name, **cells})
    if not rows:
        return
    counts = sorted({int(row.metrics["samples"]) for row in texts if "samples" in row.metrics})
    caption = "NLL and entropies in nats. Copying: with a span of the training text. Long words: 4 letters or more. "
    caption += "Brackets: 95 % bootstrap interval."
    caption += f" N = {' or '.join(map(str, counts))} samples of each." if counts else ""
    for key, scorer in scorers.items():
        caption += f" {SCORE_NAMES.get(key, key)}: scored by {scorer}."
    report.section("Beside nonsense and real text").text(
        "No number alone tells good text: each sampler of nonsense passes some of them as well as real text does. Good "
        "text agrees with real text in all of them."
    ).table(rows, caption=caption)


def ngrams_section(report: Report, texts: Sequence[TextRow]) -> None:
    """Divergences of n-gram histograms, and the floor that real text has from other real text."""
    orders = [n for n in range(1, 9) if any(f"js{n}" in row.metrics for row in texts)]
    if not orders:
        return
    rows: list[dict[str, object]] = [
        {"": row.name, **{f"{n}-grams": _three(row.metrics.get(f"js{n}")) for n in orders}}
        for row in texts
        if row.kind != "real" and f"js{orders[0]}" in row.metrics
    ]
    floor = next((row.metrics for row in texts if f"js{orders[0]}_floor" in row.metrics), {})
    if floor:
        rows.append({"": "floor: other real text", **{f"{n}-grams": _three(floor.get(f"js{n}_floor")) for n in orders}})
    report.section("n-grams").table(
        rows,
        caption="Jensen-Shannon divergence from held-out text, nats, at most 0.693; as many sequences in each row.",
    )


def _three(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:.3f}"


def bits_section(report: Report, bits: Sequence[BitsRow]) -> None:
    """Bits a character, and whether they are exact or a bound."""
    rows = [
        {
            "": row.name,
            "bits a character": f"{row.bits_per_char:.3f}"
            + (f" ± {row.standard_error:.3f}" if row.standard_error is not None else ""),
            "nats a token": row.nats_per_token,
            "kind": "exact" if row.exact else "an upper bound",
        }
        for row in bits
    ]
    report.section("Likelihood").table(
        rows, caption="Held-out text; ± one standard error. A bound of a model trained by cross-entropy is loose."
    )


def infill_section(report: Report, infill: Sequence[InfillRow]) -> None:
    """Exact matches and cross-entropy beside the n-gram infiller's, a row for each share that was given."""
    match, floor = _Measure("exact_match", "", share=True), _Measure("exact_match_floor", "", share=True)
    nats, nats_floor = _Measure("cross_entropy", ""), _Measure("cross_entropy_floor", "")
    rows = [
        {
            "given": f"{100 * row.given:.0f} %",
            "right": _number(match, row.metrics, interval=True),
            "right, n-grams": _number(floor, row.metrics, interval=False),
            "nats": _number(nats, row.metrics, interval=True),
            "nats, n-grams": _number(nats_floor, row.metrics, interval=False),
            "tokens": row.count,
        }
        for row in infill
    ]
    report.section("Infilling").table(
        rows,
        caption="Random tokens of held-out text are hidden. Right: share of them that is met exactly. Nats: "
        "cross-entropy of a hidden token. n-grams: an infiller that looks up both neighbourhoods in counts of the "
        "training text. Brackets: 95 % bootstrap interval.",
    )


def cost_section(report: Report, cost: Sequence[CostRow]) -> None:
    """Evaluations and time."""
    rows = [
        {
            "batch": row.batch,
            "steps": row.steps,
            "evaluations": row.evaluations,
            "seconds for 1000 tokens": f"{row.seconds_per_1k:.3g}",
        }
        for row in cost
    ]
    report.section("Cost of sampling").table(
        rows, caption="Network evaluations of a sequence, and time; see the protocol."
    )
