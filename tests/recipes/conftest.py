"""A tiny real data set on disk: ToneCaps clips as WAV files with a manifest."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from byol_ext.audio.tonecaps import SAMPLE_RATE, ToneCapsSource
from recipes.slap_config import SlapConfig, tiny


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """48 training, 12 validation and 12 test clips, three captions each."""
    root = tmp_path_factory.mktemp("pairs")
    rows = []
    for split, count in (("train", 48), ("val", 12), ("test", 12)):
        source = ToneCapsSource(split)
        for i in range(count):
            sample = source[i]
            soundfile.write(root / f"{split}{i}.wav", sample.audio, SAMPLE_RATE)
            rows += [{"audio": f"{split}{i}.wav", "caption": text, "split": split} for text in sample.captions[:3]]
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["audio", "caption", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return root / "pairs.csv"


@pytest.fixture
def config(tmp_path) -> SlapConfig:
    """The tiny preset, smaller still: seconds on one core."""
    base = tiny()
    return replace(
        base,
        name="test",
        root=str(tmp_path / "runs"),
        audio=replace(base.audio, width=32, depth=1, time_width=4, freq_width=4),
        text=replace(base.text, width=32),
        heads=replace(base.heads, dim=16, projector_hidden=16, predictor_hidden=32),
        data=replace(base.data, batch=16, workers=0, clip_seconds=0.5),
        train=replace(base.train, steps=6, log_every=1, checkpoint_every=3, monitor_every=2, trackers=()),
        eval=replace(base.eval, probe_samples=60, probe_seeds=1, tags=("register",)),
    )
