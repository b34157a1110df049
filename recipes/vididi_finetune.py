"""Fine-tuning of a video encoder with one linear layer, tested on many clips of every test video.

The last epoch is tested, on the full test split; validation videos come from the training split, by group. (The
authors validate on a part of the test split and report the best epoch, spec 6.) From a freshly initialised encoder it
is the supervised baseline; with ``freeze`` it is a linear probe by SGD, BatchNorm statistics frozen too.

Legend: ``N`` videos, ``B`` of a batch, ``V`` clips, ``C, T, H, W`` a clip, ``D`` width, ``K`` classes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.heads import batch_norms
from byol_ext.ledger import BadSampleLedger
from byol_ext.metrics.classification import accuracy, confusion
from byol_ext.rng import sample_keys
from byol_ext.schedules import Schedule
from byol_ext.training import (
    FitResult,
    LoaderSource,
    ResumableSampler,
    Run,
    TrainConfig,
    fit,
    learning_rate,
    rank_and_world,
    total_steps,
)
from byol_ext.video.data import VideoClips, collate
from byol_ext.video.derivatives import finite_difference
from byol_ext.video.samples import VideoSource
from byol_ext.video.sampling import ClipSampler, Short
from byol_ext.video.transforms import CentreClip
from recipes.vididi_features import ClipProtocol, VideoTable, frozen, mean_over_clips, tabulate
from recipes.vididi_split import split_by_group

Augment = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(clips_BVTHWC uint8, sizes_B2, keys_B) -> [B, V, C, T, h, w]``, such as ``ClipAugment``."""


def _authors_training() -> TrainConfig:
    return TrainConfig(epochs=120, lr=0.16, warmup=0.0, schedule="const", weight_decay=1e-4, clip_norm=0.0)


@dataclass(frozen=True)
class FinetuneConfig:
    """How to fine-tune. The defaults are the authors' (spec 6: SGD, 120 epochs, rate / 10 three times)."""

    train: TrainConfig = field(default_factory=_authors_training)
    """The loop; its rate is that of a step of ``batch`` videos."""
    batch: int = 128
    """Videos a step and process."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd as the authors, or adamw (with ``train.betas``), faster where a small encoder starts from scratch."""
    momentum: float = 0.9
    """SGD's momentum."""
    decay_at: tuple[float, ...] = (1 / 2, 2 / 3, 5 / 6)
    """Parts of the training after which the rate falls (epochs 60, 80, 100 of 120)."""
    decay: float = 0.1
    """Factor of the rate each time."""
    dropout: float = 0.5
    """Dropout before the linear layer."""
    freeze: bool = False
    """Whether to train the linear layer alone; the encoder's BatchNorm statistics stay as they are, too."""
    orders: tuple[int, ...] = (0,)
    """Derivative orders to learn from; (0, 1) is the authors' second loss on the differenced clip. Losses are
    averaged, and so are the orders' logits in the test (ours)."""
    heads: Literal["shared", "separate"] = "shared"
    """One linear layer for all orders, or one each."""
    frames: int = 16
    """Frames of a training clip."""
    stride: int = 4
    """Frames of the video between two of a training clip."""
    target_fps: float | None = None
    """Frames a second that ``stride`` counts in; None counts the frames of the video."""
    short: Short = "shrink_stride"
    """Training videos too short for a clip."""
    short_side: int | None = None
    """Short side in pixels to which a decoder may scale training frames."""
    validation_share: float = 0.1
    """Share of each class' groups that is kept from training for validation; 0 for none."""
    test: ClipProtocol = field(default_factory=ClipProtocol)
    """Clips of validation and test videos; their logits are averaged."""
    three_crops: bool = False
    """Whether to test a second time with three crops of each clip."""
    max_bad_fraction: float = 0.05
    """Largest share of unusable training videos."""
    workers: int = 0
    """Loader processes in training."""
    seed: int = 0
    """Seed of the linear layer, the order of videos, augmentation and the validation split."""

    def __post_init__(self) -> None:
        if not self.orders or min(self.orders) < 0 or len(set(self.orders)) < len(self.orders):
            raise ValueError(f"orders={self.orders}: expected derivative orders, each once, such as (0,) or (0, 1)")
        if not 0.0 <= self.validation_share < 1.0:
            raise ValueError(f"validation_share={self.validation_share} must lie in [0, 1)")


