"""``byol-ext image compare``: methods at equal data, network and steps, one table and one figure.

Core-ssl spec 13 and 15: seeds with their spread, and the controls without which no row can be read: an untrained
encoder, raw pixels, a supervised encoder of the same size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from byol_ext.training import Run, plain, process_device
from byol_ext.training.run import flatten
from recipes.config import from_dict
from recipes.image_compare_table import draw, markdown, notes, tabulate
from recipes.image_config import PRESETS, ImageConfig
from recipes.image_method_config import EDGE_METHODS
from recipes.image_variants import METHODS, with_method
from recipes.study import run_missing

UNTRAINED, PIXELS, SUPERVISED = "random init", "raw pixels", "supervised"
CONTROLS = (UNTRAINED, PIXELS, SUPERVISED)
DATASETS = {"clutter-digits": "clutter", "fashion-mnist": "fashion", "openclipart": "openclipart"}
"""Preset of each data set."""
WIDE_SEEDS, SEEDS = 5, 3
"""Of bootstrapped methods, whose seeds differ by more than ten points, and of the others (spec 15)."""
FREE = ("eval.", "root", "data.workers")
"""What may differ between runs of a table: it does not change the weights."""


@dataclass(frozen=True)
class Study:
    """What the runs of a comparison have in common.

    Attributes:
        out: Its folder.
        preset: Name of a preset.
        settings: Dotted fields of the configuration and their values, beside the method's.
    """

    out: Path
    preset: str = "clutter"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        method: One of ``image_variants.METHODS``, or a control.
        seed: Its seed.
        varied: A dotted field that differs between runs, if one does.
        value: Its value in this run.
    """

    method: str
    seed: int
    varied: str = ""
    value: Any = None

    @property
    def arm(self) -> str:
        """What a table calls it."""
        return f"{self.method}, {self.varied.split('.')[-1]} {self.value}" if self.varied else self.method

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"{''.join(c if c.isalnum() or c in '-.' else '_' for c in self.arm)}-{self.seed}"


def study_cells(
    methods: Sequence[str], *, seeds: int | None = None, vary: tuple[str, Sequence[Any]] | None = None
) -> list[Cell]:
    """The runs of a comparison, controls not among them.

    Args:
        methods: Names.
        seeds: Of each; default: 5 of bootstrapped methods, 3 of the others.
        vary: A dotted field and the values that it takes.
    """
    field_name, values = vary if vary is not None else ("", [None])
    return [
        Cell(method, seed, field_name, value)
        for method in methods
        for value in values
        for seed in range(seeds if seeds is not None else seeds_of(method))
    ]


def seeds_of(method: str) -> int:
    """Seeds that a method needs before its mean says something."""
    name = with_method(PRESETS["clutter"](), method).method.name
    return WIDE_SEEDS if name in EDGE_METHODS else SEEDS


def control_cells(seeds: int) -> list[Cell]:
    """The controls; raw pixels have no seed."""
    return [Cell(UNTRAINED, seed) for seed in range(seeds)] + [
        Cell(PIXELS, 0),
        *(Cell(SUPERVISED, seed) for seed in range(min(seeds, SEEDS))),
    ]


