"""Whole state of a model and optimiser that FSDP has spread over processes.

A checkpoint then looks as one of a single process does, except that the optimiser's state goes by parameter names.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer


def gather_state(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dicts of model and optimiser, whole and on the CPU of the first process; empty on the others.

    Args:
        model: The sharded model.
        optimizer: Its optimiser.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, state = get_state_dict(model, optimizer, options=options)
    return dict(weights), dict(state)


def scatter_state(
    model: nn.Module, optimizer: Optimizer, *, weights: dict[str, Any], optimizer_state: dict[str, Any]
) -> None:
    """Undo :func:`gather_state`; each process passes the whole state.

    Args:
        model: The sharded model.
        optimizer: Its optimiser.
        weights: Whole state dict of the model.
        optimizer_state: Whole state of the optimiser.
    """
    set_state_dict(
        model,
        optimizer,
        model_state_dict=weights,
        optim_state_dict=optimizer_state,
        options=StateDictOptions(full_state_dict=True),
    )
