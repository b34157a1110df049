"""The graphs of the video recipe: BYOL, VICReg and SimCLR over a pair of clips, with or without derivatives.

Both clips are views of one branch; which derivatives they are is the schedule's business, and the edges that
``schedule.plan`` gives for a step are named by it.

Legend: ``B`` videos, ``C, T, H, W`` a clip, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Branch, SetTerm, Target
from byol_ext.heads import mlp_head
from byol_ext.losses.contrastive import infonce_cross, nt_xent
from byol_ext.losses.pair import normalized_mse
from byol_ext.losses.sets import vicreg
from byol_ext.predictors import mlp_predictor
from byol_ext.schedules import Schedule, constant, ema_cosine
from byol_ext.training import LARS, TrainConfig, parameter_groups
from byol_ext.video.encoders import VideoEncoder, mc3_18, r2plus1d_18, r3d_18, s3d, small_video_encoder, swin3d_t
from byol_ext.video.order_norm import separate_norms_by_order
from byol_ext.video.schedule import DerivativeSchedule
from byol_ext.video.weights import load_torchvision_weights
from recipes.vididi_config import EncoderConfig, MethodConfig, VididiConfig

FIRST, SECOND, BRANCH, PREDICTOR = "first", "second", "video", "video"
ENCODERS: dict[str, Callable[..., VideoEncoder]] = {
    "r3d_18": r3d_18,
    "r2plus1d_18": r2plus1d_18,
    "mc3_18": mc3_18,
    "s3d": s3d,
    "swin3d_t": swin3d_t,
}
Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def build_schedule(config: VididiConfig, *, steps_per_epoch: int) -> DerivativeSchedule:
    """The derivatives of each step; without ViDiDi always order 0.

    Args:
        config: The recipe's configuration.
        steps_per_epoch: Optimiser steps of a pass over the data.
    """
    if not config.method.vididi:
        return DerivativeSchedule.base()
    schedule = config.schedule
    return DerivativeSchedule(
        config.seed,
        period=schedule.period,
        steps_per_epoch=steps_per_epoch,
        phases=schedule.phases,
        p_double=schedule.p_double,
        pairs=schedule.pairs,
    )


def build_encoder(config: VididiConfig, *, channels: int, max_order: int) -> nn.Module:
    """The video encoder of a configuration, freshly initialised unless it names weights.

    Args:
        config: The recipe's configuration.
        channels: Channels that it sees.
        max_order: Highest derivative order.

    Raises:
        ValueError: If the encoder does not take clips of this length and their derivatives, or takes colour only.
    """
    if not config.method.share:
        shared = replace(config, method=replace(config.method, share=True))
        return PerOrderEncoders(
            [build_encoder(shared, channels=channels, max_order=max_order) for _ in range(max_order + 1)]
        )
    encoder = _encoder(config.encoder, frames=config.clips.frames, channels=channels, max_order=max_order)
    if config.encoder.weights:
        load_torchvision_weights(encoder, config.encoder.weights)
    if config.encoder.bn == "per_order":
        separate_norms_by_order(encoder, max_order + 1)
    return encoder


def _encoder(config: EncoderConfig, *, frames: int, channels: int, max_order: int) -> VideoEncoder:
    if config.name == "small":
        return small_video_encoder(frames, in_channels=channels, max_order=max_order, pad_to_T=config.pad_to_t)
    if channels != 3:
        raise ValueError(f"encoder {config.name!r} takes colour clips; these have {channels} channel")
    return ENCODERS[config.name](frames, max_order=max_order, pad_to_T=config.pad_to_t)


def build_bootstrap(
    encoder: nn.Module, method: MethodConfig, schedule: DerivativeSchedule, *, decay: Schedule, joint: bool
) -> Bootstrap:
    """The trainable graph of a method.

    Args:
        encoder: Video encoder with attribute ``width``.
        method: The objective.
        schedule: Names the edges of each step.
        decay: EMA decay by step (BYOL).
        joint: Whether both clips go through the networks in one batch.
    """
    branches = {BRANCH: Branch(encoder, mlp_head([encoder.width, *method.projector], norm=method.norm))}  # type: ignore[list-item]
    views = {FIRST: BRANCH, SECOND: BRANCH}
    batching = "concat" if joint else "separate"
    if method.name != "byol":
        term = SetTerm(method.name, (FIRST, SECOND), _objective(method), keys=_keys(method))
        return Bootstrap(branches, views, set_terms=[term], view_batching=batching)  # type: ignore[arg-type]
    return Bootstrap(
        branches,
        views,
        target=Target(branches, tau=decay, mode="train", buffers="own"),
        predictors={PREDICTOR: mlp_predictor(method.projector[-1], method.predictor_hidden, norm=method.norm)},
        plan=schedule.plan(PREDICTOR),
        pair=normalized_mse,
        view_batching=batching,  # type: ignore[arg-type]
    )


def _objective(method: MethodConfig) -> Objective:
    if method.name == "vicreg":
        invariance, variance, covariance = method.weights
        return partial(
            vicreg,
            invariance_weight=invariance,
            variance_weight=variance,
            covariance_weight=covariance,
            directions=method.directions,
            gather=method.gather,
        )
    if method.negatives == "all":
        return partial(nt_xent, temperature=method.temperature, gather=method.gather)
    return partial(infonce_cross, scale=1.0 / method.temperature, directions=method.directions, gather=method.gather)


def _keys(method: MethodConfig) -> tuple[str, str] | None:
    return ("a", "b") if method.name == "simclr" and method.negatives == "cross" else None


def ema_decay(method: MethodConfig, *, steps: int, count: Callable[[int], int]) -> Schedule:
    """EMA decay of each step.

    Args:
        method: The objective.
        steps: Steps after which a cosine has reached 1, as ``count`` counts them.
        count: Step counter of the schedules.
    """
    if method.ema_schedule == "constant":
        return constant(method.tau)
    cosine = ema_cosine(method.tau, steps)
    return lambda step: cosine(count(step))


def build_optimizer(config: VididiConfig, train: TrainConfig) -> Callable[[nn.Module], torch.optim.Optimizer] | None:
    """LARS over the loop's parameter groups, or ``None`` for the loop's AdamW."""
    if config.optimizer == "adamw":
        return None
    return lambda model: LARS(parameter_groups(model, train.weight_decay), train.lr)


class PerOrderEncoders(nn.Module):
    """One encoder for each derivative order: the ablation without shared weights (spec 11).

    Args:
        encoders: Encoders of order 0, 1, ...; each with attribute ``width``.
    """

    def __init__(self, encoders: list[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.width = int(encoders[0].width)  # type: ignore[arg-type]

    def forward(self, x: Tensor, order_B: Tensor | None = None) -> Tensor:
        """``x [B, C, T, H, W] -> [B, D]``; all clips of a batch are of one order (default 0)."""
        order = 0 if order_B is None else int(order_B[0])
        return self.encoders[order](x)
