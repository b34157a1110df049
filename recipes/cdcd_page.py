"""What a text diffusion run shows: ``page.html``, one file with the denoising film, plots, tables and samples.

:func:`write_page` draws what a :class:`PageData` holds; a part that is ``None`` or empty leaves its section out.

Legend: ``F`` frames, ``N`` samples, ``L`` positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from byol_ext.training.report import LEVELS, Look, Report, Span
from recipes.cdcd_figures import (
    SCORE_NAMES,
    FrontierPoint,
    TextRow,
    TrainingView,
    WarpView,
    cross_entropy_figure,
    frontier_figure,
    has,
    training_figure,
    training_view,
    warp_figure,
)
from recipes.cdcd_page_tables import (
    BitsRow,
    CostRow,
    InfillRow,
    bits_section,
    cost_section,
    headline,
    infill_section,
    measures_section,
    ngrams_section,
)

Array = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int64]

__all__ = [
    "BitsRow",
    "CostRow",
    "Film",
    "FrontierPoint",
    "InfillRow",
    "PageData",
    "Samples",
    "TextRow",
    "TrainingView",
    "WarpView",
    "write_page",
]


@dataclass(frozen=True)
class Film:
    """One sequence while it is drawn.

    Attributes:
        step_F: Number of the step, rising.
        t_F: Noise level or time, for MDLM the share that is hidden; nan where there is none.
        tokens_FL: The most probable token of each position.
        p_FL: Its probability.
        entropy_FL: Entropy of the prediction, nats.
        given_L: Which positions were given; default: none.
        note: Sampler, steps, seed.
    """

    step_F: npt.NDArray[np.int64]
    t_F: Array
    tokens_FL: Ids
    p_FL: Array
    entropy_FL: Array
    given_L: npt.NDArray[np.bool_] | None = None
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """Generated sequences to read.

    Attributes:
        tokens_NL: The first of the evaluated samples, not chosen ones; the page shows all that it is given, so 8 or so.
        copied_NL: :func:`byol_ext.metrics.text.copied_tokens` of them.
        copy_length: Shortest span that counts as copied, tokens.
        note: Sampler, steps, seed, of how many samples.
    """

    tokens_NL: Ids
    copied_NL: npt.NDArray[np.bool_] | None = None
    copy_length: int = 20
    note: str = ""


@dataclass(frozen=True)
class PageData:
    """Everything the page can show; what is missing leaves its section out.

    Attributes:
        title: Heading, such as ``CDCD on stdlib27``.
        subtitle: Run, parameters, updates, device, commit, date.
        pieces: Text of each id, ``tuple(tokenizer.decode([i]) for i in range(vocab_size))``; film and samples need it.
        scorers: ``ar_nll``, ``ngram_nll`` to what scores there, ``an AR model of 1.6 M parameters``; other scores are
            not shown.
        film: One sequence while it is drawn.
        samples: Generated sequences.
        texts: The model, nonsense, held-out text: one row each, in this order.
        frontier: The sweeps; nonsense and held-out text are taken from ``texts``.
        warp: The law of noise levels and the cross-entropy along it.
        training: Held-out loss while the model trained; default: read from the run's ``metrics.jsonl``.
        bits: Likelihoods; those with a scorer's name are that scorer's, the last of the others is the headline.
        infill: Infilling.
        cost: Cost of sampling.
        protocol: Name to value: how everything was measured.
    """

    title: str
    subtitle: str = ""
    pieces: Sequence[str] = ()
    scorers: Mapping[str, str] = field(default_factory=dict)
    film: Film | None = None
    samples: Samples | None = None
    texts: Sequence[TextRow] = ()
    frontier: Sequence[FrontierPoint] = ()
    warp: WarpView | None = None
    training: TrainingView | None = None
    bits: Sequence[BitsRow] = ()
    infill: Sequence[InfillRow] = ()
    cost: Sequence[CostRow] = ()
    protocol: Mapping[str, object] = field(default_factory=dict)


def write_page(run_path: str | Path, data: PageData) -> Path:
    """Draw the figures into the run's ``figures/`` and write its ``page.html``.

    Raises:
        ValueError: For a film or samples without the texts of their ids.
    """
    run_path = Path(run_path)
    if (data.film is not None or data.samples is not None) and not data.pieces:
        raise ValueError("film and samples need `pieces`, the text of each id")
    report = Report(data.title, subtitle=data.subtitle)
    if summary := headline(data.texts, data.bits, data.scorers):
        report.text(summary)
    if data.film is not None:
        _film(report, data.film, data.pieces)
    if data.samples is not None:
        _samples(report, data.samples, data.pieces)
    if data.texts:
        measures_section(report, data.texts, data.scorers)
        ngrams_section(report, data.texts)
    if data.frontier:
        _frontier(report, data, run_path / "figures")
    if data.bits:
        bits_section(report, data.bits)
    if data.infill:
        infill_section(report, data.infill)
    if data.warp is not None:
        _warp(report, data.warp, run_path / "figures")
    metrics = run_path / "metrics.jsonl"
    training = data.training or (training_view(metrics) if metrics.exists() else None)
    if training is not None:
        _training(report, training, run_path / "figures")
    if data.cost:
        cost_section(report, data.cost)
    if data.protocol:
        report.section("Protocol").table(
            [{"what": name.replace("_", " "), "how": _plain(value)} for name, value in data.protocol.items()],
            caption="How all of it was measured.",
        )
    return report.save(run_path / "page.html")


def _plain(value: object) -> object:
    """Settings as ``name value, name value``; numbers and texts as they are."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(_plain(entry)) for entry in value)
    return value


