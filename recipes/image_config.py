"""Configuration and presets of the image recipe; ``image_method_config.py`` has the options of the methods.

Sources: P read in the paper, C read in public code, M recalled, J ours; sections are those of the core-ssl spec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from byol_ext.training import TrainConfig
from recipes.image_method_config import ContrastConfig, MethodConfig, TargetConfig, pal_graph

CLUTTER = "clutter-digits"
GREY_SETS = (CLUTTER, "digits", "fashion-mnist")


@dataclass(frozen=True)
class DataConfig:
    """The pictures."""

    train: str = CLUTTER
    """clutter-digits (made by code), digits, fashion-mnist, openclipart, a folder of class folders, or hf:NAME for a
    Hugging Face data set."""
    test: str = ""
    """Folder of the test pictures, or split of a Hugging Face set; empty: test or val beside or in the training folder,
    or the set's own test split."""
    size: int = 16
    """Side in pixels of what the encoder sees (clutter-digits: 16)."""
    channels: Literal[1, 3] = 3
    """openclipart, folders, hf: decoded grey or coloured; the other sets are grey."""
    squares: int = 0
    """If set, all pictures are brought into memory as squares of this side, padded with white: for small sets whose
    files decode slowly."""
    fold: int = 0
    """openclipart: which of three folds is the test part."""
    image_column: str = "image"
    """hf: column of pictures."""
    label_column: str = "label"
    """hf: column of labels; empty without."""
    fraction: float = 1.0
    """Share of the training pictures used, class by class; not for clutter-digits."""
    label_share: float = 0.0
    """semppl and pal with graph=labels: share of the training labels that the method may see, class by class."""
    batch: int = 128
    """Pictures of each process in a step."""
    workers: int = 0
    """Loader processes."""
    max_bad_fraction: float = 0.1
    """Share of unusable pictures above which the run fails."""


