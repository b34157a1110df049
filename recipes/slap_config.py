"""Configuration and presets of the SLAP recipe.

SLAP here is "Siamese Language-Audio Pretraining Without Negative Samples for Music Understanding" (Guinot, Riou,
Quinton, Fazekas, ISMIR 2025, arXiv 2506.17815), not "Scalable Language-Audio Pretraining" (arXiv 2601.12594).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from byol_ext.audio.transforms import MelConfig, laion_mel, small_mel
from byol_ext.heads import Norm, WindowMode
from byol_ext.training import TrainConfig


@dataclass(frozen=True)
class AudioConfig:
    """The audio tower and what it hears."""

    encoder: str = "small"
    """small, htsat-tiny, htsat-base, or a Hugging Face audio encoder by name or local path."""
    pretrained: bool = True
    """Whether a Hugging Face encoder keeps its weights."""
    width: int = 128
    """Width of the small encoder."""
    depth: int = 2
    """Transformer layers of the small encoder."""
    norm: Norm = "layer"
    """Norms of the small encoder's convolutions: layer and gn_ws never mix samples, batch does."""
    input_norm: WindowMode = "window"
    """Statistics of the norm over mel bins at the input: window (exact under accumulation), batch, frozen."""
    resize: Literal["bicubic", "pad"] = "bicubic"
    """How HTS-AT brings a clip to 1024 frames: bicubic (LAION) or pad (SLAP)."""
    mel: MelConfig = field(default_factory=small_mel)
    """The log-mel front-end; its hash is stored with the run."""
    specaugment: bool = True
    """Whether to hide stripes of time and frequency in training (paper 4.3: a slight gain); log-mel inputs only."""
    time_width: int = 16
    """Most frames of one of the two time stripes (SLAP's public configuration: 64 of 1024)."""
    freq_width: int = 8
    """Most mel bins of one of the two frequency stripes (SLAP's public configuration)."""


@dataclass(frozen=True)
class TextConfig:
    """The text tower."""

    encoder: str = "small"
    """small, minilm (packaged with byol_ext[music]), or a Hugging Face text encoder by name or local path."""
    pretrained: bool = True
    """Whether a Hugging Face encoder keeps its weights."""
    frozen: bool = False
    """Whether the encoder stays as it is: its output is then computed once a caption and cached."""
    cache: str = ""
    """File that keeps a frozen encoder's output between runs; empty means it is computed anew in each."""
    pool: Literal["cls", "mean", "pooler"] = "mean"
    """How tokens become one vector (SLAP's code: pooler, which is random in roberta-base)."""
    max_tokens: int = 77
    """Longer captions are cut and counted (LAION 77, SLAP's public configuration 128)."""
    width: int = 128
    """Width of the small encoder."""
    depth: int = 1
    """Transformer layers of the small encoder."""
    dropout: float = 0.1
    """Dropout of the small encoder; it is what makes online and target see one caption differently."""


@dataclass(frozen=True)
class HeadConfig:
    """Projectors and predictors."""

    dim: int = 512
    """Width of the joint space (paper 4.2)."""
    projector_hidden: int = 512
    """Hidden width of the projectors (SLAP's public configuration)."""
    projector_norm: Norm = "none"
    """Norm of the projectors' hidden layer (SLAP's public configuration: batch in the text projector, else none)."""
    predictor_hidden: int = 4096
    """Hidden width of the predictors (paper 4.2)."""
    predictor_norm: Norm = "layer"
    """Norm of the predictors' hidden layer: batch is the paper's, layer keeps naive accumulation exact."""
    predictor_dropout: float = 0.0
    """Dropout of the predictors (SLAP's public configuration: 0.1, without a norm)."""


@dataclass(frozen=True)
class LossConfig:
    """The objective."""

    name: Literal["slap", "clap-infonce", "clap-sigmoid"] = "slap"
    """slap, or a CLAP baseline over the same towers and projectors."""
    lam: float = 0.5
    """SLAP's lambda: weight of the inter-modal terms; the intra-modal ones have 1 - lambda."""
    views: Literal["same", "two"] = "same"
    """same: one crop and caption feed both networks, as in SLAP's code; two: the target gets others."""
    mask_duplicates: bool = False
    """Whether equal captions in a batch are left out of CLAP's negatives."""
    predictor: bool = True
    """Control: without a predictor SLAP collapses."""
    stop_gradient: bool = True
    """Control: without stop-gradient and average SLAP collapses."""


