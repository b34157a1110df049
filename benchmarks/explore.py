"""End-to-end training frames a second on Atari: our RND agent, a plain single loop of PPO + RND, Stable-Baselines3.

All three step the same pool (one kind of environments, equal count, equal seed), have the Nature network of a 4-frame
stack, take rollouts of 128 steps, 4 epochs and 4 minibatches. The plain loop has CleanRL's shape: one pool, no overlap,
rewards at every step, both RND networks run in every epoch. Stable-Baselines3 runs PPO without any intrinsic reward.
They take turns, ``--rounds`` times. Claims: at least 1.5x the plain loop on 2 cores, 3x on a GPU.

    python benchmarks/explore.py [--rounds 3] [--envs 16] [--rollouts 2] [--device auto]
"""

import sys

sys.path.pop(0)  # benchmarks/envs.py would hide the package envs

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from byol_ext.rl.agent import adam
from byol_ext.rl.curiosity.rnd import conv_networks
from byol_ext.rl.encoders import nature_cnn
from byol_ext.rl.policy import ActorCritic
from byol_ext.rl.recurrent import Trunk
from byol_ext.rl.rollout import prepare
from envs.atari import AtariVector
from envs.protocols import RND2018
from recipes.explore import build
from recipes.explore_config import CuriosityConfig, EnvsConfig, ExploreConfig, LearnConfig, PolicyConfig

STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
FRAMES = 4
GAME = "MontezumaRevenge"


def ours(envs: int, device: str) -> Iterator[int]:
    """The recipe's own agent under ``fit``; yields at the end of each rollout's learning."""
    base = ExploreConfig(env=GAME, agent="rnd")
    config = replace(
        base,
        envs=EnvsConfig(num=envs, groups=2),
        policy=PolicyConfig(encoder="nature", memory=0),
        curiosity=CuriosityConfig(warmup_steps=0),
        learn=LearnConfig(steps=STEPS, epochs=EPOCHS, minibatches=MINIBATCHES),
        train=replace(base.train, device=device, log_every=EPOCHS * MINIBATCHES, monitor_every=0, trackers=()),
        env_steps=10**9,
    )
    experiment = build(config)
    source = experiment.source
    agent = experiment.agent
    optimizer = adam(agent, lr=1e-4)
    autocast = torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda")
    for step, batch in enumerate(source):
        views, ctx = prepare(batch, step)
        with autocast:
            loss = agent(views, ctx, step).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in agent.parameters() if p.requires_grad], 0.5)
        optimizer.step()
        agent.after_step(step)
        if (step + 1) % source.batches_per_rollout == 0:
            yield STEPS * envs


def plain(envs: int, device: str) -> Iterator[int]:
    """One loop: step, reward, learn; nothing overlaps, nothing is cached."""
    pool = AtariVector(GAME, envs, protocol=RND2018)
    obs = torch.from_numpy(pool.reset(seed=0)[0]).to(device)
    actions = pool.single_action_space.n
    policy = ActorCritic(Trunk(nature_cnn((4, 84, 84)), actions, width=0), actions).to(device)
    networks = conv_networks((1, 84, 84))
    target, predictor = networks.target.to(device).requires_grad_(False), networks.predictor.to(device)
    optimizer = torch.optim.Adam([*policy.parameters(), *predictor.parameters()], lr=1e-4, eps=1e-5)
    mean, var, filtered = torch.zeros(84, 84, device=device), torch.ones(84, 84, device=device), np.zeros(envs)
    none, first, state = (
        torch.zeros(envs, dtype=torch.long, device=device),
        torch.zeros(envs, dtype=torch.bool, device=device),
        None,
    )
    state = policy.initial_state(envs)
    while True:
        rows: dict[str, list[torch.Tensor]] = {
            k: [] for k in ("obs", "next", "action", "logp", "ext", "int", "done", "ve", "vi")
        }
        for _ in range(STEPS):
            with torch.no_grad():
                out = policy.act(obs, none, first, state)
                chosen = torch.distributions.Categorical(logits=out.logits_BA)
                action = chosen.sample()
            following, reward, terminated, truncated, _ = pool.step(action.cpu().numpy())
            following_obs = torch.from_numpy(following).to(device)
            with torch.no_grad():
                x = ((following_obs[:, 3:].float() - mean) / var.sqrt()).clamp(-5, 5)
                bonus = (predictor(x) - target(x)).square().mean(-1)
            done = torch.from_numpy(terminated | truncated).to(device)
            for name, value in (
                ("obs", obs), ("next", following_obs[:, 3:]), ("action", action), ("logp", chosen.log_prob(action)),
                ("ext", torch.from_numpy(np.sign(reward)).to(device)), ("int", bonus), ("done", done.float()),
                ("ve", out.values["extrinsic"]), ("vi", out.values["intrinsic"]),
            ):  # fmt: skip
                rows[name].append(value)
            obs = following_obs
        data = {name: torch.stack(values) for name, values in rows.items()}
        frames = data["next"].float()
        mean, var = frames.mean((0, 1, 2)), frames.var((0, 1, 2)) + 1e-4
        for row in data["int"].cpu().numpy():
            filtered = 0.99 * filtered + row
        data["int"] = data["int"] / float(filtered.std() + 1e-8)
        with torch.no_grad():
            last = policy.act(obs, none, first, state).values
        returns = {}
        advantage = torch.zeros(STEPS, envs, device=device)
        for key, values, bootstrap, discount, weight in (
            ("ext", data["ve"], last["extrinsic"], 0.999, 2.0),
            ("int", data["vi"], last["intrinsic"], 0.99, 1.0),
        ):
            gae, own = torch.zeros(envs, device=device), torch.zeros(STEPS, envs, device=device)
            for t in reversed(range(STEPS)):
                after = bootstrap if t == STEPS - 1 else values[t + 1]
                alive = 1.0 - data["done"][t] if key == "ext" else torch.ones(envs, device=device)
                delta = data[key][t] + discount * after * alive - values[t]
                gae = delta + discount * 0.95 * alive * gae
                own[t] = gae
            returns[key] = own + values
            advantage += weight * own
        flat = {k: v.flatten(0, 1) for k, v in data.items()}
        advantage, ext, inn = advantage.flatten(), returns["ext"].flatten(), returns["int"].flatten()
        size = STEPS * envs // MINIBATCHES
        for _ in range(EPOCHS):
            order = torch.randperm(STEPS * envs, device=device)
            for start in range(0, STEPS * envs, size):
                part = order[start : start + size]
                x = ((flat["next"][part].float() - mean) / var.sqrt()).clamp(-5, 5)
                error = (predictor(x) - target(x).detach()).square().mean(-1)
                mask = (torch.rand(len(part), device=device) < 0.25).float()
                distillation = (error * mask).sum() / mask.sum().clamp_min(1)
                n = len(part)
                out = policy.act(flat["obs"][part], none[:1].expand(n), first[:1].expand(n), policy.initial_state(n))
                chosen = torch.distributions.Categorical(logits=out.logits_BA)
                ratio = (chosen.log_prob(flat["action"][part]) - flat["logp"][part]).exp()
                a = advantage[part]
                a = (a - a.mean()) / (a.std() + 1e-8)
                surrogate = torch.max(-a * ratio, -a * ratio.clamp(0.9, 1.1)).mean()
                values = F.mse_loss(out.values["extrinsic"], ext[part]) + F.mse_loss(out.values["intrinsic"], inn[part])
                loss = surrogate - 0.001 * chosen.entropy().mean() + 0.5 * values + distillation
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([*policy.parameters(), *predictor.parameters()], 0.5)
                optimizer.step()
        yield STEPS * envs


