"""Peak memory against the effective batch: SLAP accumulated, CLAP accumulated (cached), CLAP in one batch.

Each row is a process of its own that takes two optimiser steps of `byol_ext.training.fit` on made-up clips with the
small towers; on the CPU the figure is the growth of the peak resident set over the process before training. SLAP's loss
is per sample, so naive accumulation is exact and holds one micro-batch at a time. CLAP's is not: exact accumulation
keeps all representations (and inputs), and without accumulation everything.

    python benchmarks/slap_memory.py [--batches 64 256 1024 4096] [--micro 64]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from byol_ext.ledger import BadSampleLedger
from byol_ext.training import LoaderSource, ResumableSampler, Run, TrainConfig, fit
from recipes.slap import Prepare, build, build_inputs
from recipes.slap_config import LossConfig, SlapConfig, tiny
from recipes.slap_data import collate_rows

ARMS = {
    "SLAP, accumulated": ("slap", "naive", False),
    "SLAP, one batch": ("slap", "naive", True),
    "CLAP, accumulated (cached)": ("clap-infonce", "cached", False),
    "CLAP, one batch": ("clap-infonce", "naive", True),
}


class Clips(Dataset):
    """Noise with captions: the cost of training does not depend on what is heard."""

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index):
        row, epoch = index
        wave = np.random.default_rng(row).standard_normal(16_000).astype(np.float32)
        account = {"bad": {}, "errors": [], "silent": False, "has_audio": True, "has_text": True}
        text = f"clip number {row % 97} of noise"
        item = {"id": row, "epoch": epoch, "key": str(row), "audio": wave, "captions": [text], "caption": text}
        return item | {"tags": {}, "duration": 1.0} | account


def config_of(loss: str, micro: int) -> SlapConfig:
    base = tiny()
    return replace(
        base,
        audio=replace(base.audio, input_norm="frozen"),
        heads=replace(base.heads, projector_norm="layer", predictor_norm="layer"),
        loss=LossConfig(name=loss),
        data=replace(base.data, batch=micro, workers=0),
    )


def peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(loss: str, mode: str, micro: int, steps: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = config_of(loss, micro)
    inputs = build_inputs(config)
    towers = build(config, inputs)

    prepare = Prepare(towers, seed=0, groups=False, ledger=BadSampleLedger())
    source = LoaderSource(Clips(), ResumableSampler(1 << 20, micro), collate=collate_rows)
    train = TrainConfig(steps=2, accumulate_steps=steps, accumulate=mode, trackers=(), monitor_every=0, precision="no")
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", recipe="bench")
        before = peak(device) if device == "cpu" else 0.0
        result = fit(towers.model, source, train, prepare=prepare, run=run)
    print(json.dumps({"mib": peak(device) - before, "seconds": result.seconds / 2, "device": device}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--micro", type=int, default=64)
    parser.add_argument("--limit", type=int, default=1024, help="largest batch that is tried without accumulation")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        loss, mode, micro, steps = args.measure
        measure(loss, mode, int(micro), int(steps))
        return
    print(f"peak memory in MiB over the process before training, micro-batch {args.micro}, small towers, 1 s clips")
    print(f"{'effective batch':28}" + "".join(f"{batch:>10}" for batch in args.batches))
    growth = {}
    for name, (loss, mode, whole) in ARMS.items():
        cells = []
        for batch in args.batches:
            if whole and batch > args.limit:
                cells.append(None)
                continue
            micro, steps = (batch, 1) if whole else (min(args.micro, batch), max(batch // args.micro, 1))
            command = [sys.executable, __file__, "--measure", loss, mode, str(micro), str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            cells.append(json.loads(done.stdout.splitlines()[-1])["mib"])
        print(f"{name:28}" + "".join(f"{'-' if c is None else f'{c:.0f}':>10}" for c in cells), flush=True)
        seen = [c for c in cells if c is not None]
        growth[name] = seen[-1] / seen[0]
    print("largest over smallest batch: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in growth.items()))


if __name__ == "__main__":
    main()
