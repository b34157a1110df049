"""Pictures of a run: training curves, derivative strips, confusion, retrieval sheet, saliency; and what they measure.

Legend: ``R`` videos shown, ``N`` measured, ``T`` frames, ``H, W, C``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from byol_ext.metrics.dynamics import class_separation, derivative_agreement
from byol_ext.training import Run, process_device
from byol_ext.training.curves import training_curves
from byol_ext.training.figures import confusion_figure
from byol_ext.video.data import VideoClips, collate
from byol_ext.video.motion_sprites import MotionSprites
from byol_ext.video.saliency import frame_difference_mask, input_gradient, saliency_metrics
from byol_ext.video.samples import VideoSource
from recipes.vididi import Experiment, centre, fresh
from recipes.vididi_config import VididiConfig
from recipes.vididi_data import SPRITES, Splits
from recipes.vididi_eval import Evaluation
from recipes.vididi_figures import derivative_strips, nearest_neighbours, retrieval_sheet, saliency_figure

CURVES = (
    "loss",
    "vicreg/invariance",
    "vicreg/variance",
    "vicreg/covariance",
    "simclr/accuracy",
    *(f"first.d{a}->second.d{b}" for a in range(3) for b in range(3)),
    "ema/tau",
    "lr",
    "collapse/first/z/std_sqrt_d",
    "collapse/first/z/rankme",
    "grad_norm",
)
SHOWN, MEASURED, QUERIES = 3, 64, 6


def draw(
    run: Run, config: VididiConfig, experiment: Experiment, splits: Splits, evaluation: Evaluation | None
) -> dict[str, float]:
    """All pictures that the run has the data for.

    Args:
        run: Its directory.
        config: Its configuration.
        experiment: The trained model.
        splits: The videos.
        evaluation: What was measured, if there are labelled test videos.

    Returns:
        Saliency and dynamics as flat metrics; without an evaluation none.
    """
    training_curves({config.name: run.path / "metrics.jsonl"}, path=run.figures / "training.png", terms=CURVES)
    source = splits.train if splits.test is None else splits.test
    shown = _clips(source, config, _spread(len(source), SHOWN))
    derivative_strips(
        shown.pictures, shown.names, path=run.figures / "derivatives.png", note=f"{shown.pictures.shape[1]} frames each"
    )
    if evaluation is None:
        return {}
    confusion_figure(evaluation.confusion, names=evaluation.classes, path=run.figures / "confusion.png")
    draw_retrieval(evaluation, config, splits, run.figures / "retrieval.png")
    raw_ND = evaluation.test.values["raw"]
    found = derivative_agreement(raw_ND, {1: evaluation.test.values["difference"]})
    found |= class_separation(raw_ND, evaluation.test.labels)
    return found | draw_saliency(config, experiment.encoder, source, run.figures / "saliency.png")


def draw_retrieval(evaluation: Evaluation, config: VididiConfig, splits: Splits, path: Path) -> Path:
    """Some queries and their nearest training videos.

    Args:
        evaluation: Features and ranks.
        config: The configuration.
        splits: The videos.
        path: PNG to write.
    """
    assert splits.test is not None
    query, gallery, rows_Q = evaluation.test, evaluation.train, evaluation.queries
    rows = nearest_neighbours(
        _spread(len(rows_Q), QUERIES),
        query_QD=query.values["raw"][rows_Q],
        gallery_ND=gallery.values["raw"],
        query_frames=_pictures_of(splits.test, config, query.ids[rows_Q]),
        gallery_frames=_pictures_of(splits.train, config, gallery.ids),
        query_names=[splits.test.classes[int(i)] for i in query.labels[rows_Q]],
        gallery_names=[splits.train.classes[int(i)] for i in gallery.labels],
    )
    note = f"{len(rows_Q)} queries, {len(gallery)} videos in the gallery, cosine"
    return retrieval_sheet(rows, path=path, note=note)


def draw_saliency(config: VididiConfig, encoder: nn.Module, source: VideoSource, path: Path) -> dict[str, float]:
    """Where the trained and the untrained encoder look, and the share of it on what moves.

    Args:
        config: The configuration.
        encoder: The trained encoder.
        source: The videos.
        path: PNG to write.

    Returns:
        ``saliency/…`` of the trained encoder, ``saliency/random_init_share_inside``; nothing if nothing moves in the
        videos or everything does.
    """
    device = process_device(config.train.device)
    untrained = fresh(config).encoder.to(device)
    clips = _clips(source, config, _spread(len(source), MEASURED))
    mask_NTHW = _moving(source, config, clips)
    maps = {
        name: input_gradient(network, clips.x_NCTHW.to(device)).cpu()
        for name, network in (("trained", encoder), ("untrained", untrained))
    }
    area_N = mask_NTHW.float().mean((1, 2, 3))
    usable = ((area_N > 0) & (area_N < 1)).nonzero().flatten()
    if not len(usable):
        return {}
    rows = usable[: SHOWN + 1]
    saliency_figure(
        clips.pictures[rows],
        [clips.names[int(i)] for i in rows],
        saliency_RTHW={name: saliency[rows].numpy() for name, saliency in maps.items()},
        mask_RTHW=mask_NTHW[rows].numpy(),
        path=path,
        note="input gradient of the length of the features",
    )
    control = saliency_metrics(maps["untrained"], mask_NTHW)["saliency/share_inside"]
    return saliency_metrics(maps["trained"], mask_NTHW) | {"saliency/random_init_share_inside": control}


@dataclass(frozen=True)
class _Shown:
    """A clip of some videos: the encoder's input, and the same as pictures.

    Attributes:
        ids: Positions in the source.
        names: Classes, or keys where there are none.
        x_NCTHW: Normalised.
        pictures: ``uint8 [N, T, H, W, C]``.
    """

    ids: list[int]
    names: list[str]
    x_NCTHW: Tensor
    pictures: np.ndarray


def _clips(source: VideoSource, config: VididiConfig, ids: Sequence[int]) -> _Shown:
    """One clip of each video as long as in training, cropped as in evaluation; unusable videos are left out.

    Raises:
        ValueError: If none can be used.
    """
    sampler = replace(config.clips, clips=1, layout="even", short="reflect")
    videos = VideoClips(source, sampler, on_bad="report", short_side=config.data.short_side)
    batch = collate([videos[i] for i in ids])
    if not len(batch["ids"]):
        raise ValueError(f"none of the videos {list(ids)} can be shown: {batch['errors'][:1]}")
    x_NCTHW = centre(config)(batch["clips"], batch["sizes"])[:, 0]
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (config.augment.mean, config.augment.std))
    grey_levels = ((x_NCTHW * std + mean).clamp(0, 1) * 255).round().byte()
    names = [
        source.classes[label] if label >= 0 else key
        for label, key in zip(batch["labels"].tolist(), batch["keys"], strict=True)
    ]
    return _Shown(batch["ids"].tolist(), names, x_NCTHW, rearrange(grey_levels, "n c t h w -> n t h w c").numpy())


def _pictures_of(source: VideoSource, config: VididiConfig, ids: Tensor) -> Callable[[int], np.ndarray]:
    """Pictures of the video of a row, read when they are asked for."""
    return lambda row: _clips(source, config, [int(ids[row])]).pictures[0]


def _moving(source: VideoSource, config: VididiConfig, shown: _Shown) -> Tensor:
    """What moves in the clips, ``bool [N, T, H, W]``: known of MotionSprites, else estimated from frame differences."""
    data = config.data
    if data.train != SPRITES:
        return frame_difference_mask(torch.from_numpy(shown.pictures))
    sprites = MotionSprites("test", data.test_videos, seed=config.seed, camera=data.camera, size=data.size)
    sampler = replace(config.clips, clips=1, layout="even", short="reflect")
    frames = [sampler.plan(source[i].open().info).draw(np.random.default_rng(0))[0] for i in shown.ids]
    masks_NTHW = sprites.masks(shown.ids)
    return torch.from_numpy(np.stack([mask[rows] for mask, rows in zip(masks_NTHW, frames, strict=True)]))


def _spread(count: int, many: int) -> list[int]:
    """Positions spread over ``range(count)``."""
    return np.unique(np.linspace(0, count - 1, min(many, count)).round().astype(int)).tolist()
