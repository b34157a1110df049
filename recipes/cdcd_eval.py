"""Evaluation of a trained text model: its samples beside real text and nonsense, likelihood, infilling, warp, cost.

No number says anything alone (spec cdcd 10): a score of samples stands beside their entropies, a distance beside its
floor, and the model beside held-out text and samplers of nonsense of equal number and length. ``eval.seed`` gives every
model the same held-out sequences, prompts and masks, so that results compare; :func:`check_comparable` says whether.

Legend: ``N`` samples, ``L`` positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.metrics.text import copied_tokens
from byol_ext.text.language_data import LanguageData
from recipes.cdcd import Trained
from recipes.cdcd_bench import Bench, check_rows, frontier, make_bench, text_rows
from recipes.cdcd_config import CdcdConfig
from recipes.cdcd_generate import Drawn, TextModel, draw_sequences, text_model
from recipes.cdcd_measures import RESAMPLES, cost, infilling, likelihood, warp_view
from recipes.cdcd_page import BitsRow, Film, FrontierPoint, PageData, Samples, TextRow
from recipes.cdcd_reference import Judges, Scorer, check_reference, default_judges

Ids = npt.NDArray[np.int64]
COST_BATCHES = (1, 32)
"""Sequences at a time when sampling is timed (spec 10.10)."""
COMPARABLE = ("samples", "length", "generated_positions", "seed", "ar_nll", "ngram_nll", "copy_length", "text")
"""Entries of the protocols of models whose metrics may be compared."""
_SHOWN = 8


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: Flat names to numbers.
        controls: What stands beside the model: ``held_out``, the samplers of nonsense, the judges' own
            ``likelihood/…``, and ``frontier/…``, the model at other settings of its sampler.
        protocol: How, with all counts and seeds.
        page: What the run's page shows.
    """

    metrics: dict[str, float]
    controls: dict[str, dict[str, float]]
    protocol: dict[str, Any]
    page: PageData


def evaluate(trained: Trained, *, reference: Scorer | None = None, judges: Judges | None = None) -> Evaluation:
    """Everything that ``config.sample`` and ``config.eval`` ask for, of the averaged weights; nothing is trained.

    Args:
        trained: The model with its text.
        reference: A first judge that is open already, in place of ``eval.reference``.
        judges: All judges, where several models of one text are evaluated; ``reference`` is then not read.

    Raises:
        FileNotFoundError: If the reference is no run.
        ValueError: If the reference cannot judge the model, or there is too little held-out text.
    """
    config, held_out, model = trained.config, trained.held_out(), text_model(trained)
    check_evaluation(config, trained.data)
    judges = judges if judges is not None else default_judges(trained, reference=reference)
    bench = make_bench(trained.data, judges, held_out, how=config.sample, config=config.eval)
    drawn = draw_sequences(model, held_out, how=config.sample, seed=bench.seed, film=config.eval.film)
    ids_NL = drawn.tokens_NL.numpy()
    texts = text_rows(model.name, bench, ids_NL)
    points = frontier(model, held_out, bench, how=config.sample, config=config.eval, drawn=drawn)
    protocol = _protocol(model, bench, config, drawn)
    page = PageData(
        title=f"{model.name} on {config.data.text}",
        subtitle=_subtitle(trained),
        pieces=tuple(trained.data.tokenizer.decode([i]) for i in range(trained.data.tokenizer.vocab_size)),
        scorers=({} if judges.reference is None else {"ar_nll": judges.reference.name})
        | {"ngram_nll": judges.ngram.name},
        film=_film(drawn, _manner(model, config)),
        samples=_samples(bench, ids_NL, _manner(model, config)),
        texts=texts,
        frontier=points,
        protocol=protocol,
    )
    measured, page = _measure(trained, model, bench, page)
    judged = _judges_bits(bench, config.eval.bound_count)
    page = replace(page, bits=[*page.bits, *judged])
    return Evaluation(dict(texts[0].metrics) | measured, _controls(texts, points, judged), protocol, page)


