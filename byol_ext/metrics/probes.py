"""Probes: what a frozen representation makes easy to read.

Source: `specs/core-ssl.md` section 13, `specs/slap.md` section 12.2.

Legend: `N` items, `D` width of the representation, `C` classes or tags.

Probe `y`, the encoder's output in eval mode, not the projection. A probe never sees the test set while it is fitted:
features are standardised with *training* statistics, and every choice is made on a validation split. Report a
randomly initialised encoder beside every number. Targets are class numbers [N], or 0/1 [N, C] with unknown entries NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.metrics.classification import accuracy, multi_label_metrics

C_GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Split:
    """Frozen features and their targets.

    Attributes:
        x_ND: features, any float dtype.
        y_N: class numbers [N] (integers), or tags [N, C] of 0, 1 and NaN (unknown).
    """

    x_ND: Tensor
    y_N: Tensor

    def __post_init__(self) -> None:
        if self.x_ND.ndim != 2 or len(self.x_ND) == 0 or len(self.x_ND) != len(self.y_N):
            raise ValueError(
                f"features {tuple(self.x_ND.shape)} and targets {tuple(self.y_N.shape)}: expected [items, width] and "
                "one target an item, not empty"
            )
        if not bool(torch.isfinite(self.x_ND).all()):
            raise ValueError("features hold NaN or Inf: check the encoder, or drop these items")


@dataclass(frozen=True)
class ProbeResult:
    """Test scores of one fitted probe.

    Attributes:
        metrics: on the test split: `accuracy`, or `auroc`, `mAP`, `mAR`. Fractions.
        validation: the score on the validation split by which the probe was chosen.
        chosen: the chosen setting: `C` of the linear probe, `epochs` of the MLP.
        score_NC: test scores (logits), float32 on the CPU, for bootstraps and confusion matrices.
    """

    metrics: dict[str, float]
    validation: float
    chosen: dict[str, float]
    score_NC: Tensor


def knn_probe(
    *,
    train: Split,
    test: Split,
    k: int = 20,
    temperature: float = 0.07,
    vote: Literal["softmax", "plain"] = "softmax",
    chunk: int = 1024,
) -> ProbeResult:
    """Cosine k-nearest-neighbour classifier (k = 20, weights exp(cos / 0.07), or a plain vote; core-ssl section 13).

    `k` falls to the size of the training set when that is smaller. Nothing is fitted, so there is no validation split
    (`validation` is NaN). Ties go to the lowest class number.

    Raises:
        ValueError: multi-label targets, or k below 1.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> split = Split(x, torch.tensor([0, 0, 1, 1]))
    >>> knn_probe(train=split, test=split, k=2).metrics
    {'accuracy': 1.0}
    """
    if train.y_N.ndim != 1 or test.y_N.ndim != 1:
        raise ValueError("the k-NN probe takes class numbers; use linear_probe for tags")
    if k < 1 or temperature <= 0:
        raise ValueError(f"k = {k}, temperature = {temperature}: expected k >= 1 and a positive temperature")
    classes = int(max(train.y_N.max(), test.y_N.max())) + 1
    memory_ND = F.normalize(train.x_ND.float(), dim=1)
    label_N = train.y_N.to(memory_ND.device)
    scores = []
    with torch.autocast(memory_ND.device.type, enabled=False):
        for query_BD in F.normalize(test.x_ND.float(), dim=1).split(chunk):
            near = (query_BD @ memory_ND.T).topk(min(k, len(memory_ND)), dim=1)
            # Dividing by the largest weight leaves the vote unchanged and keeps exp(cos / T) in range.
            weight_BK = ((near.values - near.values[:, :1]) / temperature).exp()
            weight_BK = weight_BK if vote == "softmax" else torch.ones_like(weight_BK)
            score_BC = torch.zeros(len(query_BD), classes, device=query_BD.device)
            scores.append(score_BC.scatter_add_(1, label_N[near.indices], weight_BK))
    score_NC = torch.cat(scores).cpu()
    return ProbeResult(_metrics(score_NC, test.y_N), float("nan"), {"k": float(min(k, len(memory_ND)))}, score_NC)


def linear_probe(
    *,
    train: Split,
    test: Split,
    validation: Split | None = None,
    c_grid: Sequence[float] = C_GRID,
    validation_share: float = 0.2,
    max_iter: int = 300,
    seed: int = 0,
) -> ProbeResult:
    """Logistic regression on standardised features, L2 strength chosen on a validation split, never on test.

    Minimises mean cross-entropy + |W|^2 / (2 C n) in float64 by L-BFGS, which is scikit-learn's objective; the bias is
    not penalised. Tags get one sigmoid each, unknown ones no loss.

    Args:
        train: training split; its statistics standardise every split.
        test: scored once, with the chosen C.
        validation: split for the choice. Default: a random `validation_share` of `train` (seeded), after which the
            probe is refitted on all of `train` with the chosen C.
        c_grid: inverse regularisation strengths to try; of equals the smallest is taken.
        validation_share: see `validation`.
        max_iter: L-BFGS iterations.
        seed: seed of the random split.

    Raises:
        ValueError: splits of different width or kind, or an empty grid.
    """
    if not c_grid or min(c_grid) <= 0:
        raise ValueError(f"c_grid = {tuple(c_grid)}, expected at least one positive number")
    refit = validation is None
    fit_on, validation = (
        _held_out(train, share=validation_share, seed=seed) if validation is None else (train, validation)
    )
    fit_on, validation, test_s = _standardise(fit_on, validation, test)
    classes = _classes(train, validation, test)
    fitted: dict[float, nn.Linear] = {}
    for c in sorted(c_grid):  # each fit starts from the one before: the solution is the same, and found sooner
        fitted[c] = _fit_linear(fit_on, classes, c, max_iter, start=fitted[max(fitted)] if fitted else None)
    scores = {c: _headline(_metrics(model(validation.x_ND), validation.y_N)) for c, model in fitted.items()}
    best = max(scores, key=lambda c: scores[c])
    model = fitted[best]
    if refit:
        fit_on, test_s = _standardise(train, test)
        model = _fit_linear(fit_on, classes, best, max_iter)
    with torch.no_grad():
        score_NC = model(test_s.x_ND).float().cpu()
    return ProbeResult(_metrics(score_NC, test.y_N), scores[best], {"C": best}, score_NC)


def mlp_probe(
    *,
    train: Split,
    validation: Split,
    test: Split,
    hidden: int = 512,
    lr: float = 1e-4,
    batch_size: int = 64,
    max_epochs: int = 200,
    patience: int = 10,
    seeds: Sequence[int] = (0, 1, 2),
) -> list[ProbeResult]:
    """One hidden layer of 512 ReLU units, Adam at 1e-4, early stop on the validation loss (SLAP section 5.2).

    Batch size, patience and the cap on epochs are ours; the paper does not give them.

    Args:
        train: training split; its statistics standardise every split.
        validation: split for the early stop; the epoch of the lowest loss is kept.
        test: scored once a seed.
        hidden: hidden width.
        lr: learning rate.
        batch_size: items a step.
        max_epochs: cap on epochs.
        patience: epochs without a lower validation loss before stopping.
        seeds: one probe a seed (initial weights and order of the items).

    Returns:
        One result a seed; `probe_summary` gives mean and standard deviation.
    """
    classes = _classes(train, validation, test)
    train_s, validation_s, test_s = _standardise(train, validation, test)
    results = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(
            _linear(train_s.x_ND.shape[1], hidden, generator), nn.ReLU(), _linear(hidden, classes, generator)
        ).to(train_s.x_ND.device)
        epochs = _fit_early_stop(model, train_s, validation_s, lr, batch_size, max_epochs, patience, generator)
        with torch.no_grad():
            score_NC = model(test_s.x_ND.float()).cpu()
            score = _headline(_metrics(model(validation_s.x_ND.float()), validation_s.y_N))
        results.append(ProbeResult(_metrics(score_NC, test.y_N), score, {"epochs": float(epochs)}, score_NC))
    return results


def probe_summary(results: Sequence[ProbeResult], *, prefix: str) -> dict[str, float]:
    """Mean and sample deviation over seeds: `{prefix}_accuracy`, `{prefix}_accuracy_sd`, `{prefix}_seeds`.

    >>> result = ProbeResult({"accuracy": 0.5}, 0.5, {}, torch.zeros(1, 1))
    >>> probe_summary([result], prefix="probe/mlp")
    {'probe/mlp_accuracy': 0.5, 'probe/mlp_accuracy_sd': 0.0, 'probe/mlp_seeds': 1.0}
    """
    if not results:
        raise ValueError("no probe results to summarise")
    out: dict[str, float] = {}
    for key in results[0].metrics:
        values = torch.tensor([result.metrics[key] for result in results], dtype=torch.float64)
        out[f"{prefix}_{key}"] = float(values.mean())
        out[f"{prefix}_{key}_sd"] = float(values.std()) if len(values) > 1 else 0.0
    return out | {f"{prefix}_seeds": float(len(results))}


def _standardise(train: Split, *others: Split) -> list[Split]:
    """All splits in float64 with the mean and deviation of the first; constant features are left at zero."""
    x_ND = train.x_ND.double()
    mean_D, std_D = x_ND.mean(dim=0), x_ND.std(dim=0, correction=0)
    std_D = torch.where(std_D > 1e-12, std_D, 1.0)
    for split in others:
        if split.x_ND.shape[1] != x_ND.shape[1] or split.y_N.shape[1:] != train.y_N.shape[1:]:
            raise ValueError(
                f"splits differ: features {tuple(split.x_ND.shape)} and {tuple(x_ND.shape)}, targets "
                f"{tuple(split.y_N.shape)} and {tuple(train.y_N.shape)}"
            )
    device = x_ND.device
    return [
        Split(((split.x_ND.to(device).double() - mean_D) / std_D), split.y_N.to(device)) for split in (train, *others)
    ]


def _held_out(train: Split, *, share: float, seed: int) -> tuple[Split, Split]:
    held = round(share * len(train.x_ND))
    if not 0 < held < len(train.x_ND):
        raise ValueError(
            f"a validation share of {share} of {len(train.x_ND)} items leaves one side empty; pass `validation`"
        )
    order_N = torch.randperm(len(train.x_ND), generator=torch.Generator().manual_seed(seed)).to(train.x_ND.device)
    rest, out = order_N[held:], order_N[:held]
    labels = train.y_N.to(train.x_ND.device)
    return Split(train.x_ND[rest], labels[rest]), Split(train.x_ND[out], labels[out])


def _classes(*splits: Split) -> int:
    first = splits[0].y_N
    if first.ndim == 2:
        return first.shape[1]
    if first.is_floating_point():
        raise ValueError("class numbers must be integers; tags are [items, tags]")
    return max(int(split.y_N.max()) for split in splits) + 1


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer whose uniform +-1/sqrt(inputs) start comes from `generator`, not from the global state."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def _loss(score_NC: Tensor, y_N: Tensor) -> Tensor:
    """Mean cross-entropy, or binary cross-entropy summed over known tags, mean over items."""
    if y_N.ndim == 1:
        return F.cross_entropy(score_NC, y_N)
    known_NC = ~torch.isnan(y_N.double())
    target_NC = torch.where(known_NC, y_N, 0).to(score_NC.dtype)
    element_NC = F.binary_cross_entropy_with_logits(score_NC, target_NC, reduction="none")
    return (element_NC * known_NC).sum(dim=1).mean()


def _fit_linear(train: Split, classes: int, c: float, max_iter: int, *, start: nn.Linear | None = None) -> nn.Linear:
    model = nn.Linear(train.x_ND.shape[1], classes, dtype=torch.float64, device=train.x_ND.device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.zeros_like(parameter) if start is None else start.get_parameter(name))
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=max_iter, tolerance_grad=1e-7, tolerance_change=1e-12, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = model.weight.square().sum() / (2 * c * len(train.x_ND))
        loss = _loss(model(train.x_ND), train.y_N) + penalty
        loss.backward()
        return loss

    optimiser.step(closure)
    return model.requires_grad_(False)


def _fit_early_stop(
    model: nn.Module,
    train: Split,
    validation: Split,
    lr: float,
    batch_size: int,
    max_epochs: int,
    patience: int,
    generator: torch.Generator,
) -> int:
    """Train in place, restore the weights of the lowest validation loss, return the epoch they come from."""
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    x_ND, validation_x_ND = train.x_ND.float(), validation.x_ND.float()
    best_loss, best_epoch = float("inf"), 0
    best_state = {name: value.clone() for name, value in model.state_dict().items()}
    for epoch in range(1, max_epochs + 1):
        for rows in torch.randperm(len(x_ND), generator=generator).to(x_ND.device).split(batch_size):
            optimiser.zero_grad()
            _loss(model(x_ND[rows]), train.y_N[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            loss = float(_loss(model(validation_x_ND), validation.y_N))
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - best_epoch >= patience:
            break
    model.load_state_dict(best_state)
    return best_epoch


def _metrics(score_NC: Tensor, y_N: Tensor) -> dict[str, float]:
    score, target = score_NC.detach().float().cpu(), y_N.cpu()
    if target.ndim == 1:
        return {"accuracy": accuracy(target.numpy(), score.argmax(dim=1).numpy())}
    known = ~torch.isnan(target.double())
    return multi_label_metrics(target.nan_to_num().numpy(), score.numpy(), known_NC=known.numpy())


def _headline(metrics: dict[str, float]) -> float:
    """The score that choices are made by: accuracy, or mAP for tags."""
    return metrics["accuracy"] if "accuracy" in metrics else metrics["mAP"]
