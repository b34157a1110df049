"""States of environments in a form that ``torch.load(weights_only=True)`` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def pack(value: Any) -> Any:
    """A nested state with NumPy arrays as one that a checkpoint can hold."""
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.array(value)
        if array.dtype == np.uint64:
            return {"uint64": torch.from_numpy(array.view(np.int64))}
        return {"array": torch.from_numpy(array)}
    return value


def unpack(value: Any) -> Any:
    """The inverse of :func:`pack`."""
    if isinstance(value, Mapping):
        if set(value) == {"uint64"}:
            return value["uint64"].numpy().view(np.uint64)
        if set(value) == {"array"}:
            return value["array"].numpy()
        return {key: unpack(item) for key, item in value.items()}
    return [unpack(item) for item in value] if isinstance(value, list) else value
