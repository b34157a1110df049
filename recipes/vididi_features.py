"""Functions of the evenly spaced clips of every video of a source: features of frozen encoders, logits of classifiers.

Legend: ``N`` videos of a source, ``B`` of a batch, ``V`` clips of a video, ``T`` frames, ``C, H, W``, ``D`` width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.utils.data import DataLoader

from byol_ext.ledger import BadSampleLedger
from byol_ext.rng import keyed_uniform, sample_keys
from byol_ext.video.data import VideoClips, collate
from byol_ext.video.derivatives import finite_difference
from byol_ext.video.samples import VideoSource
from byol_ext.video.sampling import ClipSampler, Short
from byol_ext.video.transforms import CentreClip

OfClips = Callable[[Tensor, Tensor], Tensor]
"""``(clips_BVCTHW, keys_B on the CPU) -> [B, D]``, called without gradient."""
SHORT = "short"


@dataclass(frozen=True)
class ClipProtocol:
    """Which clips of a video are looked at. The defaults are those of the authors' retrieval (spec 6)."""

    clips: int = 10
    """Clips of a video, evenly spaced."""
    crops: int = 1
    """Crops of a clip: the centre, or 3 squares of the whole short side at start, middle and end of the long side."""
    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Frames of the video between two of a clip."""
    target_fps: float | None = None
    """Frames a second that ``stride`` counts in; None counts the frames of the video, as the authors do."""
    short: Short = "reflect"
    """Videos too short for one clip: take a smaller stride, then play to and fro (reflect; keeps every video), or
    leave them out (drop; the authors' protocol)."""
    short_side: int | None = None
    """Short side in pixels to which a decoder scales frames; none leaves it to the crop."""
    max_bad_fraction: float = 0.0
    """Largest share of videos that may be unusable, besides dropped short ones; 0 makes the first one an error."""
    limit: int | None = None
    """Most videos of each split, evenly spaced over it."""
    batch: int = 64
    """Clips that go through a network at a time."""
    workers: int = 0
    """Loader processes."""
    seed: int = 0
    """Seed of what is shuffled in controls."""

    def __post_init__(self) -> None:
        if self.crops not in (1, 3):
            raise ValueError(f"crops={self.crops}: expected 1 or 3")
        for name in ("clips", "frames", "stride", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def sampler(self) -> ClipSampler:
        """The rule that lays the clips into videos."""
        return ClipSampler(
            clips=self.clips,
            frames=self.frames,
            stride=self.stride,
            layout="even",
            target_fps=self.target_fps,
            short=self.short,
        )


@dataclass(frozen=True)
class VideoTable:
    """What was computed of each usable video of a source, row by row, on the CPU.

    Attributes:
        values: Float32 ``[N, D]`` by name.
        ids: Positions in the source ``[N]``.
        labels: Classes ``[N]``; -1 without.
        keys: Names.
        groups: What belongs together.
        facts: What else is known.
        skipped: Videos left out, by cause.
        errors: Each of them: ``{"key", "cause", "message"}``, ready for ``write_errors_jsonl``.
        notes: What was odd about videos that were kept, counted.
    """

    values: dict[str, Tensor]
    ids: Tensor
    labels: Tensor
    keys: list[str]
    groups: list[str | None]
    facts: list[Mapping[str, Any]]
    skipped: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.keys)


def tabulate(
    source: VideoSource,
    functions: Mapping[str, OfClips],
    protocol: ClipProtocol,
    *,
    centre: CentreClip,
    device: torch.device | str,
) -> VideoTable:
    """Decode every video once and apply all functions to its clips.

    Args:
        source: The videos.
        functions: What to compute, by name.
        protocol: Which clips.
        centre: Resize, centre crop and normalisation.
        device: Where it and the functions run.

    Raises:
        TooManyBadSamples: If more videos cannot be used than ``protocol.max_bad_fraction`` allows.
        ValueError: If no video is left.
    """
    ledger = BadSampleLedger(max_bad_fraction=protocol.max_bad_fraction, min_seen=min(100, len(source)))
    positions = (0.0, 0.5, 1.0) if protocol.crops == 3 else ()
    crops = [replace(centre, short_side=centre.size, position=position) for position in positions] or [centre]
    skipped: Counter[str] = Counter()
    errors: list[dict[str, str]] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in functions}
    ids: list[Tensor] = []
    labels: list[Tensor] = []
    rest: list[tuple[str, str | None, Mapping[str, Any]]] = []
    for batch in _batches(source, protocol):
        skipped.update(batch["bad"])
        errors += batch["errors"]
        ledger.update(_without_dropped(batch) if protocol.short == "drop" else batch)
        if not len(batch["ids"]):
            continue
        ids.append(batch["ids"])
        labels.append(batch["labels"])
        rest += zip(batch["keys"], batch["groups"], batch["facts"], strict=True)
        clips_BVTHWC = batch["clips"].to(device)
        keys_B = sample_keys(protocol.seed, batch["epochs"], batch["ids"])
        with torch.no_grad():
            clips_BVCTHW = torch.cat([crop(clips_BVTHWC, batch["sizes"]) for crop in crops], dim=1)
            for name, function in functions.items():
                parts[name].append(function(clips_BVCTHW, keys_B).float().cpu())
    ledger.check()
    if not rest:
        raise ValueError(f"none of {len(source)} videos is left; left out: {dict(skipped)}")
    keys, groups, facts = (list(column) for column in zip(*rest, strict=True))
    values = {name: torch.cat(part) for name, part in parts.items()}
    return VideoTable(values, torch.cat(ids), torch.cat(labels), keys, groups, facts, skipped, errors, ledger.notes)