class VideoClassifier(nn.Module):
    """An encoder with dropout and a linear layer; a :class:`byol_ext.training.Trainable`.

    Args:
        encoder: ``(x_BCTHW, order_B) -> [B, D]`` with an attribute ``width``.
        classes: Number of classes ``K``.
        config: Dropout, orders, heads, ``freeze``, and the seed of the linear layer (normal, deviation 0.01).
    """

    def __init__(self, encoder: nn.Module, classes: int, config: FinetuneConfig) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not config.freeze)
        self.freeze, self.orders, self.separate = config.freeze, config.orders, config.heads == "separate"
        self.dropout = nn.Dropout(config.dropout)
        generator = torch.Generator().manual_seed(config.seed)
        names = config.orders if self.separate else config.orders[:1]
        self.heads = nn.ModuleDict({str(order): _head(cast(int, encoder.width), classes, generator) for order in names})

    def train(self, mode: bool = True) -> VideoClassifier:
        """Training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def logits(self, x_BCTHW: Tensor, order_B: Tensor) -> Tensor:
        """Logits ``[B, K]`` of clips that are all of one derivative order."""
        head = self.heads[str(int(order_B[0])) if self.separate else str(self.orders[0])]
        logits: Tensor = head(self.dropout(self.encoder(x_BCTHW, order_B)))
        return logits

    @property
    def couples_samples(self) -> bool:
        """Whether BatchNorm takes statistics over the batch."""
        return bool(self.coupling_reasons())

    @property
    def encoder_couples_samples(self) -> bool:
        """The same: all BatchNorm is in the encoder."""
        return self.couples_samples

    def coupling_reasons(self) -> list[str]:
        """Names of the BatchNorm layers."""
        return [f"encoder.{name}" for name in batch_norms(self.encoder)]

    def forward(self, views: Mapping[str, Tensor], ctx: Ctx, step: int) -> Out:
        """Mean cross-entropy over the derivative orders.

        Args:
            views: Clips ``[B, C, T, H, W]`` of each order by its number.
            ctx: ``data["labels"]`` ``[B]``.
            step: Not used.
        """
        labels_B = ctx.data["labels"]
        terms, losses = {}, []
        for order in self.orders:
            x_BCTHW = views[str(order)]
            logits_BK = self.logits(x_BCTHW, torch.full((len(x_BCTHW),), order)).float()
            losses.append(F.cross_entropy(logits_BK, labels_B))
            terms[f"d{order}"] = losses[-1].detach()
            terms[f"d{order}/accuracy"] = (logits_BK.argmax(dim=1) == labels_B).float().mean()
        return Out(loss=torch.stack(losses).mean(), terms=terms)

    def after_step(self, step: int) -> dict[str, float]:
        """Nothing is left to do."""
        return {}


def _head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, width, classes)
    with torch.no_grad():
        head.weight.normal_(0.0, 0.01, generator=generator)
        head.bias.zero_()
    return head


@dataclass(frozen=True)
class Finetuned:
    """How a fine-tuning ended.

    Attributes:
        fit: What the loop says.
        metrics: Flat names to numbers; empty if the training was interrupted, and on all processes but the first.
        protocol: How it was measured.
        test: Logits ``[N, K]`` of the test videos under ``logits``; None where ``metrics`` is empty.
        confusion: Counts ``[true, predicted]`` likewise.
    """

    fit: FitResult
    metrics: dict[str, float]
    protocol: dict[str, Any]
    test: VideoTable | None = None
    confusion: np.ndarray | None = None


def finetune(
    encoder: nn.Module,
    *,
    train: VideoSource,
    test: VideoSource,
    config: FinetuneConfig,
    augment: Augment,
    centre: CentreClip,
    run: Run,
    resume: bool = False,
) -> Finetuned:
    """Train a classifier on an encoder, then test it.

    Args:
        encoder: ``(x_BCTHW, order_B) -> [B, D]`` with an attribute ``width``; it is trained in place unless frozen.
        train: Labelled training videos; the validation videos are taken from them.
        test: Labelled test videos.
        config: How.
        augment: Training transform.
        centre: Evaluation transform.
        run: Run directory of the fine-tuning.
        resume: Whether to continue the run.

    Raises:
        ValueError: If a video has no label, or the classes cannot be divided by group.
        TooManyBadSamples: If videos cannot be used.
    """
    fitted, held = split_by_group(train, share=config.validation_share, seed=config.seed)
    model = VideoClassifier(encoder, len(train.classes), config)
    source = _loader(fitted, config)
    ledger = BadSampleLedger(max_bad_fraction=config.max_bad_fraction)

    def views(batch: Mapping[str, Any], step: int) -> tuple[dict[str, Tensor], Ctx]:
        ledger.update(batch)
        keys_B = sample_keys(config.seed, batch["epochs"], batch["ids"])
        clips_BCTHW = augment(batch["clips"], batch["sizes"], keys_B)[:, 0]
        orders = {str(order): finite_difference(clips_BCTHW, order) for order in config.orders}
        return orders, Ctx(data={"labels": batch["labels"]})

    def validate(_: nn.Module, step: int) -> dict[str, float]:
        return {"accuracy": _accuracy(_validation(model, held, config, centre))} if held is not None else {}

    rank = rank_and_world()[0]
    try:
        result = fit(
            model,
            source,
            config.train,
            prepare=views,
            run=run,
            evaluate=validate if held is not None else None,
            resume=resume,
            optimizer=(lambda module: sgd(module, config)) if config.optimizer == "sgd" else None,
            lr=stepped_rate(config, steps=total_steps(config.train, source)),
            unit="videos",
            headline="eval/accuracy",
        )
        ledger.check()
    finally:
        if ledger.entries:
            ledger.write(run.path / ("errors.jsonl" if rank == 0 else f"errors-rank{rank}.jsonl"))
    protocol = _protocol(fitted, held, test, config)
    if result.interrupted is not None or rank != 0:
        return Finetuned(result, {}, protocol)
    return _tested(model, result, held, test, config, centre, protocol)


def _loader(source: VideoSource, config: FinetuneConfig) -> LoaderSource:
    sampler = ClipSampler(
        clips=1,
        frames=config.frames,
        stride=config.stride,
        layout="independent",
        target_fps=config.target_fps,
        short=config.short,
    )
    dataset = VideoClips(source, sampler, seed=config.seed, short_side=config.short_side)
    order = ResumableSampler(len(source), config.batch, seed=config.seed)
    return LoaderSource(dataset, order, collate=collate, num_workers=config.workers, fingerprint=source.fingerprint)


def stepped_rate(config: FinetuneConfig, *, steps: int) -> Schedule:
    """The training's learning rate, lowered by ``decay`` at each of ``decay_at``.

    Args:
        config: Rate and decays.
        steps: Steps of the whole training.

    Example:
        >>> rate = stepped_rate(FinetuneConfig(), steps=120)
        >>> [round(rate(step), 5) for step in (0, 59, 60, 80, 100, 119)]
        [0.16, 0.16, 0.016, 0.0016, 0.00016, 0.00016]
    """
    rate = learning_rate(config.train, steps)
    milestones = [round(part * steps) for part in config.decay_at]
    return lambda step: rate(step) * config.decay ** bisect_right(milestones, step)


def sgd(model: nn.Module, config: FinetuneConfig) -> torch.optim.Optimizer:
    """SGD with momentum and decay of all trainable parameters, as the authors have it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(
        parameters, lr=config.train.lr, momentum=config.momentum, weight_decay=config.train.weight_decay
    )


