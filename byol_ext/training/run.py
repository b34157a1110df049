"""The run directory: configuration, metrics, checkpoints, figures, results, and a card about the run.

``runs/<recipe>/<name>/`` holds ``config.yaml``, ``run.json`` (recipe and resume command), ``metrics.jsonl`` (one JSON
object a log step), ``checkpoints/step-N/``, ``figures/*.png``, ``results.json`` and ``README.md``. With several
processes only the first writes; all must see the directory when a run is resumed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml

from byol_ext.training.checkpoint import latest_checkpoint, list_checkpoints
from byol_ext.training.environment import environment
from byol_ext.training.source import rank_and_world

logger = logging.getLogger(__name__)


class Run:
    """A run directory.

    Use :meth:`create` or :meth:`open`.

    Attributes:
        path: The directory.
        recipe: Name of the recipe.
        config: The resolved configuration as plain YAML values.
        resume_command: Shell command that continues the run.
        free: Dotted configuration keys (or prefixes of them) that may change when the run is resumed.
        device: Where it trains, as soon as ``fit`` knows.
    """

    def __init__(
        self, path: Path, *, recipe: str, config: dict[str, Any], resume_command: str, free: tuple[str, ...] = ()
    ) -> None:
        self.path, self.recipe, self.config = Path(path), recipe, config
        self.resume_command, self.free = resume_command, free
        self.device: torch.device | None = None
        self.writes = rank_and_world()[0] == 0

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        recipe: str,
        config: Any = None,
        resume: bool = False,
        resume_command: str | None = None,
        free: tuple[str, ...] = (),
    ) -> Run:
        """Make the directory of a new run, or go back to it with ``resume``.

        Args:
            path: The directory, by convention ``runs/<recipe>/<name>``.
            recipe: Name of the recipe.
            config: Resolved configuration: a dataclass or mapping.
            resume: Whether the run may exist already. ``fit(resume=True)`` compares its configuration.
            resume_command: Default: this command line with ``--resume`` added.
            free: Dotted keys that may change when resuming, such as ``("eval", "run_name")``; the limits and intervals
                of the training loop may anyway.

        Raises:
            FileExistsError: If the directory holds a run and ``resume`` is false.
        """
        path = Path(path)
        run = cls(
            path,
            recipe=recipe,
            config=plain(config) if config is not None else {},
            resume_command=resume_command if resume_command is not None else _own_command(),
            free=free,
        )
        exists = (path / "metrics.jsonl").exists() or bool(list_checkpoints(run.checkpoints))
        if run.writes:
            if exists and not resume:
                raise FileExistsError(f"{path} holds a run already; resume it, or choose another name")
            run.figures.mkdir(parents=True, exist_ok=True)
            run.checkpoints.mkdir(exist_ok=True)
            if not exists:
                run.write_config()
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run that exists, for evaluation.

        Raises:
            FileNotFoundError: If the directory holds no ``config.yaml``.
        """
        path = Path(path)
        file = path / "config.yaml"
        if not file.is_file():
            raise FileNotFoundError(f"{path} is not a run directory: it has no config.yaml")
        about = json.loads((path / "run.json").read_text())
        config = yaml.safe_load(file.read_text())
        return cls(path, recipe=about["recipe"], config=config, resume_command=about["resume_command"])

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Directory of the figures."""
        return self.path / "figures"

    @property
    def latest(self) -> Path | None:
        """The newest complete checkpoint; damaged ones are skipped with a warning."""
        return latest_checkpoint(self.checkpoints)

    def write_config(self) -> None:
        """Write ``config.yaml``, and ``run.json`` with the recipe and the command that continues the run."""
        if self.writes:
            text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
            _replace(self.path / "config.yaml", text)
            about = {"recipe": self.recipe, "resume_command": self.resume_command}
            _replace(self.path / "run.json", json.dumps(about, indent=1) + "\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``; values that are not finite become null."""
        if self.writes:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(json_value(record)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; an incomplete last line is left out."""
        file = self.path / "metrics.jsonl"
        records = []
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                logger.warning("%s has an incomplete line; a run was killed while writing it", file)
        return records

    def truncate_metrics(self, step: int) -> None:
        """Drop lines after a step, so that a resumed run writes none twice."""
        file = self.path / "metrics.jsonl"
        if self.writes and file.exists():
            kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
            _replace(file, "".join(kept))

    def write_results(
        self,
        metrics: Mapping[str, float],
        *,
        controls: Mapping[str, Any] | None = None,
        protocol: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
    ) -> Path:
        """Write ``results.json`` (design 10) and the card.

        Args:
            metrics: Flat names to numbers.
            controls: Results of the controls: random initialisation, shuffled captions, chance.
            protocol: How it was measured: N, seeds, pools.
            device: Where it was measured; default: where the run trained in this process, else what its configuration
                says, else CUDA where PyTorch sees it.

        Returns:
            Path of ``results.json``.
        """
        path = self.path / "results.json"
        if self.writes:
            results = {
                "recipe": self.recipe,
                "metrics": metrics,
                "controls": controls or {},
                "protocol": protocol or {},
                "environment": environment(device if device is not None else self._device()),
            }
            _replace(path, json.dumps(json_value(results), indent=1) + "\n")
            self.write_card()
        return path

    def results(self) -> dict[str, Any] | None:
        """The content of ``results.json``, or ``None`` before the evaluation."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write_card(self) -> None:
        """Write ``README.md`` from what the directory holds."""
        if self.writes:
            _replace(self.path / "README.md", "\n".join(self._card()) + "\n")

    def _device(self) -> torch.device | str | None:
        if self.device is not None:
            return self.device
        configured = {str(v) for k, v in flatten(self.config).items() if k.split(".")[-1] == "device"}
        return "cpu" if configured == {"cpu"} else None

    def _card(self) -> list[str]:
        results, records, newest = self.results(), self.metrics(), self.latest
        lines = [f"# {self.recipe}: {self.name}", ""]
        if newest is not None:
            lines += [f"Newest checkpoint: `{newest.relative_to(self.path)}`.  ", f"Resume: `{self.resume_command}`"]
        if results is not None:
            lines += ["", "## Results", "", *_table(results["metrics"])]
            for part in ("controls", "protocol"):
                if results[part]:
                    lines += ["", f"### {part.capitalize()}", "", *_table(flatten(results[part]))]
        if records:
            lines += ["", f"## Training, step {records[-1]['step']}", "", *_table(records[-1])]
        figures = sorted(self.figures.glob("*.png"))
        if figures:
            lines += ["", "## Figures", "", *[f"![{f.stem}](figures/{f.name})" for f in figures]]
        lines += ["", "## Configuration", "", "```yaml", yaml.safe_dump(self.config, sort_keys=False).rstrip(), "```"]
        where = results["environment"] if results is not None else environment(self._device())
        return [*lines, "", "## Environment", "", *_table(flatten(where))]


def plain(value: Any) -> Any:
    """A configuration as YAML values: dataclasses to dicts, sequences to lists, paths and enums to strings.

    Raises:
        TypeError: If a value is of another kind.

    Example:
        >>> plain({"out": Path("runs"), "betas": (0.9, 0.999)})
        {'out': 'runs', 'betas': [0.9, 0.999]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a configuration cannot hold {value!r} of type {type(value).__name__}")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys.

    Example:
        >>> flatten({"a": {"b": 1}, "c": 2})
        {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def json_value(value: Any) -> Any:
    """Strict JSON: numbers that are not finite become null, NumPy and tensor scalars become numbers."""
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _table(values: Mapping[str, Any]) -> list[str]:
    rows = [f"| {key} | {f'{v:.6g}' if isinstance(v, float) else v} |" for key, v in values.items()]
    return ["| name | value |", "|---|---|", *rows]


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _own_command() -> str:
    arguments = [argument for argument in sys.argv if argument != "--resume"]
    return shlex.join([*arguments, "--resume"])
