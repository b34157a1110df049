"""Evaluation of a frozen image encoder: k-NN, linear probe, few labels, rank of its latents, and the controls.

Probes read ``y``, the encoder's output in evaluation mode; nothing here trains the encoder. Every choice is made on
held-out training pictures, never on test. Source: core-ssl spec 11, 13 and 15.

Legend: ``N`` pictures, ``c, M, M`` what the encoder sees, ``D`` width, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap
from byol_ext.images.clutter_digits import ClutterDigits
from byol_ext.metrics.bootstrap import bootstrap_interval
from byol_ext.metrics.classification import confusion
from byol_ext.metrics.few_labels import few_label_probe
from byol_ext.metrics.per_class import class_accuracies
from byol_ext.metrics.probes import C_GRID, ProbeResult, Split, knn_probe, linear_probe
from byol_ext.metrics.spectrum import rankme, std_sqrt_d
from byol_ext.target import Branch
from recipes.image_config import EvalConfig, ImageConfig
from recipes.image_data import Pictures, Splits, evaluation_batches, features
from recipes.image_methods import BRANCH

RANKME_ROWS = 25_600
"""Pictures that RankMe looks at (its paper)."""
PIXEL_NUMBERS = 50_000_000
"""Most numbers of all raw pixels together, so that their probe fits in memory."""
NAMED_CLASSES = 100
"""With more classes than this only the worst is reported by itself."""
CALIBRATION = 2048
Network = nn.Module | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """What probes say of one set of features.

    Attributes:
        metrics: Flat names to numbers.
        linear: The linear probe on the test pictures.
        train: Features of the training pictures.
        test: Features of the test pictures.
    """

    metrics: dict[str, float]
    linear: ProbeResult
    train: Split
    test: Split


@dataclass(frozen=True)
class Evaluation:
    """What was measured of an encoder.

    Attributes:
        metrics: Flat names to numbers, the controls' headline among them.
        protocol: How, with all counts.
        confusion: Counts ``[true, predicted]`` of the linear probe.
        classes: Names of the classes.
        controls: All metrics of each control by its name.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    confusion: np.ndarray
    classes: list[str]
    controls: dict[str, dict[str, float]] = field(default_factory=dict)


def evaluate(
    encoder: Network,
    splits: Splits,
    config: ImageConfig,
    *,
    projector: nn.Module | None = None,
    untrained: Branch | None = None,
) -> Evaluation:
    """Everything that is measured of a frozen encoder.

    Args:
        encoder: ``[N, c, M, M] -> [N, D]`` in evaluation mode, on its device.
        splits: Labelled training and test pictures.
        config: The recipe's configuration.
        projector: ``y -> z``; without one the rank of ``z`` is not measured.
        untrained: The control of an encoder as it is before training, on its device; its BatchNorm statistics are set
            to those of the training pictures. With it, raw pixels are measured as well.

    Raises:
        ValueError: If there are no labelled test pictures.
        TooManyBadSamples: If too many pictures cannot be used.
    """
    test = labelled_test(splits)
    found = measure(encoder, splits, config, projector=projector)
    metrics, controls = dict(found.metrics), {}
    if untrained is not None:
        calibrate_norms(untrained, splits.train, config)
        controls = {
            "random_init": measure(untrained.encoder, splits, config, projector=untrained.projector).metrics,
            "raw_pixels": measure(raw_pixels(splits), splits, config).metrics,
        }
        for name, values in controls.items():
            metrics[f"probe/{name}_accuracy"] = values["probe/linear_accuracy"]
            metrics[f"probe/{name}_knn_accuracy"] = values["probe/knn_accuracy"]
    names = class_names(test, found)
    guesses = found.linear.score_NC.argmax(1).numpy()
    counts = confusion(found.test.y_N.numpy(), guesses, classes=len(names))
    return Evaluation(metrics, _protocol(splits, config, found), counts, names, controls)