@dataclass(frozen=True)
class EmaConfig:
    """The target network."""

    tau: float = 0.95
    """Decay of the average (paper 4.3; SLAP's public configuration: 0.995)."""
    tau_end: float = 1.0
    """Decay at the end of a cosine or linear schedule."""
    schedule: Literal["const", "cosine", "linear"] = "const"
    """Decay over the steps."""
    buffers: Literal["own", "copy", "ema"] = "copy"
    """What happens to BatchNorm statistics of the target."""
    mode: Literal["train", "eval"] = "train"
    """Whether the target keeps dropout and batch statistics on in training, as SLAP's code does."""
    reference_batch: int | None = None
    """Batch for which tau holds; it is scaled to tau ** (batch / reference_batch). None: tau as it is."""


@dataclass(frozen=True)
class DataConfig:
    """Where pairs come from: tonecaps, or KIND:PATH, with #SPLIT behind it where a file holds several splits.

    wds:shards/train-{000..099}.tar (or any *.tar pattern or folder), manifest:pairs.csv (csv, tsv, jsonl), hf:NAME,
    slap-csv:, muscall:, musiccaps:, song-describer:, clotho:FILE, folder:DIR, wesnoth.
    """

    train: str = "tonecaps"
    """Training pairs."""
    val: str = ""
    """Validation pairs; empty means the training set's own split where it has one, else none."""
    test: str = ""
    """Test pairs; empty means the training set's own split where it has one, else the validation pairs."""
    audio_root: str = ""
    """Folder that relative paths of a manifest start from; empty means the manifest's own."""
    audio_only: str = ""
    """Further recordings without captions (same forms as train): they train the audio intra-modal term."""
    text_only: str = ""
    """Text file with a caption a line without audio: they train the text intra-modal term."""
    clip_seconds: float = 10.0
    """Length of a training clip (LAION; the paper does not say)."""
    fill: Literal["repeatpad", "pad", "repeat"] = "repeatpad"
    """How shorter clips are filled."""
    batch: int = 64
    """Samples of a micro-batch on each process."""
    workers: int = 1
    """Loader workers."""
    max_bad_fraction: float = 0.05
    """Share of unusable samples at which training fails; below it they are replaced, counted and logged."""
    drop_silent: float | None = None
    """Leave out clips below this level in dBFS."""
    shuffle_captions: bool = False
    """Control: give every recording the captions of another one."""


@dataclass(frozen=True)
class EvalConfig:
    """What to measure."""

    windows: str = "grid"
    """Where to listen in a long file: grid (covers it), grid(K), center, first, all(HOP seconds)."""
    tags: tuple[str, ...] = ()
    """Tags to classify zero-shot and by probes; empty means those that the data set names."""
    domains: tuple[str, ...] = ()
    """Further test sets, NAME=SOURCE each: other recordings of the same kind of facts, to see how a shift hurts."""
    probes: bool = True
    """Whether to fit probes on training clips; without them an evaluation does not need the training data."""
    compat: bool = False
    """Whether to add the numbers as SLAP's public code computes them, which are biased (spec 12)."""
    probe_samples: int = 4000
    """Training clips the probes are fitted on."""
    probe_seeds: int = 3
    """Seeds of the probes."""
    batch: int = 128
    """Clips embedded at a time."""


@dataclass(frozen=True)
class SlapConfig:
    """SLAP: audio-text pretraining without negatives, with CLAP baselines over the same towers."""

    name: str = "slap"
    """Name of the run; it lives in ROOT/slap/NAME."""
    root: str = "runs"
    """Folder of all runs."""
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    lr_reference_batch: int | None = None
    """Batch for which train.lr holds; it is scaled by batch / reference. None: train.lr as it is."""
    seed: int = 0
    """Seed of initialisation, data order and augmentation (train.seed: dropout)."""

    def __post_init__(self) -> None:
        if self.loss.views == "two" and self.loss.name != "slap":
            raise ValueError(
                f"loss.views='two' gives the target another view; loss.name={self.loss.name!r} has no target"
            )
        if not 0.0 <= self.loss.lam <= 1.0:
            raise ValueError(f"loss.lam={self.loss.lam} must lie in [0, 1]")


