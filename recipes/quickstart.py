"""``byol-ext quickstart``: each recipe's ``tiny`` preset in minutes, then one self-contained HTML report.

A recipe adds a section by an entry in :data:`SECTIONS`.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byol_ext.training.report import Report
from recipes import slap_config

if TYPE_CHECKING:
    from byol_ext.training import Run

logger = logging.getLogger(__name__)


def quickstart_command(args: Sequence[str]) -> int:
    """Run the sections and write the report.

    Returns:
        0 if every recipe succeeded, 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(
        prog="byol-ext quickstart", description="Train, evaluate and report the tiny recipes; a few CPU minutes."
    )
    parser.add_argument("--only", choices=sorted(SECTIONS), help="one recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder (default: runs/quickstart)")
    chosen = parser.parse_args(list(args))
    names = [chosen.only] if chosen.only else list(SECTIONS)
    report = Report("byol_ext quickstart", subtitle="what each recipe's tiny preset did on this machine")
    for name in names:
        code = SECTIONS[name](report, chosen.out)
        if code:
            return code
    path = report.save(chosen.out / "report.html")
    print(f"report: {path}")
    return 0


def slap_section(report: Report, out: Path) -> int:
    """SLAP on ToneCaps."""
    from byol_ext.training import Run
    from recipes.slap_commands import train_and_evaluate

    began = time.monotonic()
    folder = out / "slap" / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    code = train_and_evaluate(replace(slap_config.tiny(), name="tiny", root=str(out)))
    if code:
        return code
    run = Run.open(folder)
    shutil.copy(run.path / "results.json", out / "slap" / "results.json")
    results = run.results()
    assert results is not None
    add_slap(report, results, run.figures, seconds=time.monotonic() - began)
    return 0


def add_slap(report: Report, results: dict[str, Any], figures: Path, *, seconds: float) -> None:
    """The SLAP section of the report.

    Args:
        report: The report.
        results: Content of ``results.json``.
        figures: Folder of the figures.
        seconds: What training and evaluation took.
    """
    metrics, random = results["metrics"], results["controls"]["random_init"]
    report.section("SLAP: audio and text without negatives")
    report.text(
        "ToneCaps is made by code: tones of four waveforms, three registers, three tempi, three envelopes, with and "
        "without noise, and captions in several wordings. The test set holds combinations that training never heard. "
        f"Training and evaluation took {seconds:.0f} s."
    )
    rows = []
    for direction, label in (("text_to_audio", "text to audio"), ("audio_to_text", "audio to text")):
        for k in (1, 5, 10):
            name = f"retrieval/{direction}/R@{k}"
            rows.append(
                {
                    "retrieval, percent": f"{label} R@{k}",
                    "SLAP": metrics[name],
                    "untrained towers": random[name],
                    "chance": metrics[f"retrieval/{direction}/chance/R@{k}"],
                }
            )
    protocol = results["protocol"]
    report.table(rows, caption=f"{protocol['clips']} clips, {protocol['captions']} captions; {protocol['retrieval']}")
    tags = [
        name.split("/")[1] for name in metrics if name.startswith("zero_shot/") and name.endswith("chance/accuracy")
    ]
    report.table(
        [
            {
                "zero-shot and probes, percent correct": tag,
                "zero-shot": 100 * metrics[f"zero_shot/{tag}/ensemble/accuracy"],
                "linear probe": 100 * metrics[f"probe/{tag}/linear_accuracy"],
                "linear probe, untrained": 100 * random[f"probe/{tag}/linear_accuracy"],
                "most frequent class": 100 * metrics[f"zero_shot/{tag}/majority/accuracy"],
            }
            for tag in tags
        ],
        caption="A class is the mean of its descriptions; probes read the frozen representation",
    )
    report.figure(figures / "modalities_pca.png", caption="Audio and text in one space; lines join pairs")
    report.figure(figures / "similarity.png", caption="Cosine of every clip with every caption")
    report.figure(figures / "training.png", caption="Training")
    report.figure(figures / "gap_shift.png", caption="Recall when the modality gap is closed or widened")


def explore_section(report: Report, out: Path) -> int:
    """BYOL-Explore in the maze, beside a random walk."""
    from byol_ext.training import Run
    from recipes.explore_commands import train_and_evaluate
    from recipes.explore_config import tiny

    began = time.monotonic()
    runs = {}
    for agent in ("byol-explore", "random"):
        folder = out / "explore" / agent
        shutil.rmtree(folder, ignore_errors=True)
        code = train_and_evaluate(replace(tiny(), name=agent, agent=agent, root=str(out)))  # type: ignore[arg-type]
        if code:
            return code
        runs[agent] = Run.open(folder)
    shutil.copy(runs["byol-explore"].path / "results.json", out / "explore" / "results.json")
    add_explore(report, runs, seconds=time.monotonic() - began)
    return 0