def measure(network: Network, splits: Splits, config: ImageConfig, *, projector: nn.Module | None = None) -> Measured:
    """Probes and ranks of one network's features.

    Args:
        network: ``[N, c, M, M] -> [N, D]``.
        splits: Labelled training and test pictures.
        config: The recipe's configuration.
        projector: ``y -> z``.

    Returns:
        ``probe/linear_accuracy`` with ``/low`` and ``/high``, ``probe/linear_c``, ``probe/knn_accuracy``,
        ``probe/chance``, ``probe/majority_accuracy``, ``few_labels/{percent}/...``, ``rankme_y``, and of ``z``
        ``rankme`` and ``std_sqrt_d``; ``per_class/...``.
    """
    pictures, copies = labelled_test(splits), copies_of(splits.train, config.eval)
    device = next(network.parameters()).device if isinstance(network, nn.Module) else "cpu"
    train, test = (
        Split(split.x_ND.to(device), split.y_N)
        for split in (features(network, splits.train, config), features(network, pictures, config))
    )
    linear = fit_linear(train, test, c=config.eval.c, copies=copies, seed=config.seed)
    neighbours = knn_probe(train=train, test=test, k=config.eval.knn, temperature=config.eval.knn_temperature)
    right_N = (linear.score_NC.argmax(1) == test.y_N).double().numpy()
    groups_N = np.arange(len(right_N)) // copies_of(pictures, config.eval)
    interval = bootstrap_interval(right_N, groups=groups_N)
    counts_K = torch.bincount(train.y_N)
    metrics = {
        "probe/linear_accuracy": linear.metrics["accuracy"],
        "probe/linear_accuracy/low": interval.low,
        "probe/linear_accuracy/high": interval.high,
        "probe/linear_c": linear.chosen["C"],
        "probe/knn_accuracy": neighbours.metrics["accuracy"],
        "probe/chance": 1.0 / int((counts_K > 0).sum()),
        "probe/majority_accuracy": float((test.y_N == counts_K.argmax()).double().mean()),
    }
    # One picture a label: several pictures of a digit know of each other.
    labels = Split(train.x_ND[::copies], train.y_N[::copies])
    for share in config.eval.shares:
        metrics |= few_label_probe(train=labels, test=test, share=share)
    found = Measured(metrics, linear, train, test)
    return Measured(
        metrics | _per_class(found, class_names(pictures, found)) | ranks(train.x_ND, projector), linear, train, test
    )


def ranks(y_ND: Tensor, projector: nn.Module | None) -> dict[str, float]:
    """RankMe of representations and, with a projector, of projections, and how far these spread.

    Args:
        y_ND: Representations of training pictures; evenly spaced rows are used.
        projector: ``y -> z``.
    """
    rows = torch.linspace(0, len(y_ND) - 1, min(len(y_ND), RANKME_ROWS)).round().long()
    found = {"rankme_y": rankme(y_ND[rows])}
    if projector is not None:
        z_ND = project(projector, y_ND[rows])
        found |= {"rankme": rankme(z_ND), "std_sqrt_d": std_sqrt_d(z_ND)}
    return found


@torch.no_grad()
def project(projector: nn.Module, y_ND: Tensor, *, batch: int = 4096) -> Tensor:
    """Projections of representations, on the CPU; the projector is used in the mode that it is in."""
    device = next((p.device for p in projector.parameters()), torch.device("cpu"))
    return torch.cat([projector(rows.to(device)).float().cpu() for rows in y_ND.split(batch)])


