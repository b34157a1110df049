"""Programs that end with an open iterator over worker processes: ``training_exit.py CASE RUN``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import training_toy as toy


def fails(batch: dict[str, Any], step: int) -> Any:
    raise RuntimeError("on purpose")


def main(case: str, run: Path) -> None:
    if case == "fit":
        config = toy.config(steps=5)
        toy.fit(
            toy.slap(),
            toy.source(workers=2),
            config,
            prepare=fails,
            run=toy.Run.create(run, recipe="toy", config=config),
        )
    batches = iter(toy.source(workers=2))
    globals()["kept"] = batches
    next(batches)
    if case == "error":
        raise RuntimeError("on purpose")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
