"""From a configuration to the model that trains: CDCD, simplex diffusion, or a baseline of the same Transformer."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import torch
from torch import nn

from byol_ext.diffusion.autoregressive import Autoregressive, AutoregressiveConfig
from byol_ext.diffusion.averaged import Averaged
from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.denoiser import Denoiser, DenoiserConfig
from byol_ext.diffusion.embeddings import embedding_groups
from byol_ext.diffusion.masks import Mask, all_noised, mixed_mask, prefix_mask, random_mask, span_mask
from byol_ext.diffusion.mdlm import MDLM, MDLMConfig
from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_denoiser import SimplexDenoiser, SimplexDenoiserConfig
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp, UniformWarp, Warp, ambiguity_noise
from byol_ext.diffusion.warp_fit import FittedWarp, LearnableWarp, beta_shape, linear_shape
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp
from recipes.cdcd_config import CdcdConfig, WarpConfig

TextTrainable: TypeAlias = CDCD | SimplexModel | Averaged[Autoregressive] | Averaged[MDLM]

MASKS: dict[str, Mask] = {
    "mixed": mixed_mask,
    "prefix": prefix_mask,
    "random": random_mask,
    "span": span_mask,
    "none": all_noised,
}


def build(config: CdcdConfig, vocab_size: int) -> TextTrainable:
    """The model of a configuration; ``config.seed`` seeds its weights.

    Args:
        config: The configuration.
        vocab_size: Tokens ``V`` of the text.

    Raises:
        ValueError: If sizes do not go together.
    """
    torch.manual_seed(config.seed)
    transformer = transformer_config(config)
    ema = config.objective.ema
    if config.method == "ar":
        return Averaged(Autoregressive(AutoregressiveConfig(vocab_size, transformer)), ema=ema)
    if config.method == "mdlm":
        return Averaged(MDLM(MDLMConfig(vocab_size, transformer)), ema=ema)
    mask = MASKS[config.mask]
    if config.process == "simplex":
        simplex = SimplexDiffusion(
            vocab_size,
            process=CIR(config.simplex.alpha),
            kappa=config.simplex.kappa,
            t_min=config.simplex.t_min,
            t_max=config.simplex.t_max,
        )
        network = SimplexDenoiser(
            SimplexDenoiserConfig(vocab_size, transformer=transformer, time_units=config.network.time_units)
        )
        warp = build_warp(config.warp, t_min=simplex.t_min, t_max=simplex.t_max, typical=simplex.t_min * 10.0)
        return SimplexModel(network, simplex, warp, config.objective, mask=mask)
    denoiser = Denoiser(
        DenoiserConfig(
            vocab_size,
            config.network.embedding_width,
            transformer,
            embedding_init_std=config.network.embedding_init_std,
            time_units=config.network.time_units,
            output_prior=config.network.output_prior,
        )
    )
    typical = ambiguity_noise(config.network.embedding_width, vocab_size)
    t_min, t_max = config.warp.t_min or typical / 10.0, config.warp.t_max or 20.0 * typical
    return CDCD(
        denoiser, build_warp(config.warp, t_min=t_min, t_max=t_max, typical=typical), config.objective, mask=mask
    )


def transformer_config(config: CdcdConfig) -> TransformerConfig:
    """The size that all methods share."""
    network = config.network
    return TransformerConfig(width=network.width, depth=network.depth, heads=network.heads, dropout=network.dropout)


def build_warp(config: WarpConfig, *, t_min: float, t_max: float, typical: float) -> Warp:
    """The law of the noise levels.

    Args:
        config: Its kind and settings.
        t_min: Smallest level.
        t_max: Largest.
        typical: A level in the middle, where learned warps of two parameters start.
    """
    if config.kind == "uniform":
        return UniformWarp(t_min, t_max)
    if config.kind == "loguniform":
        return LogUniformWarp(t_min, t_max)
    learnable: LearnableWarp
    if config.kind == "pwl":
        learnable = PiecewiseLinearWarp(
            t_min, t_max, bins=config.bins, temperature=config.temperature, uniform_mix=config.uniform_mix
        )
    elif config.kind == "logistic":
        learnable = LogisticWarp(t_min, t_max, median=typical)
    else:
        learnable = GumbelWarp(t_min, t_max, location=2.0 * float(torch.tensor(typical).log()))
    shape = linear_shape if config.shape == (1.0, 1.0) else beta_shape(*config.shape)
    return FittedWarp(learnable, lr=config.lr, decay=config.decay, shape=shape)


def build_optimizer(config: CdcdConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with the embeddings' own rate; without decay it is the paper's Adam."""
    groups = embedding_groups(model, config.train.weight_decay, embedding_lr_scale=config.network.embedding_lr_scale)
    fused = partial(torch.optim.AdamW, lr=config.train.lr, betas=config.train.betas, fused=True)
    return fused(groups)