def tiny() -> SlapConfig:
    """CPU minutes on ToneCaps, which code makes."""
    return SlapConfig(
        name="tiny",
        audio=AudioConfig(width=64),
        text=TextConfig(width=64),
        heads=HeadConfig(
            dim=128,
            projector_hidden=256,
            projector_norm="batch",
            predictor_hidden=512,
            predictor_norm="batch",
        ),
        data=DataConfig(clip_seconds=1.0, batch=128),
        train=TrainConfig(
            steps=400,
            evaluate_every=100,
            lr=2e-3,
            predictor_lr_scale=10.0,
            weight_decay=1e-4,
            log_every=10,
            monitor_every=50,
            checkpoint_every=200,
            precision="no",
        ),
        eval=EvalConfig(probe_samples=800, probe_seeds=1),
    )


def music() -> SlapConfig:
    """The rendered-music set of ``byol-ext slap data music data/music``, for a CPU: the setting of ``docs/slap.md``.

    A small audio tower from scratch beside the frozen MiniLM sentence encoder; only its projector trains.
    """
    return SlapConfig(
        name="music",
        audio=AudioConfig(
            width=128,
            mel=MelConfig(sample_rate=16_000, hop=320, fmax=8_000.0, precision="float32"),
        ),
        text=TextConfig(encoder="minilm", frozen=True, cache="data/minilm.safetensors", max_tokens=64),
        heads=HeadConfig(
            dim=256,
            projector_hidden=512,
            projector_norm="batch",
            predictor_hidden=1024,
            predictor_norm="batch",
        ),
        data=DataConfig(
            train="wds:data/music/train-*.tar",
            val="wds:data/music/val-*.tar",
            test="wds:data/music/test-*.tar",
            clip_seconds=5.0,
            batch=128,
        ),
        train=TrainConfig(
            epochs=5, lr=1e-3, weight_decay=1e-4, predictor_lr_scale=10.0, checkpoint_every=200, evaluate_every=78
        ),
        eval=EvalConfig(
            tags=("instrument", "family", "tempo", "meter", "kind"),
            domains=("soundfont=wds:data/music/test_fluidr3-*.tar", "wesnoth=wesnoth"),
            probe_samples=3000,
            probe_seeds=1,
        ),
    )


def base() -> SlapConfig:
    """One GPU on your own data: HTS-AT tiny and RoBERTa from the hub, effective batch 768 by exact accumulation.

    BatchNorm in projectors and predictors and a faster predictor, because without them our small runs keep only a few
    dimensions (``docs/slap.md``); cached accumulation keeps BatchNorm exact.
    """
    return SlapConfig(
        name="base",
        audio=AudioConfig(encoder="htsat-tiny", mel=laion_mel(), time_width=64),
        text=TextConfig(encoder="FacebookAI/roberta-base"),
        heads=HeadConfig(projector_norm="batch", predictor_norm="batch"),
        data=DataConfig(train="", batch=96, workers=8),
        train=TrainConfig(
            epochs=60,
            accumulate_steps=8,
            accumulate="cached",
            lr=4e-4,
            predictor_lr_scale=10.0,
            clip_norm=3.0,
            weight_decay=1e-6,
            evaluate_every=500,
        ),
        lr_reference_batch=768,
    )


def paper() -> SlapConfig:
    """The published setting (paper 4): HTS-AT base, RoBERTa, BatchNorm predictors, batch 768, 60 epochs.

    The paper runs 128 on each of 6 GPUs; on one process the window of 6 micro-batches gives the same 768 rows, and
    cached accumulation keeps BatchNorm exact over them. Clip length, optimiser and text length are not stated there.
    """
    return SlapConfig(
        name="paper",
        audio=AudioConfig(encoder="htsat-base", mel=laion_mel(), time_width=64),
        text=TextConfig(encoder="FacebookAI/roberta-base", pool="pooler", max_tokens=128),
        heads=HeadConfig(predictor_norm="batch"),
        data=DataConfig(train="", batch=128, workers=8),
        train=TrainConfig(
            epochs=60, accumulate_steps=6, accumulate="cached", lr=4e-4, weight_decay=1e-6, evaluate_every=500
        ),
        lr_reference_batch=768,
    )


PRESETS: dict[str, Callable[[], SlapConfig]] = {"tiny": tiny, "music": music, "base": base, "paper": paper}
