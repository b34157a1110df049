"""Evaluation of text models against models whose every answer is known, and end to end for all methods."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from byol_ext.diffusion.warp import LogUniformWarp, UniformWarp
from byol_ext.text.language_data import LanguageData, PackedSequences
from byol_ext.text.markov import MarkovSource
from byol_ext.training import Run
from recipes.cdcd import Trained
from recipes.cdcd_adapters import Generated
from recipes.cdcd_bench import Bench, frontier, make_bench, nll_at_entropy, text_rows
from recipes.cdcd_config import CdcdConfig, DataConfig, EvalConfig, NetworkConfig, SampleConfig, chars
from recipes.cdcd_eval import check_comparable, check_evaluation, evaluate
from recipes.cdcd_generate import draw_sequences, prompts
from recipes.cdcd_measures import cost, hidden_tokens, infilling, likelihood, warp_view, with_interval
from recipes.cdcd_model import build
from recipes.cdcd_page import FrontierPoint
from recipes.cdcd_reference import Judges, SourceScorer, open_judges

L = 16
COUNT = 24
HOW = SampleConfig(count=COUNT, batch=10, steps=4)


@pytest.fixture(scope="module")
def source() -> MarkovSource:
    return MarkovSource(seed=0)


@pytest.fixture(scope="module")
def data(source: MarkovSource) -> LanguageData:
    return source.language_data(20_000, 4000, seed=0)


@pytest.fixture(scope="module")
def judges(source: MarkovSource, data: LanguageData) -> Judges:
    return open_judges(data, order=4, reference=SourceScorer(source))


@pytest.fixture(scope="module")
def held_out(data: LanguageData) -> PackedSequences:
    return data.sequences("validation", L)


@dataclass
class Oracle:
    """The source itself as a model: it draws, scores and infills exactly, whatever the setting."""

    source: MarkovSource
    name: str = "cdcd"
    exact: bool = False
    passes_seen: list[int] = field(default_factory=list)
    settings_seen: list[SampleConfig] = field(default_factory=list)
    device = torch.device("cpu")

    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        self.settings_seen.append(how)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        drawn_BL = torch.from_numpy(self.source.sample(*tokens_BL.shape, seed=seed))
        return Generated(torch.where(noised_BL, drawn_BL, tokens_BL), how.steps, None)

    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        self.passes_seen.append(passes)
        nll_BL = -torch.from_numpy(self.source.log_prob(tokens_BL.numpy())) + passes
        return (nll_BL if noised_BL is None else nll_BL * noised_BL).sum(1)

    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        evidence_BLV = torch.full((*tokens_BL.shape, self.source.symbols), -torch.inf, dtype=torch.float64)
        evidence_BLV.scatter_(-1, tokens_BL[..., None], 0.0)
        evidence_BLV[noised_BL] = 0.0
        return torch.from_numpy(self.source.posterior(evidence_BLV.numpy())).log()


def bench_of(data: LanguageData, judges: Judges, *, how: SampleConfig = HOW, **options: Any) -> Bench:
    return make_bench(data, judges, data.sequences("validation", L), how=how, config=EvalConfig(**options))


def test_an_exact_model_reaches_the_entropy_of_its_source(
    source: MarkovSource, data: LanguageData, held_out: PackedSequences
) -> None:
    metrics, rows = likelihood(
        Oracle(source, exact=True),
        held_out.rows(),
        stream=data.validation,
        passes=(0, 1),
        draws=1,
        batch=64,
        seed=0,
    )
    expected = source.entropy(L) / L / math.log(2)
    assert metrics["bits_per_char"] == pytest.approx(expected, abs=4 * metrics["bits_per_char_bound_se"])
    assert metrics["bits_per_char_bound_low"] < expected < metrics["bits_per_char_bound_high"]
    assert metrics["bits_per_char"] == metrics["bits_per_char_bound"] == rows[0].bits_per_char
    assert [row.exact for row in rows] == [True]


def test_the_headline_bound_is_the_last_number_of_passes_and_every_one_is_reported(
    source: MarkovSource, data: LanguageData, held_out: PackedSequences
) -> None:
    model = Oracle(source)
    metrics, rows = likelihood(
        model, held_out.rows()[:20], stream=data.validation, passes=(0, 2), draws=1, batch=8, seed=0
    )
    assert set(model.passes_seen) == {0, 2}
    assert metrics["bits_per_char_bound"] == metrics["bits_per_char_bound_k2"]
    # The oracle is one nat a token worse with each pass.
    assert metrics["bits_per_char_bound_k2"] - metrics["bits_per_char_bound_k0"] == pytest.approx(2 / math.log(2))
    assert "bits_per_char" not in metrics
    assert [row.name for row in rows] == ["bound, k = 0", "bound, k = 2"]


@pytest.mark.parametrize(("given", "hidden"), [(0.0, 16), (0.15, 14), (0.5, 8), (0.99, 1)])
def test_every_row_hides_as_many_tokens(given: float, hidden: int) -> None:
    hidden_NL = hidden_tokens(200, L, given=given, seed=3)
    assert (hidden_NL.sum(axis=1) == hidden).all()
    assert hidden_NL.mean(axis=0) == pytest.approx([hidden / L] * L, abs=0.2)
    with pytest.raises(ValueError, match="given"):
        hidden_tokens(2, L, given=1.0, seed=0)


def test_infilling_with_the_exact_posterior_beats_the_floor_and_ignorance_does_not(
    source: MarkovSource, judges: Judges, held_out: PackedSequences
) -> None:
    model, ids_NL = Oracle(source), held_out.rows()[:60]
    options: dict[str, Any] = {"given": (0.5, 0.85), "passes": 1, "draws": 1, "batch": 25, "seed": 0}
    metrics, rows = infilling(model, judges.infiller, ids_NL, **options)
    for share in ("50", "85"):
        ce, floor = metrics[f"infill/{share}/cross_entropy"], metrics[f"infill/{share}/cross_entropy_floor"]
        assert ce < floor - 0.05
        assert metrics[f"infill/{share}/exact_match"] > metrics[f"infill/{share}/exact_match_floor"]
        assert metrics[f"infill/{share}/cross_entropy_low"] < ce < metrics[f"infill/{share}/cross_entropy_high"]
    assert metrics["infill/85/cross_entropy"] < metrics["infill/50/cross_entropy"]
    assert [(row.given, row.count) for row in rows] == [(0.5, 60 * 8), (0.85, 60 * 2)]

    hidden_NL = hidden_tokens(60, L, given=0.5, seed=0)
    log_p = model.marginals(torch.from_numpy(ids_NL), torch.from_numpy(hidden_NL), generator=torch.Generator())
    truth = np.array([-log_p[n, place, ids_NL[n, place]] for n, place in np.argwhere(hidden_NL)])
    assert metrics["infill/50/cross_entropy"] == pytest.approx(truth.mean(), rel=1e-9)
    nll_NL = -source.log_prob(ids_NL) + 1
    assert metrics["infill/50/bound"] == pytest.approx((nll_NL * hidden_NL).sum() / hidden_NL.sum(), rel=1e-9)

    model.marginals = lambda tokens_BL, noised_BL, *, generator: torch.zeros(*tokens_BL.shape, 27)  # type: ignore[method-assign]
    ignorant, _ = infilling(model, judges.infiller, ids_NL, **options)
    assert ignorant["infill/50/exact_match"] == pytest.approx((ids_NL[hidden_NL] == 0).mean())


def test_a_probability_that_underflows_does_not_end_the_evaluation(
    source: MarkovSource, judges: Judges, held_out: PackedSequences
) -> None:
    model = Oracle(source)
    model.marginals = lambda tokens_BL, noised_BL, *, generator: torch.full((*tokens_BL.shape, 27), -torch.inf)  # type: ignore[method-assign]
    model.nats = lambda tokens_BL, **options: torch.full((len(tokens_BL),), torch.inf)  # type: ignore[method-assign]
    metrics, _ = infilling(
        model, judges.infiller, held_out.rows()[:4], given=(0.5,), passes=0, draws=1, batch=4, seed=0
    )
    assert metrics["infill/50/cross_entropy"] == 100.0
    assert math.isnan(metrics["infill/50/bound"])


def test_intervals_of_tokens_draw_whole_sequences() -> None:
    values, groups = np.repeat([0.0, 1.0] * 20, 50), np.repeat(np.arange(40), 50)
    alone, grouped = with_interval("x", values), with_interval("x", values, groups=groups)
    assert grouped["x"] == alone["x"] == 0.5
    width = grouped["x_high"] - grouped["x_low"]
    assert width == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(40), rel=0.2)
    assert alone["x_high"] - alone["x_low"] < width / 4


class Curve:
    """A trainable whose cross-entropy at quantile u is known."""

    def __init__(self, warp: Any, law: Any, *, spread: float = 0.0) -> None:
        self.warp, self.law, self.spread = warp, law, spread
        self.passes: dict[int, int] = {0: 0, 1: 0}

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def cross_entropy(self, tokens_BL: Tensor, *, keys_B: Tensor, t_B: Tensor, passes: int) -> Tensor:
        self.passes[passes] += len(t_B)
        noise_B = torch.randn(len(t_B), generator=torch.Generator().manual_seed(int(keys_B[0])))
        return self.law(t_B) + self.spread * noise_B


def test_a_warp_along_which_the_cross_entropy_rises_evenly_is_healthy(held_out: PackedSequences) -> None:
    warp = LogUniformWarp(0.1, 10.0)
    model = Curve(warp, lambda t_B: 3.0 * warp.quantiles(t_B))
    metrics, view = warp_view(model, held_out.rows(), count=400, batch=64, seed=0)  # type: ignore[arg-type]
    assert metrics["warp/deviation"] < 1e-5
    assert metrics["warp/plateau"] == pytest.approx(3.0, rel=1e-5)
    assert model.passes == {0: 200, 1: 200}
    assert view.ce_B == pytest.approx(3.0 * view.u_B, rel=1e-4)
    assert (np.diff(view.t_G) >= 0).all()
    assert view.cdf_G[0] == pytest.approx(0)
    assert view.cdf_G[-1] == pytest.approx(1)


def test_a_warp_that_dwells_where_nothing_is_learned_is_not(held_out: PackedSequences) -> None:
    log = LogUniformWarp(0.1, 10.0)
    model = Curve(UniformWarp(0.1, 10.0), lambda t_B: 3.0 * log.quantiles(t_B))
    metrics, _ = warp_view(model, held_out.rows(), count=400, batch=64, seed=0)  # type: ignore[arg-type]
    u = (np.arange(20) + 0.5) / 20
    ce = 3.0 * log.quantiles(model.warp.times(torch.from_numpy(u))).numpy()
    slope = (ce * u).sum() / (u * u).sum()
    assert metrics["warp/deviation"] == pytest.approx(np.abs(ce - slope * u).max() / slope, abs=0.02)
    assert metrics["warp/deviation"] > 0.2


def test_what_noise_alone_would_show_is_told(held_out: PackedSequences) -> None:
    warp = LogUniformWarp(0.1, 10.0)
    model = Curve(warp, lambda t_B: 3.0 * warp.quantiles(t_B), spread=1.0)
    metrics, _ = warp_view(model, held_out.rows(), count=400, batch=64, seed=0)  # type: ignore[arg-type]
    # 20 bins of 20 sequences: the largest of 20 normal numbers is about 2.2 standard deviations of 1 / sqrt 20.
    assert metrics["warp/deviation_noise"] == pytest.approx(2.2 / math.sqrt(20) / 3.0, rel=0.25)
    assert metrics["warp/deviation"] < 2 * metrics["warp/deviation_noise"]


def test_cost_counts_evaluations_and_drawn_tokens(source: MarkovSource, held_out: PackedSequences) -> None:
    metrics, rows = cost(Oracle(source), held_out, how=HOW, batches=(1, 5), seed=0)
    assert metrics["cost/evaluations"] == 4
    assert [(row.batch, row.steps, row.evaluations) for row in rows] == [(1, 4, 4), (5, 4, 4)]
    assert all(row.seconds_per_1k == metrics[f"cost/batch{row.batch}/seconds_per_1k_tokens"] > 0 for row in rows)


def test_every_sampler_of_nonsense_fails_what_real_text_passes(
    source: MarkovSource, data: LanguageData, judges: Judges, held_out: PackedSequences
) -> None:
    how = replace(HOW, count=80)
    bench = bench_of(data, judges, how=how, copy_length=12)
    drawn = draw_sequences(Oracle(source), held_out, how=how, seed=0)
    rows = {row.name: row.metrics for row in text_rows("oracle", bench, drawn.tokens_NL.numpy())}
    assert list(rows) == ["oracle", "unigram", "shuffled", "fragments", "loop", "parrot", "held-out text"]
    real, model = rows["held-out text"], rows["oracle"]
    assert abs(model["ar_nll"] - real["ar_nll"]) < real["ar_nll_high"] - real["ar_nll_low"]
    assert min(rows["unigram"]["ar_nll"], rows["shuffled"]["ar_nll"]) > 1.5 * real["ar_nll_high"]
    assert rows["parrot"]["copy_rate"] == 1.0
    assert max(model["copy_rate"], real["copy_rate"]) < 0.5
    assert rows["shuffled"]["entropy_pooled"] == pytest.approx(real["entropy_pooled"])
    assert rows["unigram"]["js2"] > real["js2"] + 0.03
    for metrics in rows.values():
        assert metrics["samples"] == 80
        assert metrics["js1_floor"] == real["js1_floor"]
        assert metrics["copy_rate_floor"] == real["copy_rate_floor"]
        assert {"words/found", "words/found_low", "words/found_long_high", "ngram_nll", "rep4", "self_bleu"} <= set(
            metrics
        )


def test_intervals_of_word_shares_are_about_the_shares_of_all_words(data: LanguageData, judges: Judges) -> None:
    bench = bench_of(data, replace(judges, words=frozenset({"ab", "abcd", "wxyz"})))
    texts = ["..ab abcd.ab cd wxyzw ..", ". efgh .", "no", ". ab ."]
    shares = bench._words(texts)
    assert (shares["words/found"], shares["words/found_long"]) == (4 / 7, 1 / 3)
    assert 0.0 <= shares["words/found_low"] < 4 / 7 < shares["words/found_high"] <= 1.0
    assert "words/found_low" not in bench._words(["", "..."])


def test_prompts_are_neither_scored_nor_counted(data: LanguageData, judges: Judges, held_out: PackedSequences) -> None:
    how = replace(HOW, prompt=0.5)
    bench = bench_of(data, judges, how=how)
    tokens_NL, noised_NL = prompts(held_out, count=COUNT, share=0.5, seed=0)
    given_NL = ~noised_NL.numpy()
    assert (bench.real_NL[given_NL] == tokens_NL.numpy()[given_NL]).all()
    assert bench.generated_L.tolist() == [False] * 8 + [True] * 8
    for ids_NL in bench.nonsense().values():
        assert (ids_NL[given_NL] == bench.real_NL[given_NL]).all()

    scores = bench.scores(bench.real_NL)
    assert scores["ar_nll"] == pytest.approx(judges.first.nll(bench.real_NL)[:, 8:].mean())
    assert scores["entropy_pooled"] < math.log(27)
    elsewhere = bench.real_NL.copy()
    elsewhere[:, :6] = 0  # the source looks two symbols back
    assert bench.scores(elsewhere)["ar_nll"] == pytest.approx(scores["ar_nll"])


def test_the_frontier_sweeps_one_knob_at_a_time_and_draws_each_setting_once(
    source: MarkovSource, data: LanguageData, judges: Judges, held_out: PackedSequences
) -> None:
    model = Oracle(source)
    config = EvalConfig(
        temperatures=(1.0, 0.8), steps=(4, 2), temperature_steps=4, guidances=(1.0, 2.0), frontier_count=COUNT
    )
    drawn = draw_sequences(model, held_out, how=HOW, seed=0)
    model.settings_seen.clear()
    points = frontier(model, held_out, bench_of(data, judges), how=HOW, config=config, drawn=drawn)
    assert [(point.series, point.label) for point in points] == [
        ("score temperature", "0.8"),
        ("score temperature", "1"),
        ("steps", "2"),
        ("steps", "4"),
        ("guidance", "1"),
        ("guidance", "2"),
    ]
    # T = 1 at 4 steps is what was drawn before.
    assert {(how.score_temperature, how.steps, how.guidance) for how in model.settings_seen} == {
        (0.8, 4, 1.0),
        (1.0, 2, 1.0),
        (1.0, 4, 2.0),
    }
    assert points[1].metrics == points[3].metrics == points[4].metrics
    assert points[1].metrics["ar_nll"] == pytest.approx(
        bench_of(data, judges).scores(drawn.tokens_NL.numpy())["ar_nll"]
    )
    assert all(point.metrics["samples"] == COUNT for point in points)


@pytest.mark.parametrize(("name", "knob"), [("mdlm", "softmax_temperature"), ("ar", "softmax_temperature")])
def test_baselines_sweep_the_knobs_they_have(
    source: MarkovSource, data: LanguageData, judges: Judges, held_out: PackedSequences, name: str, knob: str
) -> None:
    model = Oracle(source, name=name)
    config = EvalConfig(temperatures=(0.5,), steps=(2,), guidances=(2.0,), frontier_count=8)
    drawn = draw_sequences(model, held_out, how=HOW, seed=0)
    model.settings_seen.clear()
    points = frontier(model, held_out, bench_of(data, judges), how=HOW, config=config, drawn=drawn)
    assert {point.series for point in points} == {"softmax temperature"} | ({"steps"} if name == "mdlm" else set())
    at_rest = SampleConfig()
    for how in model.settings_seen:
        assert (how.score_temperature, how.guidance) == (at_rest.score_temperature, at_rest.guidance)
    assert getattr(model.settings_seen[0], knob) == 0.5
    assert not frontier(
        model, held_out, bench_of(data, judges), how=HOW, config=replace(config, frontier_count=0), drawn=drawn
    )


def test_scores_compare_at_equal_entropy() -> None:
    sweep = [
        FrontierPoint("T", label, {"ar_nll": nll, "entropy_sequence": entropy})
        for label, nll, entropy in (("1", 3.0, 2.0), ("0.8", 1.0, 1.0), ("0.9", 2.5, 1.5))
    ]
    assert nll_at_entropy(sweep, 1.75) == pytest.approx(2.75)
    assert math.isnan(nll_at_entropy(sweep, 0.9))
    with pytest.raises(ValueError, match="one series"):
        nll_at_entropy([*sweep, replace(sweep[0], series="steps")], 1.5)


def small(root: Path, kind: str) -> CdcdConfig:
    """Everything on, on an untrained network: a second or two on one core."""
    base = chars()
    return replace(
        base,
        name=kind,
        root=str(root),
        method="diffusion" if kind in ("cdcd", "simplex") else kind,  # type: ignore[arg-type]
        process="simplex" if kind == "simplex" else "gaussian",
        data=DataConfig(text="markov", length=L),
        network=NetworkConfig(width=16, depth=1, heads=2, time_units=8, embedding_width=8),
        sample=SampleConfig(count=COUNT, batch=32, steps=4),
        eval=EvalConfig(
            temperatures=(0.8, 1.0),
            steps=(2, 4),
            temperature_steps=4,
            frontier_count=COUNT,
            passes=(0, 1),
            bound_count=32,
            bound_draws=2,
            given=(0.5,),
            infill_count=32,
            health_count=80,
            film=3,
        ),
    )


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory, data: LanguageData) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for kind in ("cdcd", "simplex", "mdlm", "ar"):
        config = small(root, kind)
        found[kind] = evaluate(Trained(config, data, build(config, 27).eval()))
    return found


@pytest.mark.parametrize("kind", ["cdcd", "simplex", "mdlm", "ar"])
def test_every_method_is_evaluated_whole(
    evaluations: dict[str, Any], kind: str, source: MarkovSource, tmp_path: Path
) -> None:
    found = evaluations[kind]
    metrics, page = found.metrics, found.page
    headlines = {"ar_nll", "entropy_pooled", "entropy_sequence", "bits_per_char_bound"}
    assert headlines <= set(metrics)
    assert all(f"{name}_low" in metrics for name in headlines)
    assert all(math.isfinite(value) for value in metrics.values())
    # An untrained network knows nothing: no likelihood below the source's entropy, no sample as likely as real text.
    assert metrics["bits_per_char_bound"] > source.entropy(L) / L / math.log(2)
    assert metrics["ar_nll"] > 1.5 * found.controls["held_out"]["ar_nll"]
    assert ("bits_per_char" in metrics) == (kind == "ar")
    assert ("warp/deviation" in metrics) == (kind in ("cdcd", "simplex")) == (page.warp is not None)
    assert metrics["cost/evaluations"] == found.protocol["evaluations"] > 0
    assert {"held_out", "unigram", "parrot", "likelihood/6-gram", "likelihood/the Markov source itself"} <= set(
        found.controls
    )
    assert any(name.startswith("frontier/softmax temperature=") for name in found.controls) == (kind != "cdcd")
    assert (page.film is None) == (kind == "ar")
    assert len(page.pieces) == 27
    assert len(page.samples.tokens_NL) == 8
    assert {row.kind for row in page.texts} == {"model", "nonsense", "real"}
    run = Run.create(tmp_path / kind, recipe="cdcd", config={})
    run.write_results(metrics, controls=found.controls, protocol=found.protocol)
    written = json.loads((tmp_path / kind / "results.json").read_text())
    assert written["protocol"]["samples"] == COUNT
    assert written["protocol"]["copy_length"] == L
    assert written["controls"]["parrot"]["copy_rate"] == 1.0


def test_models_are_measured_alike(evaluations: dict[str, Any]) -> None:
    check_comparable({kind: found.protocol for kind, found in evaluations.items()})
    controls = [found.controls for found in evaluations.values()]
    for name in ("held_out", "unigram", "loop", "likelihood/6-gram"):
        assert all(other[name] == controls[0][name] for other in controls)
    protocols = {"a": evaluations["ar"].protocol, "b": {**evaluations["ar"].protocol, "samples": 7}}
    with pytest.raises(ValueError, match="b and a differ in samples: 7 and 24"):
        check_comparable(protocols)


def test_the_same_evaluation_gives_the_same_numbers(evaluations: dict[str, Any], data: LanguageData) -> None:
    config = small(Path("unused"), "cdcd")
    again = evaluate(Trained(config, data, build(config, 27).eval()))
    ours, theirs = again.metrics, evaluations["cdcd"].metrics
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if not name.startswith("cost/"))


def test_parts_can_be_left_out(data: LanguageData, judges: Judges) -> None:
    config = small(Path("unused"), "mdlm")
    bare = replace(config.eval, frontier_count=0, infill_count=0, cost=False, film=0)
    config = replace(config, eval=bare)
    found = evaluate(Trained(config, data, build(config, 27).eval()), judges=judges)
    assert not found.page.frontier
    assert not found.page.infill
    assert not found.page.cost
    assert found.page.film is None
    assert not any(name.startswith(("infill/", "cost/", "warp/")) for name in found.metrics)
    assert found.protocol["ngram_nll"].startswith("the same, under: 4-gram")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": SampleConfig(count=1000)}, "sample.count to 83 or less"),
        ({"sample": SampleConfig(count=1)}, "self-BLEU"),
        ({"sample": SampleConfig(count=8, prompt=0.9)}, "2 generated positions"),
        ({"eval": EvalConfig(passes=())}, "passes"),
        ({"eval": EvalConfig(given=(0.5, 1.0))}, "given"),
        ({"eval": EvalConfig(health_count=10)}, "health_count"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_beforehand(
    data: LanguageData, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_evaluation(replace(small(Path("unused"), "ar"), **change), data)
