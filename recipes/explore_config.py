"""Configuration and presets of the exploration recipe.

Defaults name their source: V read in the primary source, S second-hand, M from memory of the paper, J our judgement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from byol_ext.training import TrainConfig

AgentName = Literal["byol-explore", "byol-hindsight", "rnd", "icm", "ngu", "count", "none", "random"]


@dataclass(frozen=True)
class EnvsConfig:
    """The environments and how they are stepped."""

    num: int = 64
    """Environments of each process."""
    groups: int = 2
    """Pools that they are spread over: while one steps, the policy acts for the other."""
    backend: Literal["auto", "envpool", "ale"] = "auto"
    """Atari: envpool (RAM, so rooms are logged in training) or ale; auto is envpool where it imports."""
    protocol: Literal["rnd2018", "byol_explore", "byol_hindsight", "machado"] = "rnd2018"
    """Atari: sticky actions, frame stack, limits and action set of a publication; never mix two in one table."""
    threads: int = 0
    """Threads of each pool; 0 is all cores."""
    noise: str = "none"
    """Distraction. StochasticMaze: brownian, pixel, on_demand, tv, wind, slip, swap. Atari: noop_patch, persistive,
    pixel, on_demand, tv."""
    size: int = 84
    """Pictures of other Gymnasium environments larger than this are resized to this edge."""


@dataclass(frozen=True)
class PolicyConfig:
    """Networks of the actor and the critic."""

    encoder: Literal["auto", "mlp", "nature", "impala"] = "auto"
    """auto: mlp for observations smaller than 36 x 36, else nature."""
    width: int = 512
    """Width of the embedding N (S)."""
    standardise: bool = False
    """Whether encoders see (x - mean) / std of each pixel over all that was seen, instead of x / 255 (J: for Atari,
    where the frames of a room are nearly equal and a world model's embedding collapses without; the papers' is not
    known)."""
    mlp_hidden: tuple[int, ...] = (128,)
    """Hidden widths of the mlp encoder before the embedding (J: 128-64 in the maze)."""
    memory: int = 256
    """Width M of the recurrent state; 0 for a memoryless policy (S: 256)."""
    action_width: int = 32
    """Width of the fixed action embedding (S)."""
    residual: int = 0
    """Width of a residual layer before policy and values (RND 448, V); 0 for none."""


@dataclass(frozen=True)
class CuriosityConfig:
    """The intrinsic reward."""

    share: Literal["encoder+rnn", "encoder", "none"] = "encoder+rnn"
    """What a world model shares with the policy (the paper shows both, S, M; J: encoder+rnn for Atari)."""
    horizon: int = 8
    """Open-loop steps K (S, M)."""
    context: int = -1
    """Rows of the previous segment that each one brings along; -1: K - 1, so that every transition collects K losses;
    0: the paper's plain sequences."""
    tau: float = 0.99
    """Decay of the target's moving average (S)."""
    predictor_hidden: tuple[int, ...] = (512,)
    """Hidden widths of the predictor (M/S: one or two of 512)."""
    start_stride: int = 1
    """Every how many steps an open-loop prediction starts."""
    horizon_average: bool = True
    """Whether each start averages over its own horizon (M)."""
    prioritise: bool = True
    """Whether transitions below the average pay nothing (M: reported to help)."""
    norm_decay: float = 0.99
    """Decay of the reward normaliser's statistics (S)."""
    every_epoch: bool = False
    """Whether the bonus learns in each pass over a rollout, or in the first only (J)."""
    hindsight_dim: int = 256
    """Width of the hindsight latent (S, M)."""
    noise_dim: int = 256
    """Width of the generator's noise (S, M)."""
    hindsight_hidden: tuple[int, ...] = (512, 512, 512)
    """Hidden widths of generator, reconstructor and critic (S, M)."""
    lam: float = 1.0
    """Hindsight's lambda: the reconstruction error counts 1/lambda (S)."""
    critic: Literal["cosine", "joint", "none"] = "cosine"
    """Form of the critic: cosine of two networks (J: far cheaper, and steady), joint (S: one network), none."""
    critic_bound: Literal["sigmoid", "tanh5", "none"] = "tanh5"
    """How the critic's score is bounded (S: sigmoid in two re-implementations; J: tanh5)."""
    critic_belief: Literal["pre", "post"] = "post"
    """Whether the critic reads the belief before or after the action (S: post)."""
    critic_lr_scale: float = 3.0
    """The critic's learning rate over the others'; its Adam moments are its own (J: at 1, noise pays twice as much)."""
    negatives: Literal["batch", "batch_time"] = "batch"
    """Where the invariance term's negatives come from: other environments at the same time, or any time too (J)."""
    num_negatives: int = 64
    """Negatives of batch_time (J)."""
    recompute: bool = False
    """Whether to recompute the open loop in the backward pass, for memory."""
    ngu_width: int = 32
    """Width of the embedding in NGU's episodic memory (M)."""
    ngu_capacity: int = 4500
    """Observations that NGU's episodic memory holds for each environment; an episode's length is enough (M: 30 000)."""
    warmup_steps: int = 50
    """RND's input statistics, and policy.standardise's, begin with 128 times as many steps of a random agent (V: 50);
    0: the first rollout."""
    rnd_fraction: float = 0.25
    """Share of a minibatch that RND's predictor learns from (V: 1.0 with 32 environments, 0.25 with 128)."""
    rnd_width: int = 512
    """Width of RND's features (V)."""


