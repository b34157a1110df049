"""A training that processes of their own run, to be killed and resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import training_toy as toy
from torch import Tensor

from byol_ext.bootstrap import Ctx

STEPS = 40


def train(path: Path, *, resume: bool, kill_at: int | None = None) -> None:
    """Train with dropout and BatchNorm; die at a step by SIGKILL if asked to."""
    torch.set_num_threads(1)

    def prepare(batch: dict[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return toy.prepare(batch, step)

    config = toy.config(steps=STEPS, checkpoint_every=3, log_every=1)
    run = toy.Run.create(path, recipe="toy", config=config, resume=resume, resume_command="again")
    toy.fit(model(), toy.source(), config, prepare=prepare, run=run, resume=resume)


def model() -> toy.Bootstrap:
    return toy.slap(norm="batch", dropout=0.2)
