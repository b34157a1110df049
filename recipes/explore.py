"""Exploration end to end: configuration -> environments -> policy and bonus -> fit -> evaluation -> figures.

BYOL-Explore: Guo et al., NeurIPS 2022, arXiv 2206.08332. BYOL-Hindsight: Jarrett et al., ICML 2023, arXiv 2211.10515.
RND: Burda et al., ICLR 2019. The methods are in ``byol_ext/rl/curiosity``; this file wires them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from byol_ext._extras import require
from byol_ext.metrics.exploration import ExplorationTracker
from byol_ext.rl.agent import ExploreAgent, Objective, Stream, adam
from byol_ext.rl.collect import Collector
from byol_ext.rl.curiosity.ngu import NGU
from byol_ext.rl.curiosity.rnd import RND
from byol_ext.rl.policy import ActorCritic
from byol_ext.rl.rollout import OBSERVED_ROWS, RewardMix, RolloutSource, prepare
from byol_ext.rl.spaces import channels_first, discrete_actions, observation_shape
from byol_ext.training import FitResult, Run, TrainConfig, fit, load_weights, process_device, rank_and_world
from recipes.config import open_run, resume_command
from recipes.explore_config import ExploreConfig
from recipes.explore_model import build_bonus, build_trunk

logger = logging.getLogger(__name__)
WORLD_MODELS = ("byol-explore", "byol-hindsight")
WARMUP_SEED = 2_000_003
"""Added to a run's seed for the episodes that seed statistics."""
FREE = ("eval", "root", "envs.threads", "env_steps")
"""What may differ when a run is resumed: it does not change the course."""


def make_envs(config: ExploreConfig, *, num: int, seed: int, first: int = 0) -> Any:
    """A vector environment of the configuration.

    Args:
        config: The configuration.
        num: Environments.
        seed: Seed of the run.
        first: Index of the first environment among all; environment ``i`` depends on (seed, i) only.
    """
    require("gymnasium", extra="explore")
    from envs.make import make

    return make(
        config.env,
        num,
        seed=[seed + first + index for index in range(num)],
        protocol=config.envs.protocol,
        backend=config.envs.backend,
        num_threads=config.envs.threads,
        noise=config.envs.noise,
        size=config.envs.size,
    )


def build_agent(config: ExploreConfig, shape: tuple[int, ...], actions: int) -> ExploreAgent:
    """Policy and bonus; ``config.seed`` seeds the weights.

    Args:
        config: The configuration.
        shape: Channel-first shape of an observation.
        actions: Number of actions.
    """
    torch.manual_seed(config.seed)
    dual = config.reward.heads == "dual"
    heads = ("extrinsic", "intrinsic") if dual else ("value",)
    trunk = build_trunk(config.policy, shape, actions)
    policy = ActorCritic(trunk, actions, heads=heads, hidden=config.policy.residual)
    bonus = build_bonus(config, trunk, shape, actions)
    reward = config.reward
    streams = (
        {
            "extrinsic": Stream(reward.extrinsic_discount, reward.extrinsic_weight, True),
            "intrinsic": Stream(reward.intrinsic_discount, reward.intrinsic_weight, reward.intrinsic_episodic),
        }
        if dual
        else {"value": Stream(reward.discount)}
    )
    learn = config.learn
    objective = Objective(
        algorithm=learn.algorithm,
        clip=learn.clip,
        value_coef=learn.value_coef,
        entropy_coef=learn.entropy,
        streams=streams,
        trace=learn.trace,
    )
    return ExploreAgent(policy, bonus, objective)


def context_rows(config: ExploreConfig) -> int:
    """Rows of the previous segment that each rollout brings along."""
    if config.agent not in WORLD_MODELS:
        return 0
    rows = config.curiosity.horizon - 1 if config.curiosity.context < 0 else config.curiosity.context
    return min(rows, config.learn.steps)


def intrinsic_coef(config: ExploreConfig) -> float:
    """Weight of the intrinsic reward: as configured, or by its scale."""
    if config.reward.intrinsic_coef is not None:
        return config.reward.intrinsic_coef
    return 0.03 if config.agent in WORLD_MODELS and config.reward.heads == "dual" else 1.0


@dataclass
class Experiment:
    """What a training is made of.

    Attributes:
        agent: Policy and bonus.
        source: Steps the environments.
        tracker: What was explored.
        config: The configuration.
    """

    agent: ExploreAgent
    source: RolloutSource
    tracker: ExplorationTracker
    config: ExploreConfig


def build(config: ExploreConfig) -> Experiment:
    """Environments, agent and source of this process."""
    rank, world = rank_and_world()
    device = process_device(config.train.device)
    sizes = config.envs.num // config.envs.groups
    first = rank * config.envs.num
    groups = [
        make_envs(config, num=sizes, seed=config.seed, first=first + index * sizes)
        for index in range(config.envs.groups)
    ]
    shape, _ = observation_shape(groups[0].single_observation_space)
    actions = discrete_actions(groups[0].single_action_space)
    agent = build_agent(config, shape, actions).to(device)
    collector = Collector(
        groups,
        agent.acting_policy,
        steps=config.learn.steps,
        context=context_rows(config),
        seed=config.seed,
        first_env=first,
        autocast=torch.autocast("cuda", torch.bfloat16) if _bf16(config, device) else nullcontext(),
    )
    tracker = ExplorationTracker(config.envs.num)
    reward = config.reward
    source = RolloutSource(
        collector,
        agent,
        mix=RewardMix(intrinsic_coef(config), reward.extrinsic_coef, reward.clip_sign),
        epochs=config.learn.epochs,
        minibatches=config.learn.minibatches,
        bonus_every_epoch=config.curiosity.every_epoch,
        seed=config.seed,
        tracker=tracker,
        fingerprint=f"{config.env} {config.envs.protocol} {config.envs.noise} x {config.envs.num} x {world}",
    )
    return Experiment(agent, source, tracker, config)