def add_explore(report: Report, runs: Mapping[str, Run], *, seconds: float) -> None:
    """The exploration section of the report.

    Args:
        report: The report.
        runs: Finished runs by name of the agent.
        seconds: What training and evaluation took.
    """
    results = {name: run.results() for name, run in runs.items()}
    assert all(result is not None for result in results.values())
    metrics = {name: result["metrics"] for name, result in results.items() if result is not None}
    report.section("Explore: curiosity by bootstrapped prediction")
    report.text(
        "A maze without rewards: blocks move in its doorways, four trackers record who comes by. The agent is paid "
        "where its world model mispredicts its own embeddings of the next observations. Episodes are 500 steps; "
        f"{int(metrics['byol-explore']['train/env_steps']):,} steps and evaluation of both agents took {seconds:.0f} s."
    )
    rows = []
    for name, label in (
        ("maze/coverage", "share of the cells that an episode visits"),
        ("maze/trackers", "trackers reached in an episode, of 4"),
        ("maze/cells", "cells ever visited"),
    ):
        rows.append({"last 100 training episodes": label, **{agent: m[name] for agent, m in metrics.items()}})
    report.table(rows, caption="Both agents took the same number of steps; nothing but curiosity pays")
    for name, run in runs.items():
        report.figure(run.figures / "cells.png", caption=f"Where the agent {name} spent its time")
    report.figure(runs["byol-explore"].figures / "training.png", caption="Training of byol-explore")


def vididi_section(report: Report, out: Path) -> int:
    """VICReg on moving digits with derivatives, beside the same method without."""
    from byol_ext.training import Run
    from recipes.vididi import centre, train
    from recipes.vididi_commands import train_and_evaluate
    from recipes.vididi_config import tiny
    from recipes.vididi_eval import evaluate

    began = time.monotonic()
    for name in ("vididi", "base"):
        shutil.rmtree(out / "vididi" / name, ignore_errors=True)
    code = train_and_evaluate(replace(tiny(), name="vididi", root=str(out)))
    if code:
        return code
    run = Run.open(out / "vididi" / "vididi")
    shutil.copy(run.path / "results.json", out / "vididi" / "results.json")
    plain = replace(tiny(), name="base", root=str(out), method=replace(tiny().method, vididi=False))
    result, experiment, splits, _ = train(plain)
    if result.interrupted is not None:
        return 130
    assert splits.test is not None
    own = replace(plain.eval, controls=False)
    base = evaluate(experiment.encoder, train=splits.train, test=splits.test, config=own, centre=centre(plain))
    results = run.results()
    assert results is not None
    add_vididi(report, results["metrics"], base.metrics, run.figures, seconds=time.monotonic() - began)
    return 0


def add_vididi(
    report: Report, vididi: Mapping[str, float], base: Mapping[str, float], figures: Path, *, seconds: float
) -> None:
    """The video section of the report.

    Args:
        report: The report.
        vididi: Metrics of the run with derivatives, its controls among them.
        base: Metrics of the run without.
        figures: Folder of the figures.
        seconds: What training and evaluation of both took.
    """
    report.section("ViDiDi: video representations from temporal derivatives")
    report.text(
        "A digit moves over a photograph in one of eight ways, and a single frame says nothing of the way. VICReg "
        "learns from two clips of a video; with ViDiDi these are the clips, their differences from frame to frame, or "
        f"the differences of these. Training and evaluation of both took {seconds:.0f} s."
    )
    rows = []
    for label, name, scale, chance in (
        ("which motion, linear probe", "probe/linear_accuracy", 100, "probe/chance"),
        ("the same, with features of differences", "probe/linear_d1_accuracy", 100, "probe/chance"),
        ("same motion nearest (R@1)", "retrieval/R@1", 1, "retrieval/chance/R@1"),
    ):
        untrained = {
            "probe/linear_accuracy": "probe/random_init_accuracy",
            "probe/linear_d1_accuracy": "probe/random_init_linear_d1_accuracy",
            "retrieval/R@1": "retrieval/random_init/R@1",
        }[name]
        rows.append(
            {
                "percent": label,
                "VICReg, ViDiDi": scale * vididi[name],
                "VICReg": scale * base[name],
                "untrained": scale * vididi[untrained],
                "chance": scale * vididi[chance],
            }
        )
    report.table(rows, caption="So short a training shows directions; `byol-ext vididi study` has seeds and controls")
    report.figure(figures / "derivatives.png", caption="What the encoder is given")
    report.figure(figures / "retrieval.png", caption="Nearest training videos; colour says when a pixel changed")
    report.figure(figures / "saliency.png", caption="Where the encoder looks")
    report.figure(figures / "training.png", caption="Training")