def _film(report: Report, film: Film, pieces: Sequence[str]) -> None:
    """A line of tokens for each frame, shaded by entropy."""
    scale = max(float(film.entropy_FL.max()), 1e-9)
    given_L = film.given_L if film.given_L is not None else np.zeros(film.tokens_FL.shape[1], dtype=bool)
    lines = []
    for step, t, tokens_L, p_L, entropy_L in zip(
        film.step_F, film.t_F, film.tokens_FL, film.p_FL, film.entropy_FL, strict=True
    ):
        spans = [
            Span(_shown(token, pieces), Look.GIVEN, "given")
            if given
            else Span(_shown(token, pieces), _level(h / scale), f"p {p:.2f}, entropy {h:.2f} nats")
            for token, p, h, given in zip(tokens_L, p_L, entropy_L, given_L, strict=True)
        ]
        mean = float(entropy_L[~given_L].mean()) if not given_L.all() else 0.0
        level = f" · t {t:>5.3g}" if math.isfinite(t) else ""
        lines.append((f"{step:>4}{level} · H {mean:.2f}", spans))
    legend = [
        Span(f"below {edge * scale:.2g} nats" if i < len(_EDGES) else f"up to {scale:.2g} nats", look)
        for i, (edge, look) in enumerate(zip((*_EDGES, 1.0), LEVELS, strict=True))
    ]
    legend += [Span("given", Look.GIVEN)] if given_L.any() else []
    report.section("Denoising film").text(
        "The most probable token of each position while one sequence is drawn. Bold is certain; the stronger shade and "
        "underline are, the more the model hesitates. Left: step, noise level t, mean entropy H in nats."
    )
    characters = all(len(piece) == 1 for piece in pieces)
    report.spans(lines, caption=film.note, legend=legend, aligned=characters)


_EDGES = (0.05, 0.25, 0.5, 0.75)
"""Shares of the film's highest entropy at which the look changes."""


def _level(share: float) -> Look:
    return LEVELS[int(np.searchsorted(_EDGES, share, side="right"))]


def _shown(token: int, pieces: Sequence[str], *, line_end: str = "↵") -> str:
    """Text of an id with what cannot be seen made visible."""
    text = pieces[token] or "∅"
    return "".join(line_end if c == "\n" else c if c.isprintable() else "⇥" if c == "\t" else "\ufffd" for c in text)


def _samples(report: Report, samples: Samples, pieces: Sequence[str]) -> None:
    """Sequences to read; runs of copied tokens are marked."""
    copied_NL = samples.copied_NL if samples.copied_NL is not None else np.zeros(samples.tokens_NL.shape, dtype=bool)
    lines = []
    for number, (tokens_L, copied_L) in enumerate(zip(samples.tokens_NL, copied_NL, strict=True), start=1):
        cuts = [0, *(np.flatnonzero(np.diff(copied_L)) + 1), len(tokens_L)]
        spans = [
            Span(
                "".join(_shown(token, pieces, line_end="↵\n") for token in tokens_L[start:end]),
                Look.MARKED if copied_L[start] else Look.PLAIN,
            )
            for start, end in pairwise(cuts)
        ]
        lines.append((f"{number:>2}", spans))
    legend = []
    if samples.copied_NL is not None:
        share = f"{100 * copied_NL.any(axis=1).mean():.0f} % of these {len(lines)}"
        legend = [Span(f"{samples.copy_length} or more tokens in a row from the training text ({share})", Look.MARKED)]
    report.section("Samples").spans(lines, caption=samples.note, legend=legend)


def _frontier(report: Report, data: PageData, folder: Path) -> None:
    """Both entropies under the reference model, or under the n-gram model where there is no other."""
    named = [name for name in SCORE_NAMES if name in data.scorers]
    score = next((name for name in named if any(has(point.metrics, name) for point in data.frontier)), None)
    figures = []
    for entropy, kind in (("entropy_pooled", "between and within samples"), ("entropy_sequence", "within a sample")):
        if score is not None and any(has(point.metrics, score, entropy) for point in data.frontier):
            path = folder / f"frontier_{entropy}.png"
            frontier_figure(data.frontier, data.texts, score=score, entropy=entropy, path=path)
            figures.append((path, f"Diversity {kind}; scored by {data.scorers[score]}."))
    if figures:
        report.section("Frontier").text(
            "Sharper sampling lowers score and entropy together, so that models can be compared at equal entropy only. "
            "Crosses are samplers of nonsense, the star is held-out text; good text lies at the star."
        ).figures(figures)


def _warp(report: Report, view: WarpView, folder: Path) -> None:
    report.section("Time warp").text(
        "The noise levels are drawn so that the cross-entropy rises evenly with their quantile: none is visited more "
        "than it teaches."
    ).figures(
        [
            (warp_figure(view, path=folder / "warp.png"), "The law that noise levels are drawn from."),
            (cross_entropy_figure(view, path=folder / "cross_entropy.png"), view.note),
        ]
    )


def _training(report: Report, view: TrainingView, folder: Path) -> None:
    report.section("Training").text(
        "Under a fitted warp the training loss stays near half the entropy whatever the model learns; held-out text at "
        "fixed noise levels shows the progress."
        if np.isfinite(view.t_K).all()
        else "Loss on the same held-out text each time."
    ).figure(training_figure(view, path=folder / "training.png"), caption=view.note)
