"""Steps a second of our environments beside MiniGrid (Python) and EnvPool's MiniGrid (C++), interleaved in one run.

Random actions, resets included: a row of a batch that resets counts as a step, for EnvPool as for us. Each environment
steps for a slice of every round; the best round is what the machine can do, the median what it did. The claims at the
end are those of one core and hold on a machine that does nothing else: the load average says whether it did.

    python benchmarks/envs.py [--rounds 7] [--seconds 0.5] [--json rows.jsonl]
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np

Stepper = Iterator[int]


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table; ``make`` returns an iterator that steps once per item and yields the steps made."""

    name: str
    backend: str
    n: int
    threads: int
    make: Callable[["Case"], Stepper]


def register_ids() -> None:
    """Import the package ``envs``, which a script of that name hides while its folder comes first in the path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    importlib.import_module("envs")


def batch(env_id: str, **arguments) -> Callable[[Case], Stepper]:
    def make(case: Case) -> Stepper:
        env = gymnasium.make_vec(env_id, case.n, copy=False, num_threads=case.threads, **arguments)
        env.reset(seed=0)
        for actions in itertools.cycle(random_actions(env.single_action_space.n, case.n)):
            env.step(actions)
            yield case.n

    return make


def envpool_batch(env_id: str) -> Callable[[Case], Stepper]:
    def make(case: Case) -> Stepper:
        import envpool

        env = envpool.make(env_id, env_type="gymnasium", num_envs=case.n, num_threads=case.threads, seed=0)
        env.reset()
        for actions in itertools.cycle(random_actions(env.action_space.n, case.n)):
            env.step(actions)
            yield case.n

    return make


def single(env_id: str, **arguments) -> Callable[[Case], Stepper]:
    def make(case: Case) -> Stepper:
        if env_id.startswith("MiniGrid"):
            import minigrid  # noqa: F401 (registers its ids)

        env = gymnasium.make(env_id, disable_env_checker=True, **arguments)
        env.reset(seed=0)
        for action in itertools.cycle(random_actions(env.action_space.n, 1)[:, 0].tolist()):
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
            yield 1

    return make


def random_actions(count: int, n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (256, n))


def cases() -> list[Case]:
    gridworld, maze = "byol_ext/ZipfGridworld-v0", "byol_ext/StochasticMaze-v0"
    tiles, pixels = batch(gridworld, obs="tiles"), batch(gridworld, obs="pixels")
    found = [
        Case("MiniGrid-Empty-8x8", "Python", 1, 1, single("MiniGrid-Empty-8x8-v0")),
        *(Case("MiniGrid-Empty-8x8", "EnvPool", n, 1, envpool_batch("MiniGrid-Empty-8x8-v0")) for n in (64, 1024)),
        Case("ZipfGridworld tiles", "single", 1, 1, single(gridworld, obs="tiles")),
        *(Case("ZipfGridworld tiles", "batch", n, 1, tiles) for n in (64, 1024)),
        *(Case("ZipfGridworld tiles", "batch", 16384, threads, tiles) for threads in (1, 2)),
        *(Case("ZipfGridworld pixels", "batch", 1024, threads, pixels) for threads in (1, 2)),
        Case("StochasticMaze", "batch", 1024, 1, batch(maze)),
        Case("StochasticMaze brownian", "batch", 1024, 1, batch(maze, noise="brownian")),
        Case("StochasticMaze pixel noise", "batch", 1024, 1, batch(maze, noise="pixel")),
    ]
    for name in ("RandomDiscoMaze", "ZipfLabyrinth", "ZipfPlayroom"):
        if f"byol_ext/{name}-v0" in gymnasium.registry:
            found.append(Case(name, "batch", 256, 1, batch(f"byol_ext/{name}-v0")))
    return found


def measure(stepper: Stepper, seconds: float) -> float:
    """Steps a second over a slice of wall time."""
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(8):
            steps += next(stepper)
    return steps / elapsed


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def claims(best: dict[Case, float]) -> list[tuple[str, float, float]]:
    """Triples (what, measured, at least)."""

    def rate(name: str, *, n: int | None = None, threads: int = 1, backend: str = "batch") -> float:
        found = [v for c, v in best.items() if (c.name, c.threads, c.backend) == (name, threads, backend)]
        chosen = [v for c, v in best.items() if (c.name, c.n, c.threads, c.backend) == (name, n, threads, backend)]
        return max(chosen if n else found, default=float("nan"))

    tiles, pool = rate("ZipfGridworld tiles", n=1024), rate("MiniGrid-Empty-8x8", backend="EnvPool")
    found = [
        ("gridworld tiles, M steps/s", tiles / 1e6, 4.0),
        ("gridworld tiles / EnvPool MiniGrid", tiles / pool, 20.0),
        ("gridworld tiles / Python MiniGrid", tiles / rate("MiniGrid-Empty-8x8", backend="Python"), 100.0),
        ("gridworld pixels, k steps/s", rate("ZipfGridworld pixels", n=1024) / 1e3, 300.0),
        ("StochasticMaze, M steps/s", rate("StochasticMaze") / 1e6, 4.0),
        ("Labyrinth 72x96, k frames/s", rate("ZipfLabyrinth") / 1e3, 30.0),
    ]
    for name, n in (("ZipfGridworld tiles", 16384), ("ZipfGridworld pixels", 1024)):
        found.append((f"{name}, n={n}: two threads / one", rate(name, n=n, threads=2) / rate(name, n=n), 1.7))
    return [claim for claim in found if not np.isnan(claim[1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one slice")
    parser.add_argument("--json", type=Path, help="append one JSON object a line of the table")
    args = parser.parse_args()
    register_ids()
    steppers = {case: case.make(case) for case in cases()}
    rates: dict[Case, list[float]] = {case: [] for case in steppers}
    for stepper in steppers.values():
        measure(stepper, 0.1)
    before = os.getloadavg()[0]
    for _ in range(args.rounds):
        for case, stepper in steppers.items():
            rates[case].append(measure(stepper, args.seconds))
    load = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{cpu_model()}, {os.cpu_count()} cores, load average {load}; {args.rounds} rounds of {args.seconds} s")
    print(f"{'':36}{'n':>7}{'threads':>9}{'best steps/s':>15}{'median':>13}")
    for case, values in rates.items():
        name, median = f"{case.name}, {case.backend}", statistics.median(values)
        print(f"{name:36}{case.n:7}{case.threads:9}{max(values):15,.0f}{median:13,.0f}")
        if args.json:
            row = {k: v for k, v in dataclasses.asdict(case).items() if k != "make"}
            row |= {"best": max(values), "median": median, "cpu": cpu_model(), "load": load}
            with args.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print("\nof the best rounds:")
    for what, measured, least in claims({case: max(values) for case, values in rates.items()}):
        print(f"{what:48}{measured:10.2f}   (claim: >= {least:g}){'' if measured >= least else '   MISSED'}")


if __name__ == "__main__":
    main()