def classify(model: VideoClassifier, source: VideoSource, protocol: ClipProtocol, *, centre: CentreClip) -> VideoTable:
    """Logits of every video, averaged over clips, crops and derivative orders, under the name ``logits``."""
    device = next(model.parameters()).device

    def logits(clips_BVCTHW: Tensor, keys_B: Tensor) -> Tensor:
        means = [
            mean_over_clips(model.logits, clips_BVCTHW, order=order, batch=protocol.batch) for order in model.orders
        ]
        return torch.stack(means).mean(dim=0)

    with frozen(model):
        return tabulate(source, {"logits": logits}, protocol, centre=centre, device=device)


def _tested(
    model: VideoClassifier,
    result: FitResult,
    held: VideoSource | None,
    test: VideoSource,
    config: FinetuneConfig,
    centre: CentreClip,
    protocol: dict[str, Any],
) -> Finetuned:
    """Accuracies of the last step."""
    table = classify(model, test, config.test, centre=centre)
    metrics = {
        "finetune/accuracy": _accuracy(table),
        "finetune/n_test": float(len(table)),
        "finetune/n_skipped": float(table.skipped.total()),
        "finetune/steps": float(result.step),
    }
    if held is not None:
        validation = _validation(model, held, config, centre)
        metrics["finetune/validation_accuracy"] = _accuracy(validation)
        metrics["finetune/n_validation"] = float(len(validation))
    if config.three_crops:
        three = replace(config.test, crops=3)
        metrics["finetune/accuracy_three_crops"] = _accuracy(classify(model, test, three, centre=centre))
    classes = table.values["logits"].shape[1]
    guesses_N = table.values["logits"].argmax(dim=1).numpy()
    counts = confusion(table.labels.numpy(), guesses_N, classes=classes)
    return Finetuned(result, metrics, protocol | {"skipped": dict(table.skipped)}, table, counts)


def _validation(model: VideoClassifier, held: VideoSource, config: FinetuneConfig, centre: CentreClip) -> VideoTable:
    """Logits of the validation videos; unusable ones are training videos, and their share is watched there."""
    return classify(model, held, replace(config.test, max_bad_fraction=1.0), centre=centre)


def _accuracy(table: VideoTable) -> float:
    return accuracy(table.labels.numpy(), table.values["logits"].argmax(dim=1).numpy())


def _protocol(
    train: VideoSource, held: VideoSource | None, test: VideoSource, config: FinetuneConfig
) -> dict[str, Any]:
    return {
        "train": train.fingerprint,
        "n_train": len(train),
        "validation": f"{config.validation_share:.0%} of the groups of each class of the training videos",
        "n_validation": len(held) if held is not None else 0,
        "test": test.fingerprint,
        "epoch": "the last; nothing is chosen on test or validation videos",
        "encoder": "frozen, BatchNorm statistics included" if config.freeze else "trained",
        "orders": list(config.orders),
        "clips": asdict(config.test),
        "metrics_in": "fractions",
        "seed": config.seed,
    }
