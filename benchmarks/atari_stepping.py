"""Rate of stepping Atari: the raw back ends against `envs.atari.AtariVector` over them, alternating in one run.

    python benchmarks/atari_stepping.py --num-envs 16 64 128 --seconds 2 --rounds 7

Both step Montezuma's Revenge with the `rnd2018` settings (grey 84x84, four frames stacked) and random actions. The raw
back end stacks frames itself; ours also tells rooms or cells, lives and frame numbers. Target: ratio >= 0.95.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # benchmarks/envs.py would hide the package envs

import argparse
import logging
import time
from collections.abc import Callable

import numpy as np
from gymnasium.vector import VectorEnv

from envs.atari import AtariVector
from envs.protocols import RND2018

GAME = "montezuma_revenge"


def raw_envpool(num_envs: int, num_threads: int) -> VectorEnv:
    import envpool

    return envpool.make_gymnasium(
        "MontezumaRevenge-v5",
        num_envs=num_envs,
        num_threads=num_threads,
        repeat_action_probability=RND2018.sticky,
        max_episode_steps=RND2018.frame_limit // RND2018.skip,
        noop_max=1,
        use_fire_reset=False,
    )


def raw_ale(num_envs: int, num_threads: int) -> VectorEnv:
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        GAME,
        num_envs,
        num_threads=num_threads,
        repeat_action_probability=RND2018.sticky,
        max_num_frames_per_episode=RND2018.frame_limit,
        noop_max=1,
        use_fire_reset=False,
        reward_clipping=False,
    )


def rate(pool: VectorEnv, actions: np.ndarray, seconds: float) -> float:
    """Agent steps a second."""
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        pool.step(actions[steps % len(actions)])
        steps += 1
    return steps * actions.shape[1] / elapsed


def compare(name: str, raw: Callable[[int, int], VectorEnv], num_envs: int, args: argparse.Namespace) -> None:
    pools = {
        "raw": raw(num_envs, args.num_threads),
        "ours": AtariVector(GAME, num_envs, backend=name, num_threads=args.num_threads),
    }
    actions = np.random.default_rng(0).integers(18, size=(64, num_envs))
    for pool in pools.values():
        pool.reset()
        rate(pool, actions, 0.5)
    rates: dict[str, list[float]] = {"raw": [], "ours": []}
    for turn in range(args.rounds):
        for key in sorted(pools, reverse=turn % 2 == 0):
            rates[key].append(rate(pools[key], actions, args.seconds))
    raw_rate, our_rate = np.median(rates["raw"]), np.median(rates["ours"])
    ratio = np.median(np.divide(rates["ours"], rates["raw"]))
    print(f"{name:8} {num_envs:5} {raw_rate:12,.0f} {our_rate:12,.0f} {ratio:8.3f}")
    for pool in pools.values():
        pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--num-threads", type=int, default=0, help="of the back end; 0: one a core")
    parser.add_argument("--seconds", type=float, default=2.0, help="of stepping in a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns each; medians are printed")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    print("agent steps (4 frames) a second\nback end  envs          raw         ours    ratio")
    for name, raw in (("envpool", raw_envpool), ("ale", raw_ale)):
        for num_envs in args.num_envs:
            compare(name, raw, num_envs, args)


if __name__ == "__main__":
    main()
