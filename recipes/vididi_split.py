"""Validation videos out of the training split: by group, so that no source video is on both sides (spec 6)."""

from __future__ import annotations

import numpy as np

from byol_ext.video.samples import VideoList, VideoSample, VideoSource


def split_by_group(source: VideoSource, *, share: float, seed: int) -> tuple[VideoSource, VideoSource | None]:
    """Training and validation videos such that no group is in both and every class is in training.

    Args:
        source: Labelled videos; one without a group is a group of its own.
        share: Share of each class' groups to hold out, at least one where a class has two.
        seed: Seed of the choice.

    Returns:
        Training videos and validation videos; None for these if ``share`` is 0 or no class has two groups.

    Raises:
        ValueError: If a video has no label, or groups that span classes leave a class without training videos.
    """
    samples = [source[i] for i in range(len(source))]
    groups_of: dict[int, set[tuple[str, str]]] = {}
    for sample in samples:
        if sample.label is None:
            raise ValueError(f"{sample.key} has no label; fine-tuning needs one for every video")
        groups_of.setdefault(sample.label, set()).add(_unit(sample))
    if share == 0.0:
        return source, None
    units = sorted(set().union(*groups_of.values()))
    rank = {units[i]: k for k, i in enumerate(np.random.default_rng([seed, 0x5117]).permutation(len(units)))}
    held: set[tuple[str, str]] = set()
    for label in sorted(groups_of):
        own = sorted(groups_of[label], key=rank.__getitem__)
        wanted = max(round(share * len(own)), 1) if len(own) > 1 else 0
        held.update(own[: max(wanted - len(held.intersection(own)), 0)])
    lost = [label for label, own in groups_of.items() if own <= held]
    if lost:
        names = [source.classes[label] for label in sorted(lost)[:5]]
        raise ValueError(f"groups span classes, so that {names} would have no training video; lower validation_share")
    if not held:
        return source, None

    def part(name: str, *, in_held: bool) -> VideoList:
        kept = [sample for sample in samples if (_unit(sample) in held) == in_held]
        return VideoList(kept, classes=source.classes, invariances=source.invariances, name=name)

    return part("fitted", in_held=False), part("validation", in_held=True)


def _unit(sample: VideoSample) -> tuple[str, str]:
    return ("group", sample.group) if sample.group is not None else ("video", sample.key)