def check_evaluation(config: CdcdConfig, data: LanguageData) -> None:
    """Refuse what :func:`evaluate` would refuse after the training: call it before.

    Args:
        config: The run's configuration.
        data: Its text.

    Raises:
        FileNotFoundError: If ``eval.reference`` is no run.
        ValueError: If there is too little held-out text for ``sample.count``, the reference has seen another text, or
            ``eval`` asks for the impossible.
    """
    check_rows(data.sequences("validation", config.data.length), config.sample)
    options = config.eval
    if options.reference:
        check_reference(Path(options.reference), data)
    if not options.passes or min(options.passes) < 0 or options.bound_draws < 1 or options.bound_count < 2:
        raise ValueError(
            f"eval.passes={options.passes}, eval.bound_draws={options.bound_draws}, "
            f"eval.bound_count={options.bound_count}: expected passes of 0 or more, a draw and two sequences at least"
        )
    if not all(0.0 <= share < 1.0 for share in options.given):
        raise ValueError(f"eval.given={options.given}: expected shares in [0, 1)")
    if 0 < options.health_count < 40:
        raise ValueError(f"eval.health_count={options.health_count}: expected 0, or two sequences for each of 20 bins")


def check_comparable(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to put models into one table that were not measured alike.

    Args:
        protocols: Name of each model to the ``protocol`` of its ``results.json``.

    Raises:
        ValueError: If they differ in number or length of samples, judges, seed or text.

    Example:
        >>> check_comparable({"a": {"samples": 64}, "b": {"samples": 64}})
    """
    first_name, first = next(iter(protocols.items()))
    for name, protocol in protocols.items():
        for entry in COMPARABLE:
            if protocol.get(entry) != first.get(entry):
                raise ValueError(
                    f"{name} and {first_name} differ in {entry}: {protocol.get(entry)} and {first.get(entry)}; "
                    "evaluate both alike before comparing them"
                )


def _measure(trained: Trained, model: TextModel, bench: Bench, page: PageData) -> tuple[dict[str, float], PageData]:
    """What needs no samples."""
    config, options, batch = trained.config, trained.config.eval, trained.config.sample.batch
    passes = _passes(config)
    ids_ML = bench.held_out_ML
    metrics, bits = likelihood(
        model,
        ids_ML[: options.bound_count],
        stream=trained.data.validation,
        passes=passes,
        draws=options.bound_draws,
        batch=batch,
        seed=bench.seed,
    )
    page = replace(page, bits=bits)
    if options.infill_count and options.given:
        found, infill = infilling(
            model,
            bench.judges.infiller,
            ids_ML[: options.infill_count],
            given=options.given,
            passes=passes[-1],
            draws=options.bound_draws,
            batch=batch,
            seed=bench.seed,
        )
        metrics, page = metrics | found, replace(page, infill=infill)
    if options.health_count and isinstance(trained.model, (CDCD, SimplexModel)):
        found, view = warp_view(trained.model, ids_ML, count=options.health_count, batch=batch, seed=bench.seed)
        metrics, page = metrics | found, replace(page, warp=view)
    if options.cost:
        found, rows = cost(model, trained.held_out(), how=config.sample, batches=COST_BATCHES, seed=bench.seed)
        metrics, page = metrics | found, replace(page, cost=rows)
    return metrics, page


def _passes(config: CdcdConfig) -> tuple[int, ...]:
    """Numbers of passes that are different models: one where nothing is fed back."""
    fed_back = config.method == "diffusion" and config.objective.self_conditioning
    return config.eval.passes if fed_back else (0,)


def _judges_bits(bench: Bench, count: int) -> list[BitsRow]:
    """The judges' own likelihood of the same held-out sequences: how far the model is from what judges it."""
    ids_NL, rows = bench.held_out_ML[:count], []
    for judge in (bench.judges.reference, bench.judges.ngram):
        if judge is not None:
            nats = float(judge.nll(ids_NL).mean())
            bits = bench.data.validation.bits_per_character(nats)
            rows.append(BitsRow(judge.name, bits, nats_per_token=nats, exact=True))
    return rows


def _controls(
    texts: Sequence[TextRow], points: Sequence[FrontierPoint], judged: Sequence[BitsRow]
) -> dict[str, dict[str, float]]:
    controls = {("held_out" if row.kind == "real" else row.name): dict(row.metrics) for row in texts[1:]}
    controls |= {f"likelihood/{row.name}": {"bits_per_char": row.bits_per_char} for row in judged}
    return controls | {f"frontier/{point.series}={point.label}": dict(point.metrics) for point in points}


def _film(drawn: Drawn, note: str) -> Film | None:
    if not drawn.film:
        return None
    return Film(
        step_F=np.array([frame.step for frame in drawn.film]),
        t_F=np.array([frame.t for frame in drawn.film]),
        tokens_FL=np.stack([frame.tokens_L.numpy() for frame in drawn.film]),
        p_FL=np.stack([frame.p_L.numpy() for frame in drawn.film]),
        entropy_FL=np.stack([frame.entropy_L.numpy() for frame in drawn.film]),
        given_L=~drawn.noised_NL[0].numpy(),
        note=note,
    )


def _samples(bench: Bench, ids_NL: Ids, note: str) -> Samples:
    shown = ids_NL[:_SHOWN]
    return Samples(
        tokens_NL=shown,
        copied_NL=copied_tokens(shown, bench.data.train.tokens_N, length=bench.copy_length),
        copy_length=bench.copy_length,
        note=f"The first {len(shown)} of {len(ids_NL)} samples, none chosen; {note}",
    )


def _manner(model: TextModel, config: CdcdConfig) -> str:
    """How samples were drawn, in a phrase."""
    how, seed = config.sample, f"seed {config.eval.seed}"
    if model.name == "ar":
        return f"left to right, softmax temperature {how.softmax_temperature:g}, {seed}"
    if model.name == "cdcd":
        return f"{how.sampler}, {how.steps} steps, score temperature {how.score_temperature:g}, {seed}"
    kind = f"{how.simplex_sampler}, " if model.name == "simplex" else ""
    return f"{kind}{how.steps} steps, softmax temperature {how.softmax_temperature:g}, {seed}"


def _subtitle(trained: Trained) -> str:
    config = trained.config
    parameters = sum(p.numel() for p in trained.model.average.parameters())
    return (
        f"{config.name}: {parameters / 1e6:.2g} M parameters, {config.train.steps} updates of "
        f"{config.data.batch} x {config.data.length} tokens, seed {config.seed}"
    )


def _protocol(model: TextModel, bench: Bench, config: CdcdConfig, drawn: Drawn) -> dict[str, Any]:
    options = config.eval
    return {
        "model": model.name,
        "weights": "averaged",
        "training_seed": config.seed,
        "samples": bench.count,
        "length": bench.held_out_ML.shape[1],
        "generated_positions": int(bench.generated_L.sum()),
        "sampling": asdict(config.sample),
        "evaluations": drawn.evaluations,
        "seed": bench.seed,
        "ar_nll": f"nats a generated token, same ids, under: {bench.judges.first.name}",
        "ngram_nll": f"the same, under: {bench.judges.ngram.name} of the training text",
        "copy_length": bench.copy_length,
        "intervals": f"95 %, bootstrap over sequences, {RESAMPLES} resamples",
        "text": {
            "name": config.data.text,
            "held_out_sequences": len(bench.held_out_ML),
            "held_out_sha256": bench.data.validation.facts.sha256,
            "training_sha256": bench.data.train.facts.sha256,
        },
        "bits_per_char": {
            "sequences": min(options.bound_count, len(bench.held_out_ML)),
            "kind": "exact" if model.exact else "upper bound; loose where the model was trained by cross-entropy",
            "draws": options.bound_draws,
            "passes": _passes(config),
            "headline_passes": _passes(config)[-1],
        },
        "infill": {
            "sequences": min(options.infill_count, len(bench.held_out_ML)),
            "given": options.given,
            "sees": "true tokens to the left, earlier gaps included" if model.name == "ar" else "given tokens only",
        },
        "frontier": {
            "samples": options.frontier_count,
            "temperatures": options.temperatures,
            "temperature_steps": options.temperature_steps,
            "steps": options.steps,
            "guidances": options.guidances,
        },
        "warp_health": {"sequences": options.health_count, "bins": 20},
    }
