"""Configuration and presets of the video recipe.

ViDiDi: "Unfolding Videos Dynamics via Taylor Expansion" (Chen et al., arXiv 2409.02371). Defaults name their source: C
read in the first author's public code, J our judgement. The paper's tables were not available to us, so nothing here
is called a paper default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from byol_ext.heads import Norm
from byol_ext.training import TrainConfig
from byol_ext.video.decode import Backend
from byol_ext.video.files import Missing
from byol_ext.video.sampling import ClipSampler
from byol_ext.video.sources import Format
from byol_ext.video.transforms import ClipAugment, authors, default, motion_sprites
from recipes.vididi_eval import EvalConfig
from recipes.vididi_features import ClipProtocol

MethodName = Literal["byol", "vicreg", "simclr"]
EncoderName = Literal["small", "r3d_18", "r2plus1d_18", "mc3_18", "s3d", "swin3d_t"]


@dataclass(frozen=True)
class DataConfig:
    """The videos and the clips that are cut from them."""

    train: str = "motion-sprites"
    """motion-sprites (made by code), or videos: a folder of class folders or of files, a file list, shards or a cache;
    see docs/vididi.md."""
    test: str = ""
    """Where the test videos are; empty: the data set's own test split, or none."""
    format: Format = "auto"
    """What the paths hold; auto looks."""
    annotations: str = ""
    """Split lists (UCF101, HMDB51: their folder) or the csv or list file (Kinetics)."""
    split: int = 1
    """Official split of UCF101 and HMDB51."""
    missing: Missing = "error"
    """Videos that a list names and that are not there (normal for Kinetics): an error, or left out and counted."""
    camera: Literal["fixed", "moving"] = "fixed"
    """motion-sprites: whether the background drifts."""
    videos: int = 2048
    """motion-sprites: training videos (J: spec 10)."""
    test_videos: int = 500
    """motion-sprites: test videos."""
    size: int = 24
    """motion-sprites: side of a frame, 24 or a multiple."""
    fraction: float = 1.0
    """Share of the training videos used, evenly spaced over the list."""
    batch: int = 64
    """Videos of each process in a step (C: 64 over all)."""
    workers: int = 0
    """Loader processes."""
    backend: Backend = "auto"
    """Decoder; auto takes torchcodec only after it decoded a clip here."""
    short_side: int | None = 128
    """Short side in pixels to which frames are scaled when they are decoded; none keeps them."""
    min_motion: float = 0.0
    """Clips whose mean absolute difference of frames (grey levels) is below this are drawn again."""
    max_bad_fraction: float = 0.1
    """Share of unusable videos above which the run fails."""


@dataclass(frozen=True)
class EncoderConfig:
    """The video encoder; one for all orders."""

    name: EncoderName = "small"
    """small (CPU), or torchvision's r3d_18, r2plus1d_18, mc3_18, s3d, swin3d_t (C)."""
    weights: str = ""
    """torchvision weights in a local file, for a supervised baseline or a warm start."""
    pad_to_t: bool = False
    """Repeat a derivative's last frames up to T, for encoders that take one length only; not part of the method."""
    bn: Literal["joint", "per_view", "per_order"] = "joint"
    """BatchNorm statistics: of both clips together (C: VICReg, SimCLR), of each clip (C: BYOL), of each order (J)."""


@dataclass(frozen=True)
class MethodConfig:
    """The objective."""

    name: MethodName = "vicreg"
    """byol, vicreg or simclr."""
    vididi: bool = True
    """Derivatives by the balanced alternating schedule; false is the base method at the same steps."""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """Hidden and output widths of the projector (C: VICReg and SimCLR 2048-2048-2048, BYOL 4096-256)."""
    predictor_hidden: int = 4096
    """BYOL's predictor (C)."""
    norm: Norm = "batch"
    """Norms of projector and predictor (C: batch)."""
    weights: tuple[float, float, float] = (1.0, 1.0, 0.04)
    """VICReg: invariance, variance, covariance (C: the published 25, 25, 1 divided by 25)."""
    directions: Literal["sum", "mean"] = "sum"
    """VICReg and SimCLR across clips: the losses of both directions summed (C) or averaged."""
    temperature: float = 0.1
    """SimCLR (C)."""
    negatives: Literal["cross", "all"] = "cross"
    """SimCLR: the other clips of the other view (C), or of both views (NT-Xent)."""
    gather: bool = True
    """Statistics and negatives over all processes (J); false: of each process (C)."""
    tau: float = 0.99
    """BYOL: decay of the target (C)."""
    ema_schedule: Literal["cosine", "constant"] = "cosine"
    """BYOL: the decay rises to 1 along a cosine as the code means to, or stays as in the authors' runs, where the
    update drops its step (C)."""
    share: bool = True
    """One encoder for all orders; false gives each order its own (the authors' ablation)."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Which derivatives the two clips of a step are."""

    period: Literal["epoch", "pass", "step"] = "epoch"
    """When the phase changes: epoch (C: VICReg, SimCLR), pass (C: BYOL's macro-epochs of four passes), step (J: short
    runs)."""
    phases: tuple[int, ...] = (0, 1, 2, 3)
    """Phases in turn; the authors have (0, 1, 2, 3), and (3, 1, 2, 0) in one BYOL script."""
    p_double: float = 0.5
    """Probability that both clips are differenced once more (C)."""
    pairs: Literal["balanced", "random"] = "balanced"
    """balanced as published, or each clip's order drawn anew (ablation)."""
    authors_step_reuse: bool = False
    """Learning rate and decay count macro-epochs as the authors' BYOL script does: each of the four passes starts again
    from the same step (period pass only)."""


