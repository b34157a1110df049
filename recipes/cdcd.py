"""Text diffusion end to end: configuration -> text -> sequences -> CDCD (or a baseline) -> fit -> checkpoints.

"Continuous diffusion for categorical data" (Dieleman et al., arXiv 2211.15089), simplex diffusion (Richemond et al.,
arXiv 2210.14784), and an autoregressive and a masked-diffusion model of the same Transformer, through one loop.

Legend: ``B`` sequences, ``L`` positions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from byol_ext.bootstrap import Ctx, Out
from byol_ext.diffusion.averaged import Averaged
from byol_ext.diffusion.embeddings import EmbeddingMonitor
from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.times import TokenContext
from byol_ext.diffusion.warp import LogUniformWarp
from byol_ext.rng import sample_keys
from byol_ext.text.language_data import LanguageData, PackedSequences
from byol_ext.training import (
    FitResult,
    LoaderSource,
    Monitor,
    ResumableSampler,
    Run,
    fit,
    load_weights,
    process_device,
    rank_and_world,
)
from recipes.cdcd_config import CdcdConfig
from recipes.cdcd_data import open_data
from recipes.cdcd_model import TextTrainable, build, build_optimizer
from recipes.config import open_run, resume_command

FREE = ("eval", "sample", "root", "data.workers", "data.root", "data.cache")
"""What may differ when a run is resumed: it does not change the weights."""
CURVE_SEQUENCES = 64
"""Held-out sequences of the curves that are logged."""


@dataclass
class Trained:
    """A model with its text.

    Attributes:
        config: How it was made.
        data: The text.
        model: The trainable; ``model.average`` is the network to evaluate.
    """

    config: CdcdConfig
    data: LanguageData
    model: TextTrainable

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def held_out(self, length: int | None = None) -> PackedSequences:
        """Held-out sequences, of the training's length by default."""
        return self.data.sequences("validation", length or self.config.data.length)


def train(
    config: CdcdConfig, *, resume: bool = False, data: LanguageData | None = None
) -> tuple[FitResult, Trained, Run]:
    """Train from a configuration.

    Args:
        config: The configuration.
        resume: Whether to continue the run of that name.
        data: The text of ``config.data`` where it is open already.

    Returns:
        How it ended, the model in evaluation mode, the run.

    Raises:
        FileNotFoundError: If the text is not there.
        ValueError: If sizes do not go together.
    """
    data = data if data is not None else open_data(config.data)
    path = Path(config.root) / "cdcd" / config.name
    run = Run.create(
        path, recipe="cdcd", config=config, resume=resume, resume_command=resume_command("cdcd", path), free=FREE
    )
    if rank_and_world()[0] == 0:
        (run.path / "data.json").write_text(json.dumps(data.facts(), indent=1) + "\n")
    sequences = data.sequences("train", config.data.length, shift=True, seed=config.seed)
    source = LoaderSource(
        sequences,
        ResumableSampler(len(sequences), config.data.batch, seed=config.seed),
        collate=default_collate,
        num_workers=config.data.workers,
    )
    trained = Trained(config, data, build(config, data.tokenizer.vocab_size))
    result = fit(
        trained.model,
        source,
        config.train,
        prepare=TokenContext(config.seed),
        run=run,
        monitors=monitors(trained),
        resume=resume,
        optimizer=lambda model: build_optimizer(config, model),
        unit="sequences",
    )
    trained.model.eval()
    return result, trained, run


def monitors(trained: Trained) -> list[Monitor]:
    """Curves on held-out text, which show progress where the training loss does not, and the embeddings' health."""
    watch: list[Monitor] = []
    if trained.config.curve_times:
        watch.append(HeldOutCurve(trained))
    if isinstance(trained.model, CDCD):
        watch.append(EmbeddingMonitor())
    return watch


class HeldOutCurve:
    """Loss of the averaged weights on the same held-out sequences, masks and noise each time; a monitor of ``fit``.

    Diffusion: ``curve/t=...`` is the cross-entropy at fixed noise levels, evenly spaced in the logarithm. Baselines:
    ``curve/nats``, the bound (mdlm) or the exact value (ar) in nats a token.

    Args:
        trained: Model and text.
    """

    def __init__(self, trained: Trained) -> None:
        held_out = trained.held_out()
        rows = [held_out[i] for i in range(min(CURVE_SEQUENCES, len(held_out)))]
        self.tokens_BL: Tensor = torch.stack([row["tokens"] for row in rows])
        self.ids_B = torch.arange(len(rows))
        self.points = trained.config.curve_times

    def __call__(self, model: nn.Module, out: Out, step: int) -> Mapping[str, float]:
        """Values to log."""
        device = next(model.parameters()).device
        tokens_BL = self.tokens_BL.to(device)
        keys_B = sample_keys(0, 0, self.ids_B).to(device)
        if isinstance(model, Averaged):
            quantiles_B = (self.ids_B.to(device) + 0.5) / len(self.ids_B)
            views, ctx = {"tokens": tokens_BL}, Ctx(data={"keys": keys_B, "u": quantiles_B})
            return {"curve/nats": float(model.average.objective(views, ctx).loss)}
        assert isinstance(model, CDCD | SimplexModel)
        levels = LogUniformWarp(model.warp.t_min, model.warp.t_max).times(torch.linspace(0.0, 1.0, self.points))
        values: dict[str, float] = {}
        for t in levels.tolist():
            t_B = torch.full((len(tokens_BL),), t, device=device)
            ce_B: Tensor = model.cross_entropy(tokens_BL, keys_B=keys_B, t_B=t_B)
            values[f"curve/t={t:.3g}"] = float(ce_B.mean())
        return values


def load_run(path: str | Path, *, data: LanguageData | None = None) -> tuple[Trained, Run]:
    """A trained model from its run directory, in evaluation mode.

    Args:
        path: Run directory.
        data: Its text where it is open already.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
        ValueError: If it is another recipe's run, or the text is not the one that the model was trained on.
    """
    config, run, checkpoint = open_run(path, "cdcd", CdcdConfig)
    data = data if data is not None else open_data(config.data)
    check_text(run, data)
    model = build(config, data.tokenizer.vocab_size)
    load_weights(model, checkpoint)
    model.to(process_device(config.train.device)).eval()
    return Trained(config, data, model), run


def check_text(run: Run, data: LanguageData) -> None:
    """Refuse a tokenizer or held-out text that is not the run's: ids would mean other tokens.

    Raises:
        ValueError: If they differ.
    """
    recorded: dict[str, Any] = json.loads((run.path / "data.json").read_text())
    facts = data.facts()
    for name in ("tokenizer_sha256", "train", "validation"):
        if facts[name] != recorded[name]:
            raise ValueError(
                f"{run.path}: {name} of the text is {facts[name]}, the run was trained on {recorded[name]}; give the "
                "text of the run (another Python or package version holds another one)"
            )
