"""Command line and files of a recipe's configuration: preset, then ``--config FILE``, then options; how to resume."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import shlex
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from byol_ext.training import Run, rank_and_world

C = TypeVar("C")


def parse(
    default: Callable[[], C],
    presets: Mapping[str, Callable[[], C]],
    args: Sequence[str],
    *,
    prog: str,
    description: str,
) -> C:
    """Read a configuration from command-line arguments.

    Args:
        default: The configuration that options change when neither preset nor file is named.
        presets: Functions that return a configuration.
        args: Arguments after the command.
        prog: What the user typed, for messages.
        description: First lines of ``--help``.

    Raises:
        SystemExit: With code 2 for bad arguments.
    """
    first = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(presets))
    first.add_argument("--config", type=Path)
    chosen, rest = first.parse_known_args(list(args))
    try:
        config = presets[chosen.preset]() if chosen.preset else default()
        if chosen.config:
            config = load(type(config), chosen.config, base=config)
    except (ValueError, OSError) as error:
        sys.exit(_bad_arguments(prog, str(error)))
    about = f"{description}\n\n--preset {{{','.join(presets)}}} starts from a preset, --config FILE from a saved run."
    try:
        return tyro.cli(type(config), default=config, args=rest, prog=prog, description=about)
    except ValueError as error:
        sys.exit(_bad_arguments(prog, str(error)))


def _bad_arguments(prog: str, message: str) -> int:
    print(f"{prog}: {message}", file=sys.stderr)
    return 2


def load(kind: type[C], path: Path, *, base: C | None = None) -> C:
    """Read a YAML file into a configuration; fields it leaves out come from ``base``.

    Args:
        kind: Dataclass of the configuration.
        path: YAML file, such as a run's ``config.yaml``.
        base: Where missing fields come from; the dataclass's defaults by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no mapping, or holds an unknown key; the message names the nearest known one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config {path}: no such file")
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; expected a mapping of fields")
    return from_dict(kind, values, base=base, where=str(path))


def from_dict(kind: type[C], values: Mapping[str, Any], *, base: C | None = None, where: str = "") -> C:
    """Build a (nested) dataclass from plain values.

    Args:
        kind: The dataclass.
        values: Fields by name.
        base: Where missing fields come from.
        where: File and field, for messages.

    Raises:
        ValueError: For an unknown key or a value of another type.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known = {name: getattr(base, name) for name in fields} if base is not None else {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(fields)}"
            raise ValueError(f"{where}: unknown key {name!r}{hint}")
        hint_type = hints[name]
        if dataclasses.is_dataclass(hint_type) and isinstance(value, Mapping):
            nested = known.get(name)
            known[name] = from_dict(hint_type, value, base=nested, where=f"{where}: {name}")  # type: ignore[type-var]
        else:
            known[name] = _coerce(value, hint_type, f"{where}: {name}")
    return kind(**known)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Plain YAML values as the field's type: lists become tuples, integers may stand for floats."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where}={value!r} is not one of {', '.join(map(repr, typing.get_args(hint)))}")
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        problems = []
        for option in (o for o in options if o is not type(None)):
            try:
                return _coerce(value, option, where)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError(problems[0])
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}={value!r} must be a list")
        item = typing.get_args(hint)[0]
        return tuple(_coerce(v, item, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ValueError(f"{where}={value!r} must be of type {hint.__name__}")
    return value


def open_run(path: str | Path, recipe: str, kind: type[C]) -> tuple[C, Run, Path]:
    """A trained run: its configuration, itself, its newest checkpoint.

    Args:
        path: Run directory.
        recipe: Name of the recipe that it must be of.
        kind: Dataclass of that recipe's configuration.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
        ValueError: If it is another recipe's run, or its configuration does not fit this version.
    """
    run = Run.open(path)
    if run.recipe != recipe:
        raise ValueError(f"{path} is a run of {run.recipe!r}, not of {recipe}")
    config = from_dict(kind, run.config, where=str(run.path / "config.yaml"))
    if run.latest is None:
        raise FileNotFoundError(f"{path} has no complete checkpoint; train it first")
    return config, run, run.latest


def resume_command(recipe: str, path: Path) -> str:
    """The shell command that continues a run, with the launcher where there are several processes.

    Args:
        recipe: Name of the recipe.
        path: Run directory.
    """
    world = rank_and_world()[1]
    config = shlex.quote(str(path / "config.yaml"))
    if world == 1:
        return f"byol-ext {recipe} train --config {config} --resume"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    nodes = (
        f"--nnodes {world // local} --rdzv-backend c10d --rdzv-endpoint HOST:PORT "
        if world > local
        else "--standalone "
    )
    return f"torchrun {nodes}--nproc-per-node {local} -m recipes.cli {recipe} train --config {config} --resume"
