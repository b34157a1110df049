"""EMA update of ResNet-50-sized parameters: byol_ext.EMA against lightly's update_momentum, interleaved in one run.

Claim: at most 0.5x lightly's time.

    python benchmarks/ema_update.py [--rounds 30] [--device cuda]
"""

import argparse
import copy
import statistics
import time

import torch
import torchvision
from lightly.models.utils import update_momentum

from byol_ext import EMA


def seconds(call, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    source = torchvision.models.resnet50(weights=None).to(args.device)
    ours, theirs = EMA(source, 0.99), copy.deepcopy(source)
    calls = {
        "byol_ext.EMA.update": lambda: ours.update(0),
        "lightly update_momentum": lambda: update_momentum(source, theirs, m=0.99),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(args.rounds + 3):
        for name, call in calls.items():
            elapsed = seconds(call, args.device)
            if round_ >= 3:
                times[name].append(elapsed)
    for a, b in zip(ours.module.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    parameters = sum(p.numel() for p in source.parameters()) / 1e6
    print(f"{parameters:.1f} M parameters, {device}, torch {torch.__version__}, {args.rounds} interleaved rounds")
    print(f"{'':26}{'median ms':>10}{'min ms':>10}")
    for name, values in times.items():
        print(f"{name:26}{1e3 * statistics.median(values):10.2f}{1e3 * min(values):10.2f}")
    ratio = statistics.median(times["byol_ext.EMA.update"]) / statistics.median(times["lightly update_momentum"])
    print(f"ratio of medians: {ratio:.2f} (claim: <= 0.50)")


if __name__ == "__main__":
    main()