@dataclass(frozen=True)
class RewardConfig:
    """Mixing and discounting."""

    intrinsic_coef: float | None = None
    """Weight of the intrinsic reward (the papers' values per domain are unknown to us: sweep 0.01 to 1). By default 1,
    but 0.03 for byol-explore and byol-hindsight with two heads (J): their rewards deviate by 1 a step, returns by
    tens, and the loss of such values drowns all others in a shared trunk; RND's are scaled by the return already."""
    extrinsic_coef: float = 1.0
    """Weight of the extrinsic reward; 0 explores for its own sake."""
    clip_sign: bool = True
    """Whether only the extrinsic reward's sign counts in training (V: RND)."""
    heads: Literal["single", "dual"] = "dual"
    """One value head for the sum (S: the papers), or one for each reward with returns of its own (V: RND)."""
    discount: float = 0.99
    """Discount of the single head (M)."""
    extrinsic_discount: float = 0.999
    """Discount of the extrinsic head (V: RND)."""
    intrinsic_discount: float = 0.99
    """Discount of the intrinsic head (V: RND)."""
    extrinsic_weight: float = 2.0
    """Weight of extrinsic advantages with two heads (V: RND)."""
    intrinsic_weight: float = 1.0
    """Weight of intrinsic advantages with two heads (V: RND)."""
    intrinsic_episodic: bool = False
    """Whether intrinsic returns of the second head end with the episode (V: RND's go on; S: BYOL-Explore's end)."""


@dataclass(frozen=True)
class LearnConfig:
    """How the policy learns."""

    algorithm: Literal["ppo", "vtrace", "vmpo"] = "ppo"
    """ppo (default), vtrace, vmpo (the papers' algorithm, S; its constants are from memory)."""
    steps: int = 128
    """Steps of a rollout in each environment (M, V)."""
    epochs: int = 4
    """Passes over a rollout (V: RND)."""
    minibatches: int = 4
    """Parts that the environments are cut into in a pass (V: RND)."""
    clip: float = 0.1
    """Ratio clip (V: RND)."""
    entropy: float = 0.001
    """Weight of the entropy (V: RND)."""
    value_coef: float = 0.5
    """Weight of the value losses (J)."""
    trace: float = 0.95
    """GAE's or V-trace's lambda (V: RND)."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation after training and by ``byol-ext explore eval``."""

    episodes: int = 32
    """Episodes for each way of acting."""
    max_steps: int = 27_000
    """Longest episode in agent steps; longer ones are cut and counted."""
    greedy: bool = True
    """Whether to evaluate greedy actions beside sampled ones."""