def cdcd_section(report: Report, out: Path) -> int:
    """CDCD on the standard library's documentation in 27 symbols."""
    from byol_ext.training import Run
    from recipes.cdcd_commands import train_and_evaluate
    from recipes.cdcd_config import tiny

    began = time.monotonic()
    folder = out / "cdcd" / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    code = train_and_evaluate(replace(tiny(), root=str(out)))
    if code:
        return code
    run = Run.open(folder)
    shutil.copy(run.path / "results.json", out / "cdcd" / "results.json")
    results = run.results()
    assert results is not None
    add_cdcd(report, results, run.path, page=folder.relative_to(out) / "page.html", seconds=time.monotonic() - began)
    return 0


def add_cdcd(report: Report, results: dict[str, Any], run: Path, *, page: Path, seconds: float) -> None:
    """The text section of the report.

    Args:
        report: The report.
        results: Content of ``results.json``.
        run: Run directory.
        page: Where the run's own page is, from the report.
        seconds: What training and evaluation took.
    """
    metrics, controls = results["metrics"], results["controls"]
    report.section("CDCD: text by continuous diffusion")
    report.text(
        "Documentation strings of Python's standard library in 27 symbols. Each symbol is a point on a sphere; a "
        "Transformer tells which one a noisy point was, and sampling walks from noise to text. So short a training "
        f"gives no words yet: what it shows is that all parts run. Training and evaluation took {seconds:.0f} s; the "
        f"film of a sample, the warp and all tables are in {page}."
    )
    rows = []
    for label, name in (
        ("score under the n-gram model, nats a symbol", "ngram_nll"),
        ("entropy of all samples, nats", "entropy_pooled"),
        ("distance of symbol pairs to held-out text", "js2"),
        ("distance of symbol triples", "js3"),
        ("share of long words that exist", "words/found_long"),
    ):
        shown = {"CDCD": metrics, "held-out text": controls["held_out"], "random symbols": controls["unigram"]}
        rows.append({"samples": label} | {title: values[name] for title, values in shown.items()})
    bound = metrics["bits_per_char_bound"]
    report.table(
        rows, caption=f"{results['protocol']['samples']} samples; held-out text: at most {bound:.2f} bits a symbol"
    )
    report.figure(run / "figures" / "warp.png", caption="Where the learned warp puts the noise levels")
    report.figure(run / "figures" / "cross_entropy.png", caption="The warp should make this a straight line")


def image_section(report: Report, out: Path) -> int:
    """SimCLR on ClutterDigits."""
    from byol_ext.training import Run
    from recipes.image_commands import train_and_evaluate
    from recipes.image_config import tiny

    began = time.monotonic()
    folder = out / "image" / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    code = train_and_evaluate(replace(tiny(), root=str(out)))
    if code:
        return code
    run = Run.open(folder)
    shutil.copy(run.path / "results.json", out / "image" / "results.json")
    results = run.results()
    assert results is not None
    add_image(report, results, run.figures, seconds=time.monotonic() - began)
    return 0


def add_image(report: Report, results: dict[str, Any], figures: Path, *, seconds: float) -> None:
    """The image section of the report.

    Args:
        report: The report.
        results: Content of ``results.json``.
        figures: Folder of the figures.
        seconds: What training and evaluation took.
    """
    metrics, controls = results["metrics"], results["controls"]
    protocol = results["protocol"]
    report.section("Image: BYOL and its relatives")
    report.text(
        "ClutterDigits is made by code: a small digit at a random place, a piece of another one, and noise. Two draws "
        f"of a digit are two views. {int(metrics['train/steps'])} steps of SimCLR and their evaluation took "
        f"{seconds:.0f} s; `byol-ext image compare` has all methods with seeds and controls."
    )
    rows = []
    for label, name in (
        ("linear probe", "probe/linear_accuracy"),
        ("20 nearest neighbours", "probe/knn_accuracy"),
        ("linear probe, 10 % of the labels", "few_labels/10%/accuracy"),
    ):
        shown = {"SimCLR": metrics, "untrained": controls["random_init"], "raw pixels": controls["raw_pixels"]}
        row: dict[str, Any] = {"which digit, percent correct": label}
        rows.append(row | {title: 100 * values[name] for title, values in shown.items()})
    report.table(rows, caption=f"{protocol['n_test']} test pictures; chance {100 * metrics['probe/chance']:.0f}")
    report.figure(figures / "views.png", caption="What the encoder is given")
    report.figure(figures / "confusion.png", caption="Which digits the linear probe takes for which")
    report.figure(figures / "training.png", caption="Training")


SECTIONS: dict[str, Callable[[Report, Path], int]] = {
    "slap": slap_section,
    "explore": explore_section,
    "vididi": vididi_section,
    "cdcd": cdcd_section,
    "image": image_section,
}
