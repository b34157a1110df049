"""The commands of ``byol-ext cdcd`` on a run of seconds, each kind of model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from byol_ext.diffusion.autoregressive import Autoregressive
from byol_ext.diffusion.hf import from_pretrained
from byol_ext.diffusion.hf_cdcd import load_cdcd
from byol_ext.diffusion.hf_simplex import load_simplex
from byol_ext.text.language_tokenizers import load_language_tokenizer
from byol_ext.training import plain
from recipes import cdcd_commands, cli
from recipes.cdcd import load_run, train
from recipes.cdcd_config import CdcdConfig, EvalConfig, SampleConfig, tiny
from recipes.cdcd_probe import probe
from recipes.cdcd_sample_commands import as_trained

KINDS: dict[str, dict[str, Any]] = {
    "cdcd": {},
    "simplex": {"process": "simplex"},
    "mdlm": {"method": "mdlm"},
    "ar": {"method": "ar"},
}
LENGTH = 12


def small(root: Path, kind: str = "cdcd", *, name: str | None = None) -> CdcdConfig:
    """A model of one block on a small Markov text, trained for four steps."""
    config = tiny()
    return replace(
        config,
        name=name or kind,
        root=str(root),
        data=replace(config.data, text="markov", markov_tokens=6000, length=LENGTH, batch=8),
        network=replace(config.network, width=16, depth=1, heads=2, time_units=8, embedding_width=8),
        warp=replace(config.warp, bins=8),
        train=replace(config.train, steps=4, warmup=0.0, log_every=1, monitor_every=2, checkpoint_every=2),
        sample=SampleConfig(count=8, batch=8, steps=4),
        eval=EvalConfig(
            temperatures=(1.0,),
            steps=(2,),
            frontier_count=0,
            passes=(0,),
            bound_count=8,
            bound_draws=2,
            given=(0.5,),
            infill_count=8,
            health_count=40,
            cost=False,
        ),
        **KINDS[kind],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        train(small(folder, kind))
    return folder


def command(*args: object) -> int:
    return cli.run(["cdcd", *map(str, args)])


def answer(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    capsys.readouterr()
    assert command(*args, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_train_evaluates_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(plain(small(tmp_path))))
    assert command("train", "--config", file) == 0
    printed = capsys.readouterr().out
    for name in ("ar_nll", "entropy_pooled", "entropy_sequence", "bits_per_char_bound"):
        assert name in printed
    folder = tmp_path / "cdcd" / "cdcd"
    results = json.loads((folder / "results.json").read_text())
    assert results["recipe"] == "cdcd"
    assert results["metrics"]["train/steps"] == 4.0
    assert math.isfinite(results["metrics"]["ar_nll"])
    assert results["controls"]["held_out"]
    assert "<html" in (folder / "page.html").read_text()
    with pytest.raises(FileExistsError, match="resume it"):
        command("train", "--config", file)
    assert command("train", "--config", folder / "config.yaml", "--resume") == 0

    capsys.readouterr()
    options = ["--eval.bound-count", "4", "--sample.steps", "2", "--json"]
    assert command("eval", "--run", folder, *options) == 0
    metrics = json.loads(capsys.readouterr().out)
    again = json.loads((folder / "results.json").read_text())
    assert metrics == again["metrics"]
    assert metrics["train/steps"] == 4.0
    assert again["protocol"]["bits_per_char"]["sequences"] == 4
    assert again["protocol"]["sampling"]["steps"] == 2
    assert metrics["bits_per_char_bound"] != results["metrics"]["bits_per_char_bound"]


def test_an_interrupted_training_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: CdcdConfig, **options: Any) -> Any:
        result, trained, run = train(config, **options)
        return replace(result, interrupted="SIGTERM"), trained, run

    monkeypatch.setattr(cdcd_commands, "train", interrupted)
    monkeypatch.setattr(cdcd_commands, "evaluate", lambda *_: pytest.fail("evaluated"))
    assert cdcd_commands.train_and_evaluate(small(tmp_path, "ar")) == 130
    assert not (tmp_path / "cdcd" / "ar" / "results.json").exists()


def test_what_sampling_would_refuse_is_refused_before_training(tmp_path: Path) -> None:
    config = small(tmp_path, "mdlm")
    config = replace(config, sample=replace(config.sample, score_temperature=0.9))
    with pytest.raises(ValueError, match="a mdlm model does not know score_temperature"):
        cdcd_commands.train_and_evaluate(config)
    assert not (tmp_path / "cdcd").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_sample_writes_what_it_prints(kind: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "cdcd" / kind
    shown = answer(capsys, "sample", "--run", run, "--n", 5, "--batch", 2, "--seed", 3)
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == len(shown["samples"]) == 5
    trained, _ = load_run(run)
    for row, same in zip(rows, shown["samples"], strict=True):
        assert row["text"] == same["text"] == trained.data.tokenizer.decode(row["tokens"])
        assert len(row["tokens"]) == LENGTH
        assert row["prompt"] == ""
        assert row["model"] == kind
        assert row["seed"] == 3
        assert row["sampling"]["batch"] == 2
    again = answer(capsys, "sample", "--run", run, "--n", 5, "--batch", 2, "--seed", 3)
    other = answer(capsys, "sample", "--run", run, "--n", 5, "--batch", 2, "--seed", 4)
    assert again["samples"] == shown["samples"] != other["samples"]


def test_sample_options_reach_the_sampler(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = root / "cdcd" / "cdcd", tmp_path / "deep" / "s.jsonl"
    options = ["--steps", 3, "--sampler", "ancestral_token", "--score-temp", 0.9]
    options += ["--sigma-init", 0.8, "--rho", 2, "--unwarped"]
    shown = answer(capsys, "sample", "--run", run, "--n", 2, "--length", 7, "--out", out, *options)
    assert shown["evaluations"] == 4
    wanted = {
        "steps": 3,
        "sampler": "ancestral_token",
        "score_temperature": 0.9,
        "sigma_init": 0.8,
        "rho": 2.0,
        "unwarped": True,
        "count": 2,
    }
    assert {name: shown["sampling"][name] for name in wanted} == wanted
    assert [len(json.loads(line)["tokens"]) for line in out.read_text().splitlines()] == [7, 7]
    assert command("sample", "--run", run, "--n", 2, "--out", out) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[0] ")
    assert str(out) in printed


def test_prompts_of_samples(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "cdcd" / "ar"
    begun = answer(capsys, "sample", "--run", run, "--n", 3, "--prompt", "abc")
    assert all(row["text"].startswith("abc") and row["prompt"] == "abc" for row in begun["samples"])
    half = answer(capsys, "sample", "--run", run, "--n", 3, "--prompt-share", 0.5)
    held_out = [row[: LENGTH // 2].tolist() for row in load_run(run)[0].held_out().rows()]
    assert all(row["tokens"][: LENGTH // 2] in held_out for row in half["samples"])


def test_text_is_spelled_as_the_corpus_spells_it(root: Path) -> None:
    trained, _ = load_run(root / "cdcd" / "ar")
    assert as_trained("It's A", trained) == "It's A"
    data = replace(trained.config.data, text="stdlib27")
    assert as_trained("It's A, ", replace(trained, config=replace(trained.config, data=data))) == "it s a "


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ar", ["--steps", "5"], "has no steps"),
        ("ar", ["--sampler", "euler"], "no choice of samplers"),
        ("cdcd", ["--sampler", "bridge"], "expected one of euler, heun"),
        ("simplex", ["--sampler", "euler"], "expected one of ode, sde, bridge"),
        ("simplex", ["--guidance", "2"], "does not know guidance=2.0"),
        ("cdcd", ["--length", "13"], "expected 2 to 12"),
        ("cdcd", ["--prompt", "abcdefghijkl"], "12 tokens long; sequences have 12"),
        ("cdcd", ["--steps", "0"], "steps=0"),
        ("cdcd", ["--score-temp", "0"], "score_temperature=0.0 must be positive"),
    ],
)
def test_sample_refuses_what_it_cannot_do(kind: str, options: list[str], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        command("sample", "--run", root / "cdcd" / kind, "--n", 1, *options)


@pytest.mark.parametrize("kind", KINDS)
def test_infill_keeps_the_text_and_ranks_the_fills(kind: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "cdcd" / kind
    found = answer(capsys, "infill", "ab[[?]]cd[[2]]", "--run", run, "--candidates", "1..3", "--n", 2)
    assert sorted(one["lengths"] for one in found) == [[n, 2] for n in (1, 1, 2, 2, 3, 3)]
    assert [one["nats_per_token"] for one in found] == sorted(one["nats_per_token"] for one in found)
    for one in found:
        assert one["text"] == f"ab{one['blanks'][0]}cd{one['blanks'][1]}"
    assert command("infill", "ab[[2]]", "--run", run) == 0
    assert "nats a token" in capsys.readouterr().out


def test_probe_measures_the_ends_and_warns(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, _ = load_run(root / "cdcd" / "cdcd")
    found = answer(capsys, "probe", "--run", root / "cdcd" / "cdcd", "--count", 40, "--batch", 16)
    metrics = found["metrics"]
    assert metrics["noise/sequences"] == 40.0
    rows_NL = trained.held_out().rows()[:40]
    share_V = np.bincount(rows_NL.ravel()) / rows_NL.size
    assert metrics["noise/unigram_entropy"] == pytest.approx(-np.nansum(share_V * np.log(share_V + 1e-30)))
    # Four steps leave the network near the uniform law: it is ambiguous at t_min, and knows nothing at t_max.
    assert metrics["noise/cross_entropy_t_min"] > 0.05
    assert metrics["noise/cross_entropy_t_max"] == pytest.approx(math.log(27), rel=0.1)
    assert len(found["warnings"]) == 1
    assert "lower --warp.t-min" in found["warnings"][0]
    times = [value for name, value in metrics.items() if name.startswith("warp/t(u=")]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (pytest.approx(0.3), pytest.approx(40.0))
    assert metrics["embedding/min_angle"] > 0.0
    assert command("probe", "--run", root / "cdcd" / "cdcd", "--count", 4) == 0
    assert "warning: cross-entropy at t_min" in capsys.readouterr().err


def test_probe_warns_when_text_shows_through(root: Path) -> None:
    trained, _ = load_run(root / "cdcd" / "simplex")
    bias_V = torch.full_like(trained.model.average.output.bias, -20.0)
    bias_V[0] = 0.0
    with torch.no_grad():
        trained.model.average.output.bias.copy_(bias_V)
        trained.model.average.output.weight.zero_()
        rows = torch.from_numpy(trained.held_out().rows()[:4])
    found = probe(trained, count=4).metrics
    # A network that always says the first token: the cross-entropy is the share of the others times 20 nats.
    wrong = float((rows != 0).double().mean())
    assert found["noise/cross_entropy_t_max"] == pytest.approx(20.0 * wrong, rel=1e-4)
    assert not any(name.startswith("embedding/") for name in found)


def test_probe_refuses_baselines(root: Path) -> None:
    with pytest.raises(ValueError, match="method 'ar' has no noise levels"):
        command("probe", "--run", root / "cdcd" / "ar")


def test_export_reads_back(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        trained, run = load_run(root / "cdcd" / kind)
        assert command("export", "--run", run.path, "--hf", tmp_path / kind) == 0
        assert str(tmp_path / kind) in capsys.readouterr().out
        assert load_language_tokenizer(tmp_path / kind).fingerprint() == trained.data.tokenizer.fingerprint()
    average = load_run(root / "cdcd" / "cdcd")[0].model.average
    assert torch.equal(load_cdcd(tmp_path / "cdcd").denoiser.output.weight, average.output.weight)
    average = load_run(root / "cdcd" / "simplex")[0].model.average
    assert torch.equal(load_simplex(tmp_path / "simplex").denoiser.output.weight, average.output.weight)
    average = load_run(root / "cdcd" / "ar")[0].model.average
    assert torch.equal(from_pretrained(Autoregressive, tmp_path / "ar").output.weight, average.output.weight)


@pytest.mark.parametrize("name", ["train", "eval", "sample", "infill", "probe", "export"])
def test_help_is_a_manual(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(name, "--help")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"byol-ext cdcd {name}" in printed
    assert {"train": "--warp.kind", "eval": "--eval.reference"}.get(name, "--run") in printed


def test_bad_arguments_exit_with_2(root: Path) -> None:
    zero_steps = ["eval", "--run", str(root / "cdcd" / "ar"), "--sample.steps", "0"]
    for args in (["eval"], zero_steps, ["sample"], ["infill", "a[[2]]"], ["probe"], ["export", "--run", "x"]):
        with pytest.raises(SystemExit) as stopped:
            command(*args)
        assert stopped.value.code == 2
    assert command("sampel") == 2
