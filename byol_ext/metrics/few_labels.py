"""Semi-supervised probes: 1 % and 10 % of the labels on frozen features.

Source: `specs/core-ssl.md` sections 3 and 13. Fine-tuning the encoder on the same subsets is a recipe's business; this
is the linear classifier. Nothing outside the subset has a label: the L2 strength is chosen by cross-validation in it.

Legend: `N` items, `C` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from byol_ext.metrics.probes import C_GRID, Split, linear_probe, probe_summary

MAX_FOLDS = 5


@dataclass(frozen=True)
class _Fold:
    rest: Split
    held: Split


def label_subset(label_N: Tensor, *, share: float, seed: int) -> Tensor:
    """Items of a class-balanced share of the labels.

    Every class keeps its part, at least one item. Subsets of one seed are nested: that of 1 % lies in that of 10 %.

    Args:
        label_N: class numbers.
        share: share of the items, in (0, 1].
        seed: of the draw.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: for a share out of range, no items, or targets that are no class numbers.

    >>> label_subset(torch.tensor([0, 0, 0, 0, 1, 1]), share=0.5, seed=0).numel()
    3
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share = {share}: expected a number in (0, 1]")
    if label_N.ndim != 1 or label_N.is_floating_point() or len(label_N) == 0:
        raise ValueError(f"labels {tuple(label_N.shape)}, {label_N.dtype}: expected a list of class numbers, not empty")
    labels = label_N.cpu()
    order_N = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = []
    for c in labels.unique().tolist():
        of_class = order_N[labels[order_N] == c]
        kept.append(of_class[: max(round(share * len(of_class)), 1)])
    return torch.cat(kept).sort().values


def few_label_probe(
    *,
    train: Split,
    test: Split,
    share: float,
    seeds: Sequence[int] = (0, 1, 2),
    c_grid: Sequence[float] = C_GRID,
    max_iter: int = 300,
) -> dict[str, float]:
    """Linear probe on a share of the labels, mean and deviation over draws of the subset.

    `C` is the grid's best in stratified cross-validation, of at most five folds, within the subset; where a class has
    one item there is nothing to hold out, and the middle of the grid is taken.

    Args:
        train: all training items; the labels outside the subset are not looked at.
        test: scored once a draw.
        share: share of the labels, such as .01 or .1.
        seeds: draws.
        c_grid: inverse L2 strengths.
        max_iter: L-BFGS iterations.

    Returns:
        `few_labels/{percent}/accuracy`, `..._sd`, `few_labels/{percent}/seeds` and `few_labels/{percent}/items`.

    Raises:
        ValueError: for an empty grid or no seeds, and those of `label_subset` and `linear_probe`.
    """
    if not c_grid or not seeds:
        raise ValueError(f"c_grid = {tuple(c_grid)}, seeds = {tuple(seeds)}: expected at least one each")
    results, items = [], 0
    for seed in seeds:
        kept = label_subset(train.y_N, share=share, seed=seed).to(train.x_ND.device)
        subset = Split(train.x_ND[kept], train.y_N.to(train.x_ND.device)[kept])
        items = len(kept)
        c = _chosen(subset, c_grid, max_iter, seed)
        results.append(linear_probe(train=subset, validation=subset, test=test, c_grid=(c,), max_iter=max_iter))
    summary = probe_summary(results, prefix="")
    name = f"few_labels/{100 * share:g}%"
    return {f"{name}/{key.lstrip('_')}": value for key, value in summary.items()} | {f"{name}/items": float(items)}


def _chosen(subset: Split, c_grid: Sequence[float], max_iter: int, seed: int) -> float:
    """The `C` of the best mean validation accuracy, the smallest of equals."""
    folds = _folds(subset, seed)
    grid = sorted(c_grid)
    if not folds:
        return grid[(len(grid) - 1) // 2]
    scores = {
        c: sum(
            linear_probe(train=f.rest, validation=f.held, test=f.held, c_grid=(c,), max_iter=max_iter).validation
            * len(f.held.x_ND)
            for f in folds
        )
        for c in grid
    }
    return max(grid, key=lambda c: scores[c])


def _folds(subset: Split, seed: int) -> list[_Fold]:
    """Stratified folds, as many as the rarest class has items; none where that is one."""
    labels = subset.y_N.cpu()
    count = min(int(labels.unique(return_counts=True)[1].min()), MAX_FOLDS)
    if count < 2:
        return []
    order_N = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    # Sorted by class, items take the folds in turn.
    order_N = order_N[labels[order_N].argsort(stable=True)]
    fold_N = torch.empty_like(order_N)
    fold_N[order_N] = torch.arange(len(order_N)) % count
    fold_N = fold_N.to(subset.x_ND.device)
    return [
        _Fold(
            Split(subset.x_ND[fold_N != k], subset.y_N[fold_N != k]),
            Split(subset.x_ND[fold_N == k], subset.y_N[fold_N == k]),
        )
        for k in range(count)
    ]