def fit_linear(train: Split, test: Split, *, c: float | None, copies: int = 1, seed: int = 0) -> ProbeResult:
    """Linear probe with a given ``C``, or with the best one on a fifth of the training pictures, then fitted on all.

    Args:
        train: Training features.
        test: Test features.
        c: Inverse strength of the penalty; None to choose it.
        copies: Neighbouring rows that show the same thing, and are held out together.
        seed: Seed of the held-out part.
    """
    grid = C_GRID if c is None else (c,)
    if len(grid) > 1:
        things = len(train.x_ND) // copies
        order = torch.randperm(things, generator=torch.Generator().manual_seed(seed))
        held_N = torch.isin(torch.arange(len(train.x_ND)) // copies, order[: max(things // 5, 1)])
        rest, held = (Split(train.x_ND[rows], train.y_N[rows]) for rows in (~held_N, held_N))
        grid = (linear_probe(train=rest, validation=held, test=held, c_grid=grid).chosen["C"],)
    # One C is left, so the training pictures only stand in for a validation set.
    return linear_probe(train=train, validation=train, test=test, c_grid=grid)


def raw_pixels(splits: Splits) -> Callable[[Tensor], Tensor]:
    """Pixels as features; shrunk where all of them would not fit in memory."""
    most = PIXEL_NUMBERS // len(splits.train)

    def flat(x_NcMM: Tensor) -> Tensor:
        channels, side = x_NcMM.shape[1], x_NcMM.shape[-1]
        if channels * side**2 > most:
            x_NcMM = F.adaptive_avg_pool2d(x_NcMM, max(int((most / channels) ** 0.5), 1))
        return x_NcMM.flatten(1)

    return flat


@torch.no_grad()
def calibrate_norms(branch: Branch, pictures: Pictures, config: ImageConfig) -> None:
    """Give an untrained branch the BatchNorm statistics of some training pictures; it is left in evaluation mode.

    With the initial ones its features are nearly collinear, and the control is unfairly weak.

    Args:
        branch: Encoder and projector, on their device.
        pictures: Training pictures; the first 2,048 are used.
        config: The recipe's configuration.
    """
    norms = [layer for layer in branch.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    device = next(branch.parameters()).device
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    branch.train()
    seen = 0
    for x_NPcMM, _ in evaluation_batches(pictures, config, device=device):
        branch(x_NPcMM[:, 0])
        seen += len(x_NPcMM)
        if seen >= CALIBRATION:
            break
    branch.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def branch_of(model: Bootstrap) -> Branch:
    """Encoder and projector of a model."""
    branch = model.branches[BRANCH]
    assert isinstance(branch, Branch)
    return branch


def labelled_test(splits: Splits) -> Pictures:
    """The test pictures.

    Raises:
        ValueError: If there are none, or they or the training pictures have no labels.
    """
    if splits.test is None:
        raise ValueError("there are no test pictures to evaluate on; give --data.test")
    for name, pictures in (("training", splits.train), ("test", splits.test)):
        if not bool((np.asarray(pictures.labels) >= 0).any()):
            raise ValueError(f"the {name} pictures {pictures.fingerprint} have no labels; evaluation needs them")
    return splits.test


def copies_of(pictures: Pictures, config: EvalConfig) -> int:
    """Neighbouring evaluation pictures that show the same digit: several of ClutterDigits, else one."""
    return config.draws if isinstance(pictures, ClutterDigits) else 1


def class_names(pictures: Pictures, found: Measured) -> list[str]:
    """A name for each class number that occurs: the source's, or the number."""
    count = max(len(pictures.classes), found.linear.score_NC.shape[1])
    return [*pictures.classes, *(str(i) for i in range(len(pictures.classes), count))]


def _per_class(found: Measured, names: list[str]) -> dict[str, float]:
    guesses = found.linear.score_NC.argmax(1).numpy()
    values = class_accuracies(found.test.y_N.numpy(), guesses, classes=len(names))
    named: Mapping[str, float] = dict(zip(names, values.tolist(), strict=True)) if len(names) <= NAMED_CLASSES else {}
    worst = {"per_class/worst": float(np.nanmin(values))}
    return worst | {f"per_class/accuracy/{name}": value for name, value in named.items() if not np.isnan(value)}


def _protocol(splits: Splits, config: ImageConfig, found: Measured) -> dict[str, Any]:
    """All that a reader needs to compare the numbers."""
    own = config.eval
    chosen = f"C={own.c}" if own.c is not None else "C chosen on a fifth of the training pictures"
    assert splits.test is not None
    return {
        "train": splits.train.fingerprint,
        "test": splits.test.fingerprint,
        "n_train": len(found.train.x_ND),
        "n_test": len(found.test.x_ND),
        "classes": int(found.train.y_N.unique().numel()),
        "width": found.train.x_ND.shape[1],
        "patches": own.patches,
        "features": "y, encoder in evaluation mode (BatchNorm statistics frozen)",
        "linear": f"logistic regression on features standardised by the training set, {chosen}",
        "knn": f"k={own.knn}, cosine, softmax vote at {own.knn_temperature}",
        "few_labels": "linear probe, C by cross-validation within the subset, mean of three draws of it",
        "rankme": f"of z of at most {RANKME_ROWS} training pictures, not centred, eps 1e-7; rankme_y of y",
        "random_init": "same encoder before training, BatchNorm statistics of training pictures",
        "intervals": "95 % bootstrap over test pictures, those of a digit together",
        "metrics_in": "fractions",
        "seed": config.seed,
    }