@dataclass(frozen=True)
class ExploreConfig:
    """Exploration by intrinsic reward: BYOL-Explore, BYOL-Hindsight, RND and others on Atari and stochastic mazes."""

    name: str = "explore"
    """Name of the run; it lives in ROOT/explore/NAME."""
    root: str = "runs"
    """Folder of all runs."""
    env: str = "StochasticMaze"
    """StochasticMaze, RandomDiscoMaze, an Atari game (MontezumaRevenge), or a Gymnasium id with pictures."""
    agent: AgentName = "byol-explore"
    """byol-explore, byol-hindsight, rnd, icm, ngu, count (grids), none (extrinsic only), random (no learning)."""
    env_steps: int = 1_000_000
    """Agent steps over all environments and processes (an Atari step is four frames)."""
    envs: EnvsConfig = field(default_factory=EnvsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    curiosity: CuriosityConfig = field(default_factory=CuriosityConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(lr=1e-4, clip_norm=0.5, weight_decay=0.0, schedule="const", warmup=0.0)
    )
    """The loop; its step counts are optimiser steps, and steps follows from env_steps."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    """Seed of weights, environments, actions and minibatches."""

    def __post_init__(self) -> None:
        if self.envs.num % self.envs.groups:
            raise ValueError(f"envs.num={self.envs.num} cannot be spread over envs.groups={self.envs.groups} pools")
        if self.envs.num % self.learn.minibatches:
            raise ValueError(
                f"envs.num={self.envs.num} cannot be cut into learn.minibatches={self.learn.minibatches} parts"
            )
        if self.env_steps < 1:
            raise ValueError(f"env_steps={self.env_steps} must be positive")
        if self.curiosity.context > self.learn.steps:
            raise ValueError(
                f"curiosity.context={self.curiosity.context} must not exceed learn.steps={self.learn.steps}"
            )


def maze() -> ExploreConfig:
    """The maze studies: small networks, 16 environments, intrinsic reward only."""
    return ExploreConfig(
        name="maze",
        env="StochasticMaze",
        env_steps=250_000,
        envs=EnvsConfig(num=16, groups=1, threads=1),
        policy=PolicyConfig(encoder="mlp", width=64, mlp_hidden=(128,), memory=64, action_width=16),
        curiosity=CuriosityConfig(
            share="none",
            predictor_hidden=(128,),
            hindsight_dim=32,
            noise_dim=16,
            hindsight_hidden=(128, 128),
            negatives="batch_time",
            critic_lr_scale=3.0,
            rnd_fraction=1.0,
            rnd_width=64,
        ),
        reward=RewardConfig(extrinsic_coef=0.0, heads="single", intrinsic_coef=1.0),
        learn=LearnConfig(steps=64, epochs=2, minibatches=4, clip=0.2, entropy=0.01),
        train=TrainConfig(
            lr=1e-3,
            clip_norm=0.5,
            weight_decay=0.0,
            schedule="const",
            warmup=0.0,
            log_every=40,
            monitor_every=40,
            checkpoint_every=1000,
            precision="no",
            trackers=(),
        ),
        eval=EvalConfig(episodes=16, greedy=False),
    )


def tiny() -> ExploreConfig:
    """CPU seconds in the maze."""
    config = maze()
    return replace(config, name="tiny", env_steps=60_000, eval=replace(config.eval, episodes=8))


def base() -> ExploreConfig:
    """Atari on one GPU: recurrent PPO over a trunk shared with the world model."""
    return ExploreConfig(
        name="base",
        env="MontezumaRevenge",
        env_steps=20_000_000,
        envs=EnvsConfig(num=128, protocol="rnd2018"),
        policy=PolicyConfig(encoder="impala", standardise=True),
        train=TrainConfig(
            lr=1e-4,
            clip_norm=0.5,
            weight_decay=0.0,
            schedule="const",
            warmup=0.0,
            log_every=16,
            monitor_every=16,
            checkpoint_every=1600,
        ),
    )


def cpu() -> ExploreConfig:
    """Atari on two CPU cores for 20 minutes: the convolutions of DQN, half the widths, 32 environments.

    There are 200 rollouts, so the reward's statistics forget fast: with the published 0.99 their mean stays above all
    that transitions pay while the world model learns its first, steep part, and no reward is left.
    """
    config = base()
    return replace(
        config,
        name="cpu",
        env_steps=400_000,
        envs=replace(config.envs, num=32),
        policy=replace(config.policy, encoder="nature", width=256),
        curiosity=replace(config.curiosity, predictor_hidden=(256,), norm_decay=0.5),
        learn=replace(config.learn, steps=64, epochs=2),
        train=replace(config.train, log_every=8, monitor_every=8, checkpoint_every=80, trackers=()),
        eval=replace(config.eval, episodes=8, max_steps=1500, greedy=False),
    )


def paper() -> ExploreConfig:
    """As near the published setting as we know it: single head, full action set, V-MPO, 3 M learner steps.

    Discounts, lambda, entropy and V-MPO's constants are not known to us (exploration spec 12): this preset claims no
    "paper defaults".
    """
    config = base()
    return replace(
        config,
        name="paper",
        env_steps=3_000_000 * 128 * 32,
        envs=replace(config.envs, num=32, protocol="byol_explore"),
        policy=replace(config.policy, standardise=False),
        curiosity=replace(config.curiosity, context=0, critic="joint", critic_bound="sigmoid"),
        reward=RewardConfig(heads="single", intrinsic_coef=1.0, clip_sign=True),
        learn=LearnConfig(algorithm="vmpo", epochs=1, minibatches=1),
    )


PRESETS: dict[str, Callable[[], ExploreConfig]] = {"tiny": tiny, "maze": maze, "base": base, "cpu": cpu, "paper": paper}
