"""Bonuses of the exploration recipe by the name that the command line gives."""

from __future__ import annotations

from dataclasses import replace

from byol_ext.rl.curiosity.bonus import Bonus
from byol_ext.rl.curiosity.counts import CountBonus, NoBonus
from byol_ext.rl.curiosity.hindsight import BYOLHindsight
from byol_ext.rl.curiosity.icm import ICM, InverseModel
from byol_ext.rl.curiosity.ngu import NGU, EpisodicMemory
from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser
from byol_ext.rl.curiosity.rnd import RND, Distillation, conv_networks, mlp_networks
from byol_ext.rl.curiosity.world_model import BYOLExplore
from byol_ext.rl.encoders import ObservationEncoder, impala_cnn, mlp_encoder, nature_cnn
from byol_ext.rl.recurrent import Trunk
from byol_ext.training import rank_and_world
from recipes.explore_config import ExploreConfig, PolicyConfig


def build_encoder(config: PolicyConfig, shape: tuple[int, ...]) -> ObservationEncoder:
    """The observation encoder of a configuration, for channel-first observations of a shape."""
    kind = config.encoder
    if kind == "auto":
        kind = "nature" if is_picture(shape) else "mlp"
    if kind == "mlp":
        scale = 1.0 if len(shape) == 1 else 1 / 255
        return mlp_encoder(shape, (*config.mlp_hidden, config.width), scale=scale, standardise=config.standardise)
    pictures = nature_cnn if kind == "nature" else impala_cnn
    return pictures(shape, config.width, standardise=config.standardise)


def build_trunk(config: PolicyConfig, shape: tuple[int, ...], actions: int) -> Trunk:
    """Encoder and recurrence of a policy or a world model."""
    encoder = build_encoder(config, shape)
    return Trunk(encoder, actions, width=config.memory, action_width=config.action_width)


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether observations are large enough for convolutions with strides."""
    return len(shape) == 3 and min(shape[1:]) >= 36


def build_bonus(config: ExploreConfig, trunk: Trunk, shape: tuple[int, ...], actions: int) -> Bonus:
    """The bonus of a configuration.

    Args:
        config: The configuration.
        trunk: The policy's trunk, which a world model may share.
        shape: Channel-first shape of an observation.
        actions: Number of actions.
    """
    name, curiosity = config.agent, config.curiosity
    if name in ("none", "random"):
        return NoBonus()
    if name == "count":
        return CountBonus()
    if name in ("byol-explore", "byol-hindsight"):
        return _world_model(config, trunk, shape, actions)
    scale = ForwardFilter(config.envs.num, gamma=config.reward.intrinsic_discount)
    if name == "icm":
        return ICM(InverseModel(build_encoder(config.policy, shape), actions), scale=scale)
    if is_picture(shape):
        newest = newest_channels(shape)
        networks = conv_networks((newest, *shape[1:]), curiosity.rnd_width)
    else:
        newest = None
        networks = mlp_networks(shape, width=curiosity.rnd_width)
    distillation = Distillation(networks, newest=newest, fraction=curiosity.rnd_fraction, seed=config.seed)
    if name == "rnd":
        return RND(distillation, scale=scale)
    encoder = build_encoder(replace(config.policy, width=curiosity.ngu_width), shape)
    memory = EpisodicMemory(config.envs.num, encoder.width, capacity=curiosity.ngu_capacity)
    return NGU(InverseModel(encoder, actions), distillation, memory, scale=scale)


def newest_channels(shape: tuple[int, ...]) -> int:
    """Channels of the newest frame: one of a grey stack, three of a coloured picture."""
    return 3 if shape[0] == 3 else 1


def _world_model(config: ExploreConfig, trunk: Trunk, shape: tuple[int, ...], actions: int) -> Bonus:
    curiosity = config.curiosity
    shared = curiosity.share == "encoder+rnn"
    own = trunk
    if not shared:
        own = build_trunk(config.policy, shape, actions)
        if curiosity.share == "encoder":
            own = Trunk(trunk.encoder, actions, width=config.policy.memory, action_width=config.policy.action_width)
    if own.core is None:
        raise ValueError(f"{config.agent} needs a recurrent trunk; policy.memory=0 has none")
    normaliser = RewardNormaliser(decay=curiosity.norm_decay, prioritise=curiosity.prioritise)
    if config.agent == "byol-explore":
        return BYOLExplore(
            own,
            horizon=curiosity.horizon,
            predictor_hidden=curiosity.predictor_hidden,
            tau=curiosity.tau,
            start_stride=curiosity.start_stride,
            horizon_average=curiosity.horizon_average,
            shares_recurrence=shared,
            checkpoint_open_loop=curiosity.recompute,
            normaliser=normaliser,
        )
    return BYOLHindsight(
        own,
        horizon=curiosity.horizon,
        hind_dim=curiosity.hindsight_dim,
        eps_dim=curiosity.noise_dim,
        hidden=curiosity.hindsight_hidden,
        lam=curiosity.lam,
        critic=None if curiosity.critic == "none" else curiosity.critic,
        critic_bound=curiosity.critic_bound,
        critic_belief=curiosity.critic_belief,
        negatives=curiosity.negatives,
        n_neg=curiosity.num_negatives,
        seed=config.seed * 1009 + rank_and_world()[0],
        tau=curiosity.tau,
        start_stride=curiosity.start_stride,
        horizon_average=curiosity.horizon_average,
        shares_recurrence=shared,
        checkpoint_open_loop=curiosity.recompute,
        normaliser=normaliser,
    )