def cell_config(study: Study, cell: Cell) -> ImageConfig:
    """The configuration of a run.

    Raises:
        ValueError: For settings that are none, or contradict the method.
    """
    config = PRESETS[study.preset]()
    config = with_method(config, "byol" if cell.method in CONTROLS else cell.method)
    settings = dict(study.settings) | ({cell.varied: cell.value} if cell.varied else {})
    config = from_dict(ImageConfig, nested(settings), base=config, where=cell.arm)
    return replace(
        config,
        name=cell.name,
        root=str(study.out),
        seed=cell.seed,
        train=replace(config.train, seed=cell.seed),
        eval=replace(config.eval, controls=False),
    )


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested mappings.

    Example:
        >>> nested({"train.lr": 0.1, "train.steps": 5, "seed": 1})
        {'train': {'lr': 0.1, 'steps': 5}, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        *parts, last = name.split(".")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def run_cell(study: Study, cell: Cell) -> int:
    """One run; goes on from its checkpoint where there is one."""
    from recipes.image_commands import train_and_evaluate

    config = cell_config(study, cell)
    if cell.method in CONTROLS:
        return run_control(config, cell.method)
    return train_and_evaluate(config, resume=True)


def run_control(config: ImageConfig, control: str) -> int:
    """Measure a control as a run of its own, so that its row is made as all others are."""
    from recipes.image import fresh
    from recipes.image_commands import begins_anew, cost
    from recipes.image_data import open_splits
    from recipes.image_eval import branch_of, calibrate_norms, evaluate, raw_pixels
    from recipes.image_supervised import train_supervised

    if control == SUPERVISED:
        whole, began = begins_anew(config), time.process_time()
        result, model, splits, run = train_supervised(config, resume=True)
        if result.interrupted is not None:
            return 130
        took = time.process_time() - began
        evaluation = evaluate(model.encoder, splits, config)
        extra = {"train/steps": float(result.step), "train/encoder_passes": 1.0, **cost(run)}
        extra |= {"train/cpu_seconds": took} if whole else {}
    else:
        splits = open_splits(config)
        path = Path(config.root) / "image" / config.name
        run, extra = Run.create(path, recipe=f"image-{control.replace(' ', '-')}", config=config, resume=True), {}
        if control == PIXELS:
            evaluation = evaluate(raw_pixels(splits), splits, config)
        else:
            branch = branch_of(fresh(config).model).to(process_device(config.train.device))
            calibrate_norms(branch, splits.train, config)
            evaluation = evaluate(branch.encoder, splits, config, projector=branch.projector)
    run.write_results(evaluation.metrics | extra, protocol=evaluation.protocol | {"control": control})
    return 0


def finished_cells(study: Study, cells: Sequence[Cell]) -> list[str]:
    """Names of the runs that have results.

    Raises:
        ValueError: If one was made with other settings: its results would stand in a table that says otherwise.
    """
    done = []
    for cell in cells:
        path = study.out / "image" / cell.name
        if not (path / "results.json").exists():
            continue
        now, then = _weighty(plain(cell_config(study, cell))), _weighty(Run.open(path).config)
        differing = sorted(name for name in now if now[name] != then.get(name))
        if differing:
            raise ValueError(
                f"{path} was made with another {', '.join(differing)}; give the options that it had, or another --out"
            )
        done.append(cell.name)
    return done


def _weighty(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change weights, by dotted name."""
    return {name: value for name, value in flatten(config).items() if not name.startswith(FREE)}


def compare_command(args: Sequence[str]) -> int:
    """``byol-ext image compare``: run what is missing, then tabulate."""
    parser = argparse.ArgumentParser(
        prog="byol-ext image compare",
        description="Methods at equal data, network and steps, with seeds and controls: one table, one figure. "
        "Finished runs are kept: call it again after an interrupt, or with more methods or seeds.",
        epilog=f"methods: {', '.join(METHODS)}",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help="default: all, see below")
    parser.add_argument("--seeds", type=int, help=f"of each (default: {WIDE_SEEDS} if bootstrapped, else {SEEDS})")
    parser.add_argument("--dataset", choices=list(DATASETS), default="clutter-digits", help="default: clutter-digits")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the preset's, 1000)")
    parser.add_argument("--batch", type=int, help="pictures in a step (default: the preset's, 128)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="other settings of all runs"
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        metavar=("FIELD", "VALUE"),
        help="run each method at each value, such as --vary train.lr 1e-3 3e-3: adds how well RankMe orders them, and "
        "what each class pays for the value that is best on average",
    )
    parser.add_argument("--no-controls", action="store_true", help="leave the controls out")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument("--out", type=Path, help="folder (default: runs/image-compare/DATASET)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(list(args))
    try:
        study, cells, controls = planned(chosen)
    except ValueError as error:
        parser.error(str(error))
    everything = [*controls, *cells]
    tasks = {cell.name: partial(run_cell, study, cell) for cell in everything}
    run_missing(tasks, finished=finished_cells(study, everything), jobs=chosen.jobs, logs=study.out / "logs")
    arms = {cell.arm: [own.name for own in everything if own.arm == cell.arm] for cell in everything}
    table = tabulate(study.out, arms)
    varied = {cell.arm: (cell.method, cell.value) for cell in cells if cell.varied}
    remarks = notes(study.out, arms, varied)
    result = {"preset": study.preset, "settings": dict(study.settings), "rows": table, **remarks}
    (study.out / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    title = f"Methods on {chosen.dataset}"
    draw(study.out, arms, controls=[cell.arm for cell in controls], title=title, path=study.out / "compare.png")
    print(json.dumps(result, indent=1) if chosen.json else markdown(table, remarks))
    print(f"study: {study.out}", file=sys.stderr)
    return 0


def planned(chosen: argparse.Namespace) -> tuple[Study, list[Cell], list[Cell]]:
    """Study, runs and controls of the command's options, each configuration checked.

    Raises:
        ValueError: For an unknown method or field, or settings that contradict each other.
    """
    settings = dict(_setting(text) for text in chosen.set)
    if chosen.steps is not None:
        settings["train.steps"] = chosen.steps
    if chosen.batch is not None:
        settings["data.batch"] = chosen.batch
    out = chosen.out or Path("runs/image-compare") / chosen.dataset
    study = Study(out, DATASETS[chosen.dataset], settings)
    vary = None
    if chosen.vary is not None:
        if len(chosen.vary) < 3:
            raise ValueError("--vary needs a field and two values at least, such as --vary train.lr 1e-3 3e-3")
        vary = (chosen.vary[0], [_value(text) for text in chosen.vary[1:]])
    cells = study_cells(chosen.methods, seeds=chosen.seeds, vary=vary)
    controls = [] if chosen.no_controls else control_cells(max(cell.seed for cell in cells) + 1)
    for cell in (*cells, *controls):
        cell_config(study, cell)
    return study, cells, controls


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected FIELD=VALUE, such as train.lr=1e-3")
    return name, _value(value)


def _value(text: str) -> Any:
    """A number, truth value or list where it reads as one in JSON, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
