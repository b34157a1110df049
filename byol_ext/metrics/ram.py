"""Probe of an emulator's memory: what frozen features of gameplay know of the game's own variables.

Which game is on the screen is told by ten numbers of a histogram; where the ball is, is not. Every byte of the RAM that
varies is regressed linearly on the features, on other episodes than it was fitted to.

Legend: ``N`` videos, ``D`` width of the features, ``R`` bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

_ALPHAS = tuple(10.0**k for k in range(-1, 6))


def ram_probe(
    *,
    train_ND: np.ndarray,
    train_NR: np.ndarray,
    test_ND: np.ndarray,
    test_NR: np.ndarray,
    least_values: int = 8,
) -> dict[str, float]:
    """Share of variance explained of each byte that takes enough values, by ridge regression.

    Args:
        train_ND: Features of the training videos.
        train_NR: Their RAM at the time that is asked for, numbers.
        test_ND: Features of videos of other episodes.
        test_NR: Their RAM.
        least_values: Values that a byte takes at least in the training videos (ours; flags and timers that stand still
            are left out), and it must vary among the test videos.

    Returns:
        ``ram/r2_mean`` and ``ram/r2_median`` over bytes (each at least -1, so that one useless byte does not decide),
        ``ram/share_above_half`` and ``ram/bytes``. Empty if no byte varies enough.

    Raises:
        ValueError: For shapes that do not fit together.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> ram = np.round(40 * x[:, :1]) + 128
        >>> found = ram_probe(train_ND=x[:150], train_NR=ram[:150], test_ND=x[150:], test_NR=ram[150:])
        >>> found["ram/bytes"], found["ram/r2_mean"] > 0.99
        (1.0, True)
    """
    if len(train_ND) != len(train_NR) or len(test_ND) != len(test_NR) or train_NR.shape[1] != test_NR.shape[1]:
        raise ValueError(
            f"features {train_ND.shape}, {test_ND.shape} and RAM {train_NR.shape}, {test_NR.shape} do not fit together"
        )
    columns = varying_bytes(train_NR, test_NR, least_values=least_values)
    if not len(columns):
        return {}
    scaler = StandardScaler().fit(train_ND)
    target_NR = train_NR[:, columns].astype(np.float64)
    model = RidgeCV(alphas=_ALPHAS, alpha_per_target=True).fit(scaler.transform(train_ND), target_NR)
    guess_NR = model.predict(scaler.transform(test_ND)).reshape(len(test_ND), -1)
    truth_NR = test_NR[:, columns].astype(np.float64)
    residual_R = np.square(truth_NR - guess_NR).sum(0)
    spread_R = np.square(truth_NR - truth_NR.mean(0)).sum(0)
    r2_R = np.clip(1.0 - residual_R / spread_R, -1.0, 1.0)
    return {
        "ram/r2_mean": float(r2_R.mean()),
        "ram/r2_median": float(np.median(r2_R)),
        "ram/share_above_half": float((r2_R > 0.5).mean()),
        "ram/bytes": float(len(columns)),
    }


def varying_bytes(train_NR: np.ndarray, test_NR: np.ndarray, *, least_values: int) -> Sequence[int]:
    """Columns that take enough values in the first matrix and vary in the second; of equal columns the first only."""
    kept: list[int] = []
    seen: set[bytes] = set()
    for column in range(train_NR.shape[1]):
        enough = len(np.unique(train_NR[:, column])) >= least_values and len(np.unique(test_NR[:, column])) > 1
        content = np.ascontiguousarray(train_NR[:, column]).tobytes()
        if enough and content not in seen:
            seen.add(content)
            kept.append(column)
    return kept