def _batches(source: VideoSource, protocol: ClipProtocol) -> Iterator[dict[str, Any]]:
    dataset = VideoClips(source, protocol.sampler, on_bad="report", short_side=protocol.short_side)
    count = min(protocol.limit or len(source), len(source))
    chosen = torch.linspace(0, len(source) - 1, count).round().long().unique().tolist()
    videos = max(protocol.batch // (protocol.clips * protocol.crops), 1)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[[(i, 0) for i in chosen[k : k + videos]] for k in range(0, len(chosen), videos)],
        collate_fn=collate,
        num_workers=protocol.workers,
        generator=torch.Generator(),  # the loader would else draw from the global one
    )
    yield from loader


def _without_dropped(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The account of a batch without the short videos that the protocol leaves out."""
    bad = {cause: count for cause, count in batch["bad"].items() if cause != SHORT}
    errors = [error for error in batch["errors"] if error["cause"] != SHORT]
    return {**batch, "bad": bad, "errors": errors}


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, BatchNorm statistics included; each layer's own mode back after."""
    modes = {layer: layer.training for module in modules for layer in module.modules()}
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


@torch.no_grad()
def calibrate_norms(
    encoder: nn.Module, source: VideoSource, protocol: ClipProtocol, *, centre: CentreClip, videos: int = 512
) -> None:
    """Give an untrained encoder the BatchNorm statistics of clips and their first differences.

    With the initial ones its features are nearly collinear, and the control is unfairly weak.

    Args:
        encoder: ``(x_BCTHW, order_B) -> [B, D]``, on its device; left in evaluation mode.
        source: Videos to take them from: those of training.
        protocol: Clips; one of each video is used.
        centre: Resize, centre crop and normalisation.
        videos: Most videos that are looked at.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    device = next(encoder.parameters()).device
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    encoder.train()
    for batch in _batches(source, replace(protocol, clips=1, crops=1, limit=videos, batch=64)):
        if not len(batch["ids"]):
            continue
        clips_BCTHW = centre(batch["clips"].to(device), batch["sizes"])[:, 0]
        for order in (0, 1):
            encoder(finite_difference(clips_BCTHW, order), torch.full((len(clips_BCTHW),), order))
    encoder.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def mean_over_clips(
    network: Callable[[Tensor, Tensor], Tensor], clips_BVCTHW: Tensor, *, order: int, batch: int
) -> Tensor:
    """Mean over clips of a network's output on their ``order``-th derivative.

    Args:
        network: ``(x_BCTHW, order_B) -> [B, D]``.
        clips_BVCTHW: Normalised clips.
        order: Derivative order.
        batch: Clips at a time.

    Returns:
        Float32 ``[B, D]``.
    """
    x = rearrange(finite_difference(clips_BVCTHW, order, dim=3), "b v c t h w -> (b v) c t h w")
    parts = [network(part, torch.full((len(part),), order)).float() for part in x.split(batch)]
    return reduce(torch.cat(parts), "(b v) d -> b d", "mean", b=len(clips_BVCTHW))


def one_frame(clips_BVCTHW: Tensor) -> Tensor:
    """The middle frame of the middle clip, as a clip ``[B, 1, C, T, H, W]`` in which time stands still.

    One frame of a video, not one of each clip: the mean over frames from several moments knows where things were, and
    so something of the motion.
    """
    views, frames = clips_BVCTHW.shape[1], clips_BVCTHW.shape[3]
    still = clips_BVCTHW[:, views // 2 : views // 2 + 1, :, frames // 2 : frames // 2 + 1]
    return still.expand(-1, -1, -1, frames, -1, -1)


def shuffled_frames(clips_BVCTHW: Tensor, keys_B: Tensor) -> Tensor:
    """The frames of each clip in a random order that depends on the video's key alone.

    Args:
        clips_BVCTHW: Clips.
        keys_B: Keys of :func:`byol_ext.rng.sample_keys`.

    Example:
        >>> x = torch.arange(5.0).reshape(1, 1, 1, 5, 1, 1)
        >>> shuffled_frames(x, sample_keys(0, 0, torch.tensor([1]))).flatten().sort().values
        tensor([0., 1., 2., 3., 4.])
    """
    views, frames = clips_BVCTHW.shape[1], clips_BVCTHW.shape[3]
    order_BVT = rearrange(keyed_uniform(keys_B, views * frames), "b (v t) -> b v t", v=views).argsort(dim=-1)
    order = order_BVT.to(clips_BVCTHW.device)[:, :, None, :, None, None]
    return clips_BVCTHW.gather(3, order.expand_as(clips_BVCTHW))