def _bf16(config: ExploreConfig, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    return config.train.precision == "bf16" or (config.train.precision == "auto" and torch.cuda.is_bf16_supported())


def loop_config(config: ExploreConfig) -> TrainConfig:
    """The training loop's configuration with the optimiser steps that ``env_steps`` takes."""
    steps = rollouts(config) * config.learn.epochs * config.learn.minibatches
    # Steps whose loss leaves the bonus out have parameters without gradient.
    return replace(config.train, steps=steps, find_unused_parameters=rank_and_world()[1] > 1)


def rollouts(config: ExploreConfig) -> int:
    """Rollouts that ``env_steps`` takes, over all processes."""
    return math.ceil(config.env_steps / (config.learn.steps * config.envs.num * rank_and_world()[1]))


def train(config: ExploreConfig, *, resume: bool = False) -> tuple[FitResult, Experiment, Run]:
    """Train from a configuration.

    Args:
        config: The configuration.
        resume: Whether to continue the run of that name.

    Raises:
        ValueError: For an environment that does not exist or does not fit.
    """
    path = Path(config.root) / "explore" / config.name
    experiment = build(config)
    run = Run.create(
        path,
        recipe="explore",
        config=config,
        resume=resume,
        resume_command=resume_command("explore", path),
        free=FREE,
    )
    if not experiment.source.collector.exact and rank_and_world()[0] == 0:
        logger.info("%s cannot be saved: a resumed run begins new episodes", config.env)
    if run.latest is None:
        seed_statistics(experiment)
    try:
        result = fit(
            experiment.agent,
            experiment.source,
            loop_config(config),
            prepare=prepare,
            run=run,
            monitors=[lambda model, out, step: experiment.source.metrics()],
            resume=resume,
            optimizer=lambda model: adam(
                _agent(model), lr=config.train.lr, critic_lr_scale=config.curiosity.critic_lr_scale
            ),
            unit="sequences",
            headline="steps_per_second",
        )
    finally:
        experiment.source.collector.close()
    experiment.agent.eval()
    return result, experiment, run


def seed_statistics(experiment: Experiment) -> None:
    """Show input statistics what a random agent sees, before training (openai/random-network-distillation)."""
    config, agent = experiment.config, experiment.agent
    bonus = agent.bonus
    distillation = bonus.distillation if isinstance(bonus, RND) else bonus.lifelong if isinstance(bonus, NGU) else None
    if not config.curiosity.warmup_steps or (distillation is None and not agent.standardises):
        return
    first = rank_and_world()[0] * config.envs.num
    env = make_envs(config, num=config.envs.num, seed=config.seed + WARMUP_SEED, first=first)
    _, channels_last = observation_shape(env.single_observation_space)
    random = np.random.default_rng([config.seed, first])
    obs, _ = env.reset(seed=config.seed + WARMUP_SEED + first)
    device = next(agent.parameters()).device
    for step in range(-(-128 * config.curiosity.warmup_steps // config.envs.num)):
        obs, *_ = env.step(random.integers(env.single_action_space.n, size=env.num_envs))
        frames = torch.from_numpy(channels_first(obs, last=channels_last)).to(device)
        if distillation is not None:
            distillation.observe_random(frames)
        if step % OBSERVED_ROWS == 0:
            agent.observe(frames)
    env.close()


def wander(config: ExploreConfig) -> tuple[Experiment, Run]:
    """A uniformly random agent for as many steps, with the same account of where it went: the control."""
    path = Path(config.root) / "explore" / config.name
    experiment = build(config)
    nn.init.zeros_(experiment.agent.policy.output.weight)
    run = Run.create(path, recipe="explore", config=config, resume=True, free=FREE)
    run.truncate_metrics(0)
    source = experiment.source
    every = max(config.train.log_every // source.batches_per_rollout, 1)
    for step in range(1, rollouts(config) + 1):
        source.advance()
        if step % every == 0:
            run.log({"step": step * source.batches_per_rollout, "time": time.time(), **source.metrics()})
    source.collector.close()
    experiment.agent.eval()
    return experiment, run


def _agent(model: nn.Module) -> ExploreAgent:
    assert isinstance(model, ExploreAgent)
    return model


def load_run(path: str | Path) -> tuple[ExploreConfig, ExploreAgent, Run]:
    """A trained agent from its run directory, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
        ValueError: If it is a run of another recipe.
    """
    config, run, checkpoint = open_run(path, "explore", ExploreConfig)
    envs = make_envs(config, num=1, seed=config.seed)
    shape, _ = observation_shape(envs.single_observation_space)
    agent = build_agent(config, shape, discrete_actions(envs.single_action_space))
    envs.close()
    load_weights(agent, checkpoint)
    return config, agent.to(process_device(config.train.device)).eval(), run


def final_metrics(experiment: Experiment, result: FitResult) -> Mapping[str, float]:
    """What the training saw, as flat metrics."""
    source = experiment.source
    return {
        **source.metrics(),
        "train/env_steps": float(source.steps_taken),
        "train/seconds": result.seconds,
        "train/skipped_steps": float(result.skipped),
    }
