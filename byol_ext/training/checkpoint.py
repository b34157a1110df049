"""Checkpoints that are complete or absent.

``checkpoints/step-N/`` holds ``model.safetensors``, ``state.pt`` (everything else, read with ``weights_only=True``) and
``meta.json`` (configuration, data fingerprint, git hash, sizes and checksums). It is written under a temporary name,
synced to disk and renamed; a folder that does not match its ``meta.json`` is skipped with a warning.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)")
_WEIGHTS, _STATE, _META = "model.safetensors", "state.pt", "meta.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        step: Optimiser steps done.
        model: The model's ``state_dict``.
        state: Optimiser, scaler, generators, source positions, counters.
        meta: What was said about it: configuration, fingerprint, versions.
    """

    step: int
    model: dict[str, Any]
    state: dict[str, Any]
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, *, model: dict[str, Any], state: dict[str, Any], meta: dict[str, Any], keep: int
) -> Path:
    """Write ``folder/step-<step>`` and remove all but the newest ``keep``.

    Args:
        folder: The run's ``checkpoints`` directory.
        step: Optimiser steps done.
        model: The model's ``state_dict``; tied tensors are stored once.
        state: Anything that ``torch.load(weights_only=True)`` reads.
        meta: JSON values.
        keep: Checkpoints to keep, this one included.

    Returns:
        The checkpoint's path.

    Raises:
        TypeError: If ``state`` holds objects that ``weights_only`` loading refuses; nothing is left behind then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{step}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors, aliases, extra = _split(model)
    save_file(tensors, temporary / _WEIGHTS, metadata={"format": "pt", "aliases": json.dumps(aliases)})
    torch.save({"state": state, "model_extra": extra}, temporary / _STATE)
    _check_readable(temporary)
    files = {name: _describe(temporary / name) for name in (_WEIGHTS, _STATE)}
    (temporary / _META).write_text(json.dumps({**meta, "step": step, "files": files}, indent=1))
    for name in (_WEIGHTS, _STATE, _META):
        _sync(temporary / name)
    _sync(temporary)
    final = folder / f"step-{step}"
    if final.exists():
        _remove(final)
    temporary.rename(final)
    _sync(folder)
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If its files do not match their sizes and checksums.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a checkpoint directory")
    problem = _problem(path)
    if problem:
        raise ValueError(f"checkpoint {path} is damaged: {problem}; use an older one")
    meta = json.loads((path / _META).read_text())
    saved = torch.load(path / _STATE, map_location="cpu", weights_only=True)
    return Checkpoint(meta["step"], load_model_state(path) | saved["model_extra"], saved["state"], meta)


def load_model_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint's model, tied ones under each of their names."""
    with safe_open(path / _WEIGHTS, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
    return tensors | {alias: tensors[name] for alias, name in aliases.items()}


def load_weights(model: nn.Module, path: Path) -> int:
    """Load a checkpoint's weights, online and target, into a model built as for training.

    Args:
        model: The model.
        path: A checkpoint directory, such as :attr:`byol_ext.training.Run.latest`.

    Returns:
        The checkpoint's step.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is damaged.
        RuntimeError: If names or shapes differ (from ``load_state_dict``).
    """
    checkpoint = load_checkpoint(path)
    model.load_state_dict(checkpoint.model)
    return checkpoint.step


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint directories, oldest step first, complete or not."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; damaged ones are skipped with a warning.

    Args:
        folder: The run's ``checkpoints`` directory; it need not exist.
    """
    for path in reversed(list_checkpoints(folder)):
        problem = _problem(path)
        if problem is None:
            return path
        logger.warning("skipping the damaged checkpoint %s: %s", path, problem)
    return None


def tidy(folder: Path, *, newest: Path | None) -> None:
    """Before training goes on: remove half-written folders, and put damaged newer ones aside as ``*.bad``.

    Args:
        folder: The run's ``checkpoints`` directory.
        newest: The checkpoint that training continues from; newer ones are damaged.
    """
    for temporary in folder.glob(".step-*.tmp"):
        shutil.rmtree(temporary)
    paths = list_checkpoints(folder)
    for path in paths if newest is None else paths[paths.index(newest) + 1 :]:
        path.rename(_free_name(path.with_name(f"{path.name}.bad")))


def _free_name(path: Path) -> Path:
    """The path, or the first of ``path-2``, ``path-3``, ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _split(model: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Distinct tensors, names of tied ones by alias, and values that are not tensors."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    extra: dict[str, Any] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in model.items():
        if not isinstance(value, Tensor):
            extra[name] = value
            continue
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and identity in first:
            aliases[name] = first[identity]
            continue
        first[identity] = name
        tensor = value.detach().to("cpu").contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        tensors[name] = tensor if whole else tensor.clone()
    return tensors, aliases, extra


def _check_readable(temporary: Path) -> None:
    try:
        torch.load(temporary / _STATE, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        shutil.rmtree(temporary)
        raise TypeError(
            "the checkpoint state holds an object that torch.load(weights_only=True) refuses; a source's state_dict "
            f"may hold numbers, strings, tensors, lists, tuples and dicts only ({error})"
        ) from error


def _describe(path: Path) -> dict[str, int]:
    return {"bytes": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be used, or ``None``."""
    try:
        files = json.loads((path / _META).read_text())["files"]
        for name in (_WEIGHTS, _STATE):
            size = (path / name).stat().st_size
            if size != files[name]["bytes"]:
                return f"{name} has {size} bytes instead of {files[name]['bytes']}"
            if _crc32(path / name) != files[name]["crc32"]:
                return f"{name} does not match its checksum"
        with safe_open(path / _WEIGHTS, framework="pt"):
            return None
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"


def _remove(path: Path) -> None:
    """Remove a checkpoint so that a crash midway leaves no folder that looks like one."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