@dataclass(frozen=True)
class AugmentConfig:
    """The views of a picture, made on the device."""

    preset: Literal["clutter", "rotate", "byol", "simclr", "weak-target", "multi-crop", "patches"] = "clutter"
    """clutter: independent draws (clutter-digits). rotate: each view turned by a known angle (sie; clutter-digits too).
    byol: asymmetric (section 3). simclr: two equal views. weak-target: the second is cropped and flipped only (ascl).
    multi-crop: two large views and small ones. patches: equal crops of a fixed share (emp-ssl). The last three have
    byol's colours."""
    views: int = 2
    """clutter, patches: how many (emp-ssl: 20 to 200)."""
    least_area: float = 0.08
    """byol, simclr, weak-target: smallest share of the picture that a crop has."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 for digits. Not for clutter and rotate."""
    strength: float = 1.0
    """Of the colour jitter: 1 as published, .5 for small pictures, 0 for none. Not for clutter and rotate."""
    grey: float = 0.2
    """Probability that colours are taken away. Not for clutter and rotate."""
    blur: bool = True
    """Whether to blur: byol 1 and .1, simclr .5. Not for clutter and rotate."""
    brightness: Literal["own", "additive", "multiplicative"] = "own"
    """additive as in BYOL's reference, multiplicative as in torchvision; own: multiplicative for simclr."""
    small_size: int = 96
    """multi-crop: side of the small views."""
    small_views: int = 6
    """multi-crop: how many."""
    patch_area: float = 0.25
    """patches: share of the picture (C)."""
    max_angle: float = 180.0
    """rotate: degrees; angles are uniform on minus to plus this."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from pixels in [0, 1], one number a channel; not from clutter-digits."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Divides them."""


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder."""

    name: str = "small"
    """small (section 15), torchvision's ResNets such as resnet18 and resnet50, vit_s, vit_t, or timm:NAME for a ResNet
    of timm."""
    norm: Literal["batch", "gn_ws", "none"] = "batch"
    """gn_ws: GroupNorm and weight standardisation (section 4); none: small only. Transformers have their own."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """ResNets: cifar for small pictures."""
    channels: tuple[int, ...] = (16, 32, 64)
    """small: output channels of each convolution; the last is the width."""
    strides: tuple[int, ...] = (1, 2, 2)
    """small: stride of each."""
    zero_init: bool = False
    """ResNets: start the last scale of each residual block at 0 (C: more stable; the paper's results have 1)."""
    patch: int = 16
    """vit: side of a patch."""


@dataclass(frozen=True)
class EvalConfig:
    """How a frozen encoder is measured; nothing here is chosen on test data."""

    knn: int = 20
    """Neighbours that vote (section 13)."""
    knn_temperature: float = 0.07
    """Of their weights (section 13)."""
    c: float | None = None
    """Inverse strength of the linear probe's L2 penalty on standardised features; none: chosen on a validation part."""
    shares: tuple[float, ...] = (0.01, 0.1)
    """Shares of the training labels for the semi-supervised probes."""
    draws: int = 4
    """clutter-digits: pictures of each digit (section 15)."""
    patches: int = 1
    """Features are means over so many patches of a picture (EMP-SSL: 128); 1 is the whole picture."""
    controls: bool = True
    """Whether to measure the untrained encoder and raw pixels too (section 13); `compare` trains a supervised one."""
    batch: int = 500
    """Pictures encoded at a time."""


@dataclass(frozen=True)
class ImageConfig:
    """Image representation learning: BYOL and its relatives."""

    name: str = "image"
    """Name of the run; it lives in ROOT/image/NAME."""
    root: str = "runs"
    """Folder of all runs."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimizer: Literal["adamw", "lars", "sgd"] = "adamw"
    """lars (section 14), sgd with momentum, or adamw for small runs (J)."""
    momentum: float = 0.9
    """lars, sgd."""
    lr_reference_batch: int = 0
    """If set, train.lr is that of this batch and is scaled linearly to the batch over all processes (C: 256)."""
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    """Seed of weights, order and augmentation."""

    def __post_init__(self) -> None:
        data, preset = self.data, self.augment.preset
        clutter = data.train == CLUTTER
        if clutter != (preset == "clutter") and not (clutter and preset == "rotate"):
            raise ValueError(
                f"augment.preset={preset!r} does not go with data.train={data.train!r}: clutter-digits has the presets "
                "clutter and rotate, pictures have the others"
            )
        if clutter and (data.size != 16 or data.fraction != 1.0 or data.squares):
            raise ValueError("clutter-digits has pictures of 16 pixels, all of its digits, and no squares")
        if not 0.0 < data.fraction <= 1.0 or not 0.0 <= data.label_share <= 1.0:
            raise ValueError(f"data.fraction={data.fraction}, data.label_share={data.label_share}: expected shares")
        if preset in ("clutter", "patches") and self.augment.views < 2:
            raise ValueError(f"augment.views={self.augment.views}: a method needs two views at least")
        if preset == "multi-crop" and self.method.view_batching == "concat":
            raise ValueError("views of two sizes make no batch: method.view_batching='concat' needs another preset")
        if pal_graph(self.method) != "views" and not self.method.gather:
            raise ValueError("a similarity graph relates the samples of all processes; set method.gather=true")
        if (self.method.name == "sie") != (preset == "rotate"):
            raise ValueError("sie needs augment.preset='rotate', which gives it known rotations, and nothing else does")
        if (self.method.name == "semppl" or pal_graph(self.method) == "labels") != (data.label_share > 0):
            raise ValueError(
                f"data.label_share={data.label_share}: semppl and pal with graph='labels' need labels, other methods "
                "must not see any"
            )


def clutter() -> ImageConfig:
    """ClutterDigits on one CPU core, 20 to 60 seconds of training (section 15); the method is BYOL."""
    return ImageConfig(
        name="clutter",
        method=MethodConfig(
            projector=(256, 64),
            predictor_hidden=256,
            target=TargetConfig(tau=0.95),
            contrast=ContrastConfig(temperature=0.2),
        ),
        train=TrainConfig(
            steps=1000,
            lr=3e-3,
            warmup=0.1,
            weight_decay=1e-4,
            clip_norm=0.0,
            precision="no",
            log_every=20,
            monitor_every=100,
            checkpoint_every=500,
            trackers=(),
        ),
        eval=EvalConfig(c=0.1),
    )


def tiny() -> ImageConfig:
    """CPU seconds: SimCLR on ClutterDigits, 200 steps."""
    config = clutter()
    train = replace(config.train, steps=200, monitor_every=50, checkpoint_every=100)
    return replace(config, name="tiny", method=replace(config.method, name="simclr"), train=train)


def fashion() -> ImageConfig:
    """Fashion-MNIST on CPU minutes: few labels, where a linear probe with all of them says nothing (section 15)."""
    config = clutter()
    return replace(
        config,
        name="fashion",
        data=DataConfig("fashion-mnist", size=28),
        augment=AugmentConfig("byol", least_area=0.2, strength=0.5, grey=0.0, mean=(0.286,), std=(0.353,)),
        encoder=EncoderConfig(channels=(32, 64, 128), strides=(2, 2, 2)),
        eval=EvalConfig(),
    )


def openclipart() -> ImageConfig:
    """OpenClipart on CPU minutes: 12 classes and more, 32 pixels, of which one fold in three tests."""
    config = clutter()
    return replace(
        config,
        name="openclipart",
        data=DataConfig("openclipart", size=32, squares=48),
        augment=AugmentConfig("byol", least_area=0.2, strength=0.5),
        encoder=EncoderConfig(channels=(32, 64, 128), strides=(2, 2, 2)),
        eval=EvalConfig(),
    )


def base() -> ImageConfig:
    """One GPU: BYOL with ResNet-50 on folders ImageNet/train and ImageNet/val, 100 epochs (section 3)."""
    return ImageConfig(
        name="base",
        data=DataConfig("ImageNet/train", "ImageNet/val", size=224, batch=256, workers=12),
        augment=AugmentConfig("byol"),
        encoder=EncoderConfig("resnet50"),
        method=MethodConfig(target=TargetConfig(tau=0.99)),
        optimizer="lars",
        lr_reference_batch=256,
        train=TrainConfig(
            epochs=100,
            lr=0.45,
            warmup=0.1,
            weight_decay=1e-6,
            clip_norm=0.0,
            log_every=50,
            monitor_every=500,
            checkpoint_every=5000,
        ),
    )


def paper_byol() -> ImageConfig:
    """BYOL's 100-epoch row (section 3): batch 4096 over 64 processes, statistics of BatchNorm over all of them."""
    config = base()
    train = replace(config.train, sync_batchnorm=True, checkpoint_every=312)
    return replace(config, name="paper-byol", data=replace(config.data, batch=64), train=train)


PRESETS: dict[str, Callable[[], ImageConfig]] = {
    "tiny": tiny,
    "clutter": clutter,
    "fashion": fashion,
    "openclipart": openclipart,
    "base": base,
    "paper-byol": paper_byol,
}
