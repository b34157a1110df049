"""What a recorded set gives away: linear probes of single frames, and of motion between neighbouring frames.

Legend: ``N`` videos, ``T`` frames, ``H, W`` height and width, ``D`` features, ``K`` filters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from byol_ext.metrics.probes import Split, linear_probe

FILTERS, FRAMES, SHIFTS, BANDS = 64, 4, 4, 4


def probe_accuracy(
    features_NTD: Mapping[str, torch.Tensor], labels: Mapping[str, np.ndarray], *, seed: int = 0
) -> float:
    """Test accuracy of logistic regression (C = 0.1, standardised) on features of frames, each with its video's label.

    Args:
        features_NTD: Features ``[N, T, D]`` of ``train`` and ``test``.
        labels: Labels ``[N]`` of both.
        seed: Seed of the probe.
    """
    splits = {}
    for name in ("train", "test"):
        features = features_NTD[name]
        label_NT = torch.as_tensor(labels[name])[:, None].expand(features.shape[:2])
        splits[name] = Split(features.flatten(0, 1), label_NT.flatten())
    result = linear_probe(
        train=splits["train"], validation=splits["train"], test=splits["test"], c_grid=(0.1,), seed=seed
    )
    return result.metrics["accuracy"]


def single_frame_probe(videos: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], *, seed: int = 0) -> float:
    """The best that two probes of single frames reach: where things are, and how they look wherever they are.

    The first sees the frame in 21 x 21 pixels; the second means and maxima of random filters over the frame, in which
    the direction that a figure faces shows.

    Args:
        videos: Frames ``uint8 [N, T, H, W]`` of ``train`` and ``test``.
        labels: Labels ``[N]`` of both.
        seed: Seed of filters and of which frames are taken.
    """
    random = np.random.default_rng(seed)
    filters_K1HW = torch.from_numpy(random.standard_normal((FILTERS, 1, 7, 7)).astype(np.float32))
    filters_K1HW = filters_K1HW - filters_K1HW.mean(dim=(2, 3), keepdim=True)
    where: dict[str, torch.Tensor] = {}
    look: dict[str, torch.Tensor] = {}
    for name, frames_NTHW in videos.items():
        n, length = frames_NTHW.shape[:2]
        times_NT = random.integers(length, size=(n, FRAMES))
        frames = torch.from_numpy(frames_NTHW[np.arange(n)[:, None], times_NT]).float() / 255
        where[name] = F.adaptive_avg_pool2d(frames, 21).flatten(2)
        found = [
            torch.cat([answer.mean(dim=(2, 3)), answer.amax(dim=(2, 3))], dim=1)
            for part in frames.flatten(0, 1)[:, None].split(256)
            for answer in (F.conv2d(part, filters_K1HW, stride=2).relu(),)
        ]
        look[name] = rearrange(torch.cat(found), "(n t) d -> n t d", n=n)
    return max(probe_accuracy(features, labels, seed=seed) for features in (where, look))


def motion_probe(videos: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], *, seed: int = 0) -> float:
    """Accuracy of a probe that sees which way changes go: it shows that time tells the classes apart.

    A feature is the mean product of the change of a pixel with the next change of a pixel some steps away (a Reichardt
    detector), in one of four bands of the frame; so it knows directions and speeds and no frame.

    Args:
        videos: Frames ``uint8 [N, T, H, W]`` of ``train`` and ``test``.
        labels: Labels ``[N]`` of both.
        seed: Seed of the probe.
    """
    return probe_accuracy(
        {name: motion_features(frames)[:, None] for name, frames in videos.items()}, labels, seed=seed
    )


def motion_features(frames_NTHW: np.ndarray) -> torch.Tensor:
    """``[N, D]``; see :func:`motion_probe`.

    Args:
        frames_NTHW: ``uint8``.
    """
    return torch.stack([_motion(torch.from_numpy(frames_THW).float() / 255) for frames_THW in frames_NTHW])


def _motion(frames_THW: torch.Tensor) -> torch.Tensor:
    change = frames_THW.diff(dim=0)
    before, after = change[:-1], change[1:]
    bands = before.shape[1] // BANDS * BANDS
    found = []
    for axis in (1, 2):
        for shift in range(-SHIFTS, SHIFTS + 1):
            product = (before * after.roll(-shift, dims=axis))[:, :bands]
            found.append(rearrange(product, "t (b h) w -> b (t h w)", b=BANDS).mean(dim=1))
    features = torch.cat(found)
    # The energy of the changes differs from window to window by more than any direction does.
    return torch.cat([features / (features.abs().amax() + 1e-8), features])
