"""SLAP end to end: configuration -> data -> Bootstrap -> fit -> evaluation -> figures; CLAP by one field.

The loss is that of Guinot et al., ISMIR 2025 (arXiv 2506.17815): each modality's predictor regresses the target
embedding of both modalities of the same pair.

Legend: ``B`` batch, ``S`` samples.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byol_ext.audio.data import caption_duplicate_rate
from byol_ext.bootstrap import Ctx
from byol_ext.ledger import BadSampleLedger
from byol_ext.metrics.spectrum import CollapseMonitor
from byol_ext.rng import sample_keys
from byol_ext.text import FrozenTextFeatures, to_device
from byol_ext.training import (
    Evaluate,
    FitResult,
    LoaderSource,
    Monitor,
    ResumableSampler,
    Run,
    TrainConfig,
    fit,
    load_weights,
    process_device,
    rank_and_world,
    total_steps,
)
from recipes.config import open_run, resume_command
from recipes.slap_config import SlapConfig
from recipes.slap_data import Splits, collate_rows, open_splits, training_rows, warm_captions
from recipes.slap_eval import Towers, embed_pairs
from recipes.slap_model import FrontEnd, Tokenize, build_audio, build_bootstrap, build_text

logger = logging.getLogger(__name__)
KEPT = {"silent": "drop_silent_dbfs drops such clips in training"}
"""What to do about samples that are kept although they are odd."""
FREE = ("eval", "root", "data.workers", "text.cache")
"""What may differ when a run is resumed: it does not change the weights."""


@dataclass
class Inputs:
    """Encoders and what their inputs go through."""

    audio: nn.Module
    text: nn.Module
    front: FrontEnd
    tokenize: Tokenize


def build_inputs(config: SlapConfig) -> Inputs:
    """Freshly initialised encoders with front-end and tokenizer; ``config.seed`` seeds the weights."""
    torch.manual_seed(config.seed)
    audio = build_audio(config.audio)
    text, tokenize = build_text(config.text, device=str(process_device(config.train.device)))
    return Inputs(audio, text, FrontEnd(config.audio, audio), tokenize)


def build(config: SlapConfig, inputs: Inputs, *, steps: int = 1) -> Towers:
    """The trainable graph over the encoders.

    Args:
        config: The recipe's configuration.
        inputs: Encoders and inputs.
        steps: Optimiser steps of the training, for the decay's schedule.
    """
    model = build_bootstrap(
        inputs.audio,
        inputs.text,
        heads=config.heads,
        loss=config.loss,
        ema=config.ema,
        steps=steps,
        batch=effective_batch(config),
    )
    return Towers(model, inputs.front, inputs.tokenize)


def effective_batch(config: SlapConfig) -> int:
    """Samples of an optimiser step over all processes."""
    return config.data.batch * config.train.accumulate_steps * rank_and_world()[1]


class Prepare:
    """Batches on the device to views: log-mel, SpecAugment keyed by (seed, epoch, sample), tokens, row masks.

    Args:
        slap: Model and inputs.
        seed: Seed of SpecAugment.
        groups: Whether CLAP needs to know which captions are equal.
        ledger: Account of unusable samples.
    """

    def __init__(self, slap: Towers, *, seed: int, groups: bool, ledger: BadSampleLedger) -> None:
        self.slap, self.seed, self.groups, self.ledger = slap, seed, groups, ledger

    def __call__(self, batch: Mapping[str, Any], step: int) -> tuple[dict[str, Any], Ctx]:
        """``(batch, step) -> (views, Ctx)``."""
        self.ledger.update(batch)
        wave_BS: Tensor = batch["audio"]
        keys_B = sample_keys(self.seed, batch["epochs"], batch["ids"])
        views: dict[str, Any] = {
            "audio": self.slap.front(wave_BS, keys_B=keys_B),
            "text": to_device(self.slap.tokenize(batch["caption"]), wave_BS.device),
        }
        if "audio_2" in batch:
            # Another stream of SpecAugment, or the target would see the same stripes.
            views["audio_2"] = self.slap.front(
                batch["audio_2"], keys_B=sample_keys(~self.seed, batch["epochs"], batch["ids"])
            )
            views["text_2"] = to_device(self.slap.tokenize(batch["caption_2"]), wave_BS.device)
        audio_B, text_B = batch["has_audio"], batch["has_text"]
        masks = {"audio": audio_B, "text": text_B, "both": audio_B * text_B}
        data = {"groups": caption_groups(batch["caption"]).to(wave_BS.device)} if self.groups else {}
        return views, Ctx(masks=masks, data=data)


def caption_groups(captions: list[str]) -> Tensor:
    """A number a caption, equal for equal texts whatever their case, the same on every rank ``[B]``."""
    digests = [hashlib.blake2b(caption.casefold().encode(), digest_size=8).digest() for caption in captions]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def collapse_monitor() -> Monitor:
    """Collapse monitor over the online latents of a step."""
    watch = CollapseMonitor()
    return lambda model, out, step: watch(out.online, step=step)


def train(config: SlapConfig, *, resume: bool = False) -> tuple[FitResult, Towers, Splits, Run]:
    """Train from a configuration.

    Args:
        config: The configuration.
        resume: Whether to continue the run of that name.

    Returns:
        How it ended, the model in evaluation mode, the data, the run.

    Raises:
        ValueError: For data that does not exist or a configuration that cannot be exact.
        TooManyBadSamples: If more than ``data.max_bad_fraction`` of the samples cannot be used.
    """
    splits = open_splits(config)
    assert splits.train is not None
    path = Path(config.root) / "slap" / config.name
    run = Run.create(
        path, recipe="slap", config=config, resume=resume, resume_command=resume_command("slap", path), free=FREE
    )
    inputs = build_inputs(config)
    if isinstance(inputs.tokenize, FrozenTextFeatures):
        warm_captions(inputs.tokenize, splits, cache=config.text.cache)
    rows = training_rows(splits.train, config, sample_rate=inputs.front.sample_rate)
    source = LoaderSource(
        rows,
        ResumableSampler(len(rows), config.data.batch, seed=config.seed),
        collate=collate_rows,
        num_workers=config.data.workers,
        fingerprint=f"{config.data.train} {config.data.audio_only} {config.data.text_only} {len(rows)} rows",
    )
    scaled = scale_lr(config)
    slap = build(config, inputs, steps=total_steps(scaled, source))
    ledger = BadSampleLedger(max_bad_fraction=config.data.max_bad_fraction, hints=KEPT)
    prepare = Prepare(slap, seed=config.seed, groups=config.loss.mask_duplicates, ledger=ledger)
    rank = rank_and_world()[0]
    if rank == 0 and config.data.train != "tonecaps":
        logger.info("%.1f %% of the captions occur more than once", 100 * caption_duplicate_rate(splits.train))
    try:
        result = fit(
            slap.model,
            source,
            scaled,
            prepare=prepare,
            run=run,
            monitors=[collapse_monitor()],
            evaluate=validation(slap, splits, config),
            resume=resume,
            headline="eval/retrieval/text_to_audio/R@1",
        )
        ledger.check()
    finally:
        if ledger.entries:
            ledger.write(run.path / ("errors.jsonl" if rank == 0 else f"errors-rank{rank}.jsonl"))
    slap.model.eval()
    return result, slap, splits, run


def validation(slap: Towers, splits: Splits, config: SlapConfig) -> Evaluate | None:
    """Retrieval on the validation pairs, where there are any."""
    if splits.val is None:
        return None
    val = splits.val
    return lambda model, step: embed_pairs(slap, val, config).retrieval().metrics()


def scale_lr(config: SlapConfig) -> TrainConfig:
    """The training configuration with the learning rate of the effective batch."""
    if config.lr_reference_batch is None:
        return config.train
    return replace(config.train, lr=config.train.lr * effective_batch(config) / config.lr_reference_batch)


def load_run(path: str | Path) -> tuple[SlapConfig, Towers, Run]:
    """A trained model from its run directory, in evaluation mode.

    Args:
        path: Run directory.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
    """
    config, run, checkpoint = open_run(path, "slap", SlapConfig)
    slap = build(config, build_inputs(config))
    load_weights(slap.model, checkpoint)
    slap.model.to(process_device(config.train.device)).eval()
    return config, slap, run
