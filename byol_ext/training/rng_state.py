"""Capture and restore the global random generators of this process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def torch_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """PyTorch's CPU generator and, on CUDA, the device's."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_torch_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    """Undo :func:`torch_state`."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def capture(device: torch.device) -> dict[str, Any]:
    """State of Python's, NumPy's and PyTorch's generators, of types that ``torch.load(weights_only=True)`` reads."""
    cpu, cuda = torch_state(device)
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, python_gauss = random.getstate()
    numpy_state = [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)]
    return {"python": [version, list(internal), python_gauss], "numpy": numpy_state, "torch": cpu, "cuda": cuda}


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`capture`; the CUDA state is ignored on another device."""
    version, internal, python_gauss = state["python"]
    random.setstate((version, tuple(internal), python_gauss))
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def preserved(device: torch.device) -> Iterator[None]:
    """Run a block without trace in the generators, so that evaluating more often does not change the training."""
    state = capture(device)
    try:
        yield
    finally:
        restore(state, device)


def seed_all(seed: int, rank: int) -> None:
    """Seed all three generators with a stream of this rank."""
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    torch.manual_seed(mixed & 0x7FFFFFFFFFFFFFFF)
