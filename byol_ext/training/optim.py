"""Parameter groups and the default optimiser."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from byol_ext.training.config import TrainConfig

PREDICTORS = "predictors."


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    predictor_lr_scale: float = 1.0,
    predictor_lr_schedule: Literal["same", "const"] = "same",
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: decayed weight matrices and the rest, predictors apart if their rate differs.

    Not decayed: parameters of fewer than two dims (biases, norms, temperatures) and those that a module lists by their
    local names in an attribute ``no_decay``. Frozen parameters, such as a target's, are left out; a shared one is
    taken once.

    Args:
        model: The model.
        weight_decay: Decay of the first group.
        predictor_lr_scale: Factor ``lr_scale`` of the groups that hold the model's ``predictors``.
        predictor_lr_schedule: ``const`` gives these groups ``constant_lr``, which keeps the loop from scheduling them.

    Returns:
        Groups for a ``torch.optim`` optimiser, empty ones left out.

    Example:
        >>> groups = parameter_groups(nn.Linear(3, 2), 0.1)
        >>> [(g["weight_decay"], len(g["params"])) for g in groups]
        [(0.1, 1), (0.0, 1)]
    """
    extra: dict[str, Any] = {"lr_scale": predictor_lr_scale} if predictor_lr_scale != 1.0 else {}
    if predictor_lr_schedule == "const":
        extra["constant_lr"] = True
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        listed = set(getattr(module, "no_decay", ()))
        apart = bool(extra) and f"{prefix}.".startswith(PREDICTORS)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            kept = parameter.ndim < 2 or name in listed
            groups.setdefault((apart, kept), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": 0.0 if key[1] else weight_decay} | (extra if key[0] else {})
        for key in sorted(groups)
    ]


def adamw(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over :func:`parameter_groups`, fused on CPU and CUDA.

    Args:
        model: The model, already on its device.
        config: Learning rate, decay and betas.
        device: Where it trains.

    Raises:
        ValueError: If the model has no trainable parameter.
    """
    groups = parameter_groups(
        model,
        config.weight_decay,
        predictor_lr_scale=config.predictor_lr_scale,
        predictor_lr_schedule=config.predictor_lr_schedule,
    )
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=device.type in ("cpu", "cuda"))
