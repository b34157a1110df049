"""Bias of five CIR simulation schemes in mean and standard deviation, and their time, after 8 steps to t = 1.

Biases are relative to the exact moments; the standard error of both is about 1 / sqrt(n). "-": no such scheme for the
shape.

    python benchmarks/cir_schemes.py [--n 1000000] [--steps 8] [--start 1.0]
"""

import argparse
import time

import torch

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.cir_schemes import exact_step, full_truncation_step, implicit_step, ou_step, qe_step, simulate

SHAPES = (0.1, 0.5, 1.0, 3.0)


def row(step, shape: float, args: argparse.Namespace) -> str:
    process, start = CIR(shape), torch.full((args.n,), args.start, dtype=torch.float64)
    mean, std = process.mean(start[:1], 1.0).item(), process.variance(start[:1], 1.0).sqrt().item()
    generator = torch.Generator().manual_seed(0)
    begin = time.perf_counter()
    try:
        theta = simulate(process, start, t=1.0, steps=args.steps, step=step, generator=generator)
    except ValueError:
        return f"{'-':>32}"
    nanoseconds = 1e9 * (time.perf_counter() - begin) / (args.n * args.steps)
    return f"{theta.mean().item() / mean - 1:+12.4f}{theta.std().item() / std - 1:+12.4f}{nanoseconds:8.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--start", type=float, default=1.0)
    args = parser.parse_args()
    print(f"n={args.n}, {args.steps} steps to t=1 from {args.start}, torch {torch.__version__}")
    print(f"{'scheme':22}{'a':>5}{'mean bias':>12}{'std bias':>12}{'ns/step':>8}")
    for step in (exact_step, full_truncation_step, implicit_step, qe_step, ou_step):
        for shape in SHAPES:
            print(f"{step.__name__:22}{shape:5}{row(step, shape, args)}", flush=True)


if __name__ == "__main__":
    main()
