"""The gap between two modalities, and the guards without which its size means nothing.

Source: `specs/slap.md` section 12.3, which also has the numbers of the biased splits.

Legend: `N` pairs, `D` embedding width, `K` folds; `a` audio, `t` text. Row i of both belongs to pair i; embeddings are
made unit vectors first. With several captions an audio, give one caption of each.

A collapsed model has no gap: all its embeddings coincide. So `gap_metrics` always reports spread, rank and uniformity
of each modality beside the gap, and positive-pair beside random-pair cosine.

Can a linear classifier tell audio from text? Rows must not be split at random: the twin of a test row is then in the
training set *with the opposite label*, and a gap-free space scores below one half. Folds over pairs are unbiased.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from byol_ext.metrics.retrieval import KS, retrieve
from byol_ext.metrics.spectrum import effective_rank, std_sqrt_d, uniformity

SHIFTS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
MAX_PAIRS = 5000


@dataclass(frozen=True)
class Separability:
    """Accuracy of a logistic regression at telling the modality; 0.5 = it cannot, 1 = always.

    Attributes:
        mean: over the folds.
        sd: sample standard deviation over the folds (0 with one fit).
        folds: the accuracies.
    """

    mean: float
    sd: float
    folds: tuple[float, ...]


@dataclass(frozen=True)
class GapShift:
    """Retrieval when both sets are moved towards each other along the difference of their means, then re-normalised.

    Attributes:
        shift: share of the gap that was closed: 0 as trained, 1 means of the two sets equal before re-normalising.
        delta: `gap_delta` after the move.
        recall: direction/R@k -> percent, such as `text_to_audio/R@1`.
    """

    shift: float
    delta: float
    recall: dict[str, float]


def gap_delta(*, audio_ND: Tensor, text_ND: Tensor) -> float:
    """|mean a - mean t| of the unit embeddings (Liang et al. 2022; CLIP: 0.82). 0 for equal means, at most 2."""
    a_ND, t_ND = _units(audio_ND, text_ND)
    return float((a_ND.mean(dim=0) - t_ND.mean(dim=0)).norm())


def modality_separability(
    *,
    audio_ND: Tensor,
    text_ND: Tensor,
    protocol: Literal["pairs", "rows", "fit"] = "pairs",
    folds: int = 5,
    seed: int = 0,
    max_pairs: int = MAX_PAIRS,
) -> Separability:
    """Accuracy of a logistic regression at telling audio from text (L2, C = 1, standardised on its training rows).

    Args:
        audio_ND: audio embeddings.
        text_ND: text embeddings of the same pairs.
        protocol: "pairs", cross-validation over pairs, the number to report. For comparison with other work only:
            "rows", one random 80/20 split over rows (biased *down*: SLAP's code), and "fit", read on the training rows
            themselves (biased *up*: SLAP's text).
        folds: folds of "pairs".
        seed: seed of the split, and of the choice of pairs when there are too many.
        max_pairs: pairs used at most, drawn at random; 5000 puts the standard error below 0.006.

    Raises:
        ValueError: shapes that differ, fewer pairs than folds, values that are not finite.
    """
    a_ND, t_ND = _units(audio_ND, text_ND)
    n = len(a_ND)
    if folds < 2 or n < max(folds, 5):
        raise ValueError(f"{n} pairs and {folds} folds: expected at least 2 folds and at least as many pairs (5)")
    generator = np.random.default_rng(seed)
    order_N = generator.permutation(n)[:max_pairs]
    rows = torch.from_numpy(order_N).to(a_ND.device)
    a, t = a_ND[rows].cpu().numpy(), t_ND[rows].cpu().numpy()
    if protocol == "pairs":
        parts = np.array_split(np.arange(len(a)), folds)
        scores = [_fold_accuracy(a, t, np.isin(np.arange(len(a)), part)) for part in parts]
    else:
        x, y = np.concatenate([a, t]), np.repeat([0, 1], len(a))
        shuffled = generator.permutation(len(x))
        held = shuffled[: round(0.2 * len(x))]
        fit_on = shuffled if protocol == "fit" else np.setdiff1d(shuffled, held)
        scores = [_accuracy(x[fit_on], y[fit_on], *((x, y) if protocol == "fit" else (x[held], y[held])))]
    return Separability(
        mean=float(np.mean(scores)),
        sd=float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        folds=tuple(scores),
    )


def same_modality_share(*, audio_ND: Tensor, text_ND: Tensor, k: int = 10, seed: int = 0, chunk: int = 1024) -> float:
    """Share of the k nearest neighbours (cosine, pooled set, itself excluded) that are of the same modality.

    Chance is (N - 1) / (2N - 1), just under one half. Rows are shuffled first, so exact ties favour neither modality.
    """
    a_ND, t_ND = _units(audio_ND, text_ND)
    n = len(a_ND)
    order = torch.randperm(2 * n, generator=torch.Generator().manual_seed(seed)).to(a_ND.device)
    pool_ND = torch.cat([a_ND, t_ND])[order].float()
    modality_N = (order >= n).long()
    same = 0
    k = min(k, 2 * n - 1)
    for start in range(0, 2 * n, chunk):
        similarity = pool_ND[start : start + chunk] @ pool_ND.T
        rows = torch.arange(len(similarity), device=pool_ND.device)
        similarity[rows, rows + start] = -torch.inf
        near = similarity.topk(k, dim=1).indices
        same += int((modality_N[near] == modality_N[start : start + chunk, None]).sum())
    return same / (2 * n * k)


def pair_cosines(*, audio_ND: Tensor, text_ND: Tensor) -> tuple[float, float]:
    """Mean cosine of positive pairs, and of all mismatched pairs (exact, no sampling)."""
    a_ND, t_ND = _units(audio_ND, text_ND)
    n = len(a_ND)
    positive = float((a_ND * t_ND).sum())
    everything = float(a_ND.sum(dim=0) @ t_ND.sum(dim=0))
    return positive / n, (everything - positive) / (n * (n - 1))


def frechet_distance(*, audio_ND: Tensor, text_ND: Tensor) -> tuple[float, float]:
    """Squared Frechet distance of the Gaussians fitted to both sets: as they are, and with each set centred.

    |mu_a - mu_t|^2 + tr(S_a + S_t - 2 (S_a S_t)^(1/2)), covariances with 1/N. The second number is what is left when
    the means are made equal: the residual gap, which predicts quality better than Delta (arXiv 2604.00279, abstract).
    """
    a_ND, t_ND = _units(audio_ND, text_ND)
    mean_a, mean_t = a_ND.mean(dim=0), t_ND.mean(dim=0)
    cov_a = torch.cov(a_ND.T, correction=0)
    cov_t = torch.cov(t_ND.T, correction=0)
    # tr (S_a S_t)^(1/2) is the nuclear norm of S_a^(1/2) S_t^(1/2).
    cross = torch.linalg.matrix_norm(_square_root(cov_a) @ _square_root(cov_t), ord="nuc")
    residual = max(0.0, float(cov_a.trace() + cov_t.trace() - 2 * cross))
    return float((mean_a - mean_t).square().sum()) + residual, residual


def gap_shift_curve(
    *,
    audio_ND: Tensor,
    text_ND: Tensor,
    shifts: Sequence[float] = SHIFTS,
    ks: Sequence[int] = KS,
) -> list[GapShift]:
    """Retrieval as the gap is widened (negative shift), kept (0), closed (1) or overshot (> 1) (Liang et al. 2022).

    Audio moves by -shift/2 and text by +shift/2 of (mean a - mean t), then both are re-normalised. If R@k does not rise
    as the gap closes, the gap was not what limited retrieval.

    >>> eye = torch.eye(4)
    >>> [point.recall["text_to_audio/R@1"] for point in gap_shift_curve(audio_ND=eye, text_ND=eye, shifts=(0.0, 1.0))]
    [100.0, 100.0]
    """
    a_ND, t_ND = _units(audio_ND, text_ND)
    difference_D = a_ND.mean(dim=0) - t_ND.mean(dim=0)
    points = []
    for shift in shifts:
        a, t = a_ND - shift / 2 * difference_D, t_ND + shift / 2 * difference_D
        metrics = retrieve(audio_ND=a, text_MD=t).metrics(prefix="r", ks=ks)
        recall = {
            f"{direction}/R@{k}": metrics[f"r/{direction}/R@{k}"]
            for direction in ("text_to_audio", "audio_to_text")
            for k in ks
        }
        points.append(GapShift(shift=float(shift), delta=gap_delta(audio_ND=a, text_ND=t), recall=recall))
    return points


def gap_metrics(
    *, audio_ND: Tensor, text_ND: Tensor, seed: int = 0, folds: int = 5, k: int = 10, compat: bool = False
) -> dict[str, float]:
    """The gap with all its guards, as flat names under `gap/`.

    Args:
        audio_ND: audio embeddings, one a pair.
        text_ND: text embeddings of the same pairs.
        seed: seed of the folds.
        folds: folds over pairs.
        k: neighbours of `gap/same_modality_share`.
        compat: add the two biased separability protocols of SLAP, named `..._biased`.

    Returns:
        Gap: `gap/delta`, `gap/delta_over_spread` (Delta / sqrt of the mean within-modality variance),
        `gap/pairwise_separability` and `_sd`, `gap/same_modality_share` and `_chance`, `gap/frechet` and
        `gap/frechet_centred`. Guards: `gap/positive_cosine`, `gap/random_cosine`, and for both modalities m
        `gap/{m}/variance` (mean squared distance from the mean), `gap/{m}/effective_rank`, `gap/{m}/std_sqrt_d`,
        `gap/{m}/uniformity`. Size: `gap/pairs`.

    Raises:
        ValueError: shapes that differ, too few pairs, values that are not finite.
    """
    a_ND, t_ND = _units(audio_ND, text_ND)
    variance = {
        name: float((x - x.mean(dim=0)).square().sum(dim=1).mean()) for name, x in (("audio", a_ND), ("text", t_ND))
    }
    delta = gap_delta(audio_ND=a_ND, text_ND=t_ND)
    split = modality_separability(audio_ND=a_ND, text_ND=t_ND, folds=folds, seed=seed)
    positive, random_pairs = pair_cosines(audio_ND=a_ND, text_ND=t_ND)
    frechet, frechet_centred = frechet_distance(audio_ND=a_ND, text_ND=t_ND)
    n = len(a_ND)
    out = {
        "gap/delta": delta,
        "gap/delta_over_spread": delta / max(1e-12, (sum(variance.values()) / 2) ** 0.5),
        "gap/pairwise_separability": split.mean,
        "gap/pairwise_separability_sd": split.sd,
        "gap/same_modality_share": same_modality_share(audio_ND=a_ND, text_ND=t_ND, k=k, seed=seed),
        "gap/same_modality_share_chance": (n - 1) / (2 * n - 1),
        "gap/frechet": frechet,
        "gap/frechet_centred": frechet_centred,
        "gap/positive_cosine": positive,
        "gap/random_cosine": random_pairs,
        "gap/pairs": float(n),
    }
    for name, x_ND in (("audio", a_ND), ("text", t_ND)):
        out[f"gap/{name}/variance"] = variance[name]
        out[f"gap/{name}/effective_rank"] = effective_rank(x_ND)
        out[f"gap/{name}/std_sqrt_d"] = std_sqrt_d(x_ND)
        out[f"gap/{name}/uniformity"] = uniformity(x_ND)
    if compat:
        rows = modality_separability(audio_ND=a_ND, text_ND=t_ND, protocol="rows", seed=seed)
        fit = modality_separability(audio_ND=a_ND, text_ND=t_ND, protocol="fit", seed=seed)
        out |= {"gap/compat_row_split_biased": rows.mean, "gap/compat_fit_on_train_biased": fit.mean}
    return out


def _units(audio_ND: Tensor, text_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as unit vectors in float64."""
    if audio_ND.shape != text_ND.shape or audio_ND.ndim != 2 or len(audio_ND) < 2:
        raise ValueError(
            f"audio {tuple(audio_ND.shape)} and text {tuple(text_ND.shape)}: expected two equal [pairs, width] with at "
            "least 2 pairs (one caption an audio)"
        )
    for name, x_ND in (("audio", audio_ND), ("text", text_ND)):
        if not bool(torch.isfinite(x_ND).all()):
            raise ValueError(f"{name} embeddings hold NaN or Inf")
    return F.normalize(audio_ND.detach().double(), dim=1), F.normalize(text_ND.detach().double(), dim=1)


def _square_root(matrix_DD: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix."""
    value_D, vector_DD = torch.linalg.eigh(matrix_DD)
    return (vector_DD * value_D.clamp(min=0).sqrt()) @ vector_DD.T


def _fold_accuracy(
    a_ND: npt.NDArray[np.float64], t_ND: npt.NDArray[np.float64], held_N: npt.NDArray[np.bool_]
) -> float:
    """Fit on the pairs that are not held out, both members of each; read on both members of those that are."""
    fit_x = np.concatenate([a_ND[~held_N], t_ND[~held_N]])
    test_x = np.concatenate([a_ND[held_N], t_ND[held_N]])
    return _accuracy(fit_x, np.repeat([0, 1], len(fit_x) // 2), test_x, np.repeat([0, 1], len(test_x) // 2))


def _accuracy(
    fit_x: npt.NDArray[np.float64],
    fit_y: npt.NDArray[np.int64],
    test_x: npt.NDArray[np.float64],
    test_y: npt.NDArray[np.int64],
) -> float:
    mean, std = fit_x.mean(axis=0), fit_x.std(axis=0)
    std = np.where(std > 1e-12, std, 1.0)
    model = LogisticRegression(C=1.0, max_iter=300).fit((fit_x - mean) / std, fit_y)
    return float((model.predict((test_x - mean) / std) == test_y).mean())
