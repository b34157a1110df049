"""Share of the training time that the `tiny` preset waits for its loader with one worker. Claim: under 5 %.

python benchmarks/loader.py [--steps 60]
"""

import argparse
import tempfile
from dataclasses import replace

import torch

from recipes.slap import train
from recipes.slap_config import tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    preset = tiny()
    print(f"{'workers':>8}{'samples/s':>12}{'waiting %':>12}   {torch.get_num_threads()} threads")
    shares = {}
    for workers in (0, 1):
        with tempfile.TemporaryDirectory() as root:
            config = replace(
                preset,
                root=root,
                data=replace(preset.data, workers=workers),
                train=replace(
                    preset.train, steps=args.steps, trackers=(), checkpoint_every=10**6, log_every=args.steps
                ),
            )
            result, *_ = train(config)
        shares[workers] = 100 * result.wait_fraction
        print(f"{workers:>8}{result.samples_seen / result.seconds:>12.0f}{shares[workers]:>12.1f}", flush=True)
    print(f"waiting with 1 worker: {shares[1]:.1f} % (claim: < 5 %)")


if __name__ == "__main__":
    main()