@dataclass(frozen=True)
class VididiConfig:
    """Video representation learning from temporal derivatives, over BYOL, VICReg and SimCLR."""

    name: str = "vididi"
    """Name of the run; it lives in ROOT/vididi/NAME."""
    root: str = "runs"
    """Folder of all runs."""
    data: DataConfig = field(default_factory=DataConfig)
    clips: ClipSampler = field(default_factory=ClipSampler)
    """The two clips of a video in training."""
    augment: ClipAugment = field(default_factory=default)
    """Augmentation on the device."""
    force_augment: bool = False
    """Allow augmentation that breaks the labels of the data set."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: Literal["lars", "adamw"] = "adamw"
    """lars as the authors (C), or adamw (C: Video Swin; J: small runs)."""
    lr_reference_batch: int = 0
    """If set, train.lr is that of this batch and is scaled linearly to the batch over all processes (C: 256)."""
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation after training and by ``byol-ext vididi eval``."""
    seed: int = 0
    """Seed of weights, order, augmentation and the schedule's coin."""

    def __post_init__(self) -> None:
        if self.schedule.authors_step_reuse and (self.schedule.period != "pass" or not self.method.vididi):
            raise ValueError("schedule.authors_step_reuse needs schedule.period='pass' and method.vididi")
        if self.clips.clips != 2 or not self.clips.random:
            raise ValueError(
                "the method takes two clips at random places: clips.clips=2, clips.layout adjacent or independent"
            )
        if not 0.0 < self.data.fraction <= 1.0:
            raise ValueError(f"data.fraction={self.data.fraction} must lie in (0, 1]")
        if not self.method.share and self.encoder.bn == "per_order":
            raise ValueError("encoder.bn='per_order' and method.share=false both separate the orders; choose one")
        if not self.method.share and self.encoder.bn == "joint":
            raise ValueError("method.share=false runs each clip through its own encoder; set encoder.bn='per_view'")


def motion() -> VididiConfig:
    """MotionSprites-8 on two CPU cores, VICReg, about a minute of training (spec 10)."""
    return VididiConfig(
        name="motion",
        data=DataConfig(short_side=None),
        clips=ClipSampler(stride=1, layout="independent"),
        augment=motion_sprites(),
        method=MethodConfig(projector=(256, 256, 256)),
        schedule=ScheduleConfig(period="step"),
        train=TrainConfig(
            steps=320,
            lr=2e-3,
            warmup=20 / 320,
            weight_decay=1e-4,
            clip_norm=0.0,
            precision="no",
            log_every=10,
            monitor_every=40,
            checkpoint_every=160,
            trackers=(),
        ),
        eval=EvalConfig(ClipProtocol(clips=3, frames=8, stride=1, batch=500), appearance="photograph"),
    )


def motion_byol() -> VididiConfig:
    """MotionSprites-8 with BYOL: each clip by itself, 640 steps (spec 10)."""
    config = motion()
    return replace(
        config,
        name="motion-byol",
        encoder=replace(config.encoder, bn="per_view"),
        method=MethodConfig("byol", projector=(512, 128), predictor_hidden=512),
        train=replace(config.train, steps=640, warmup=20 / 640),
    )


def motion_simclr() -> VididiConfig:
    """MotionSprites-8 with SimCLR."""
    config = motion()
    return replace(config, name="motion-simclr", method=replace(config.method, name="simclr"))


def tiny() -> VididiConfig:
    """CPU seconds: a quarter of MotionSprites-8 and few steps."""
    config = motion()
    return replace(
        config,
        name="tiny",
        data=replace(config.data, videos=1024, test_videos=256),
        train=replace(config.train, steps=160, warmup=20 / 160),
    )


def base() -> VididiConfig:
    """One GPU: R3D-18 with VICReg on UCF101's split 1, clip-consistent augmentation."""
    return VididiConfig(
        name="base",
        data=DataConfig(train="UCF101", format="ucf101", annotations="ucfTrainTestlist", workers=8),
        encoder=EncoderConfig("r3d_18"),
        optimizer="lars",
        lr_reference_batch=256,
        train=TrainConfig(
            epochs=400,
            lr=4.8,
            warmup=0.0,
            final_lr=0.001,
            weight_decay=1e-6,
            clip_norm=0.0,
            log_every=20,
            monitor_every=200,
            checkpoint_every=596,
        ),
    )


def paper() -> VididiConfig:
    """As the author's public VICReg script has it (C), with its per-frame colour and its retrieval protocol."""
    config = base()
    return replace(
        config,
        name="paper",
        clips=replace(config.clips, short="drop"),
        augment=authors(),
        method=replace(config.method, gather=False),
        eval=replace(config.eval, authors_protocol=True),
        train=replace(config.train, sync_batchnorm=True, precision="fp16", seed=233),
        seed=233,
    )


def paper_byol() -> VididiConfig:
    """As the author's public BYOL script has it (C): 100 macro-epochs of four passes, constant decay."""
    config = paper()
    return replace(
        config,
        name="paper-byol",
        encoder=replace(config.encoder, bn="per_view"),
        method=MethodConfig("byol", projector=(4096, 256), ema_schedule="constant"),
        schedule=ScheduleConfig(period="pass", phases=(3, 1, 2, 0), authors_step_reuse=True),
        train=replace(config.train, lr=1.2, warmup=0.1),
    )


PRESETS: dict[str, Callable[[], VididiConfig]] = {
    "tiny": tiny,
    "motion": motion,
    "motion-byol": motion_byol,
    "motion-simclr": motion_simclr,
    "base": base,
    "paper": paper,
    "paper-byol": paper_byol,
}