def baselines3(envs: int, device: str) -> Iterator[int]:
    """Stable-Baselines3's PPO with CnnPolicy on the same pool, one ``learn`` of a rollout at a time."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv

    class Adapter(VecEnv):
        def __init__(self, pool: AtariVector) -> None:
            self.pool = pool
            super().__init__(pool.num_envs, pool.single_observation_space, pool.single_action_space)

        def reset(self):
            return self.pool.reset(seed=0)[0]

        def step_async(self, actions):
            self.actions = actions

        def step_wait(self):
            obs, reward, terminated, truncated, _ = self.pool.step(self.actions)
            return obs, np.sign(reward), terminated | truncated, [{} for _ in range(self.num_envs)]

        def close(self):
            self.pool.close()

        def get_attr(self, name, indices=None):
            return [None] * self.num_envs

        def set_attr(self, *_):
            pass

        def env_method(self, *_, **__):
            return []

        def env_is_wrapped(self, *_, **__):
            return [False] * self.num_envs

    pool = AtariVector(GAME, envs, protocol=RND2018)
    model = PPO(
        "CnnPolicy", Adapter(pool), n_steps=STEPS, batch_size=STEPS * envs // MINIBATCHES, n_epochs=EPOCHS,
        learning_rate=1e-4, device=device,
    )  # fmt: skip
    while True:
        model.learn(STEPS * envs, reset_num_timesteps=False)
        yield STEPS * envs


def stepping(envs: int, device: str) -> Iterator[int]:
    """The pool alone with random actions: what no learner can exceed."""
    pool = AtariVector(GAME, envs, protocol=RND2018)
    pool.reset(seed=0)
    random = np.random.default_rng(0)
    while True:
        for _ in range(STEPS):
            pool.step(random.integers(pool.single_action_space.n, size=envs))
        yield STEPS * envs


SYSTEMS: dict[str, Callable[[int, str], Iterator[int]]] = {
    "ours: PPO + RND": ours,
    "plain loop: PPO + RND": plain,
    "Stable-Baselines3: PPO": baselines3,
    "environments alone": stepping,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts of a system's turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    running = {name: make(chosen.envs, chosen.device) for name, make in SYSTEMS.items()}
    for system in running.values():
        next(system)
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(chosen.rounds):
        for name, system in running.items():
            began = time.perf_counter()
            steps = sum(next(system) for _ in range(chosen.rollouts))
            if chosen.device == "cuda":
                torch.cuda.synchronize()
            rates[name].append(FRAMES * steps / (time.perf_counter() - began))
    print(f"{GAME}, {chosen.envs} environments, {chosen.device}, {torch.get_num_threads()} threads; frames a second")
    print(f"{'system':28} {'median':>8} {'least':>8} {'most':>8}")
    for name, values in rates.items():
        print(f"{name:28} {statistics.median(values):8.0f} {min(values):8.0f} {max(values):8.0f}")
    mine = rates["ours: PPO + RND"]
    for name in ("plain loop: PPO + RND", "Stable-Baselines3: PPO"):
        ratios = [a / b for a, b in zip(mine, rates[name], strict=True)]
        print(f"ours over {name}: {statistics.median(ratios):.2f}x (rounds: {', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
