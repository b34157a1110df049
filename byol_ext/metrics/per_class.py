"""Whom does a regulariser hurt? Accuracies of single classes over a sweep of its strength.

Source: arXiv 2204.03632; `specs/extensions.md` section 15. A stronger crop or decay may raise the average and still
cost one class dearly: an augmentation that crosses a class's level set biases that class.

Legend: `T` strengths, `S` seeds, `C` classes, `N` items. Accuracies are fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import permutation_test

Array = npt.NDArray[np.float64]
_RESAMPLES = 9_999


@dataclass(frozen=True)
class ClassRegret:
    """What a class pays for the strength that is best on average.

    Attributes:
        name: the class.
        accuracy: mean over seeds at the strength that is best on average.
        best_accuracy: mean over seeds at the class's own best strength.
        best_strength: that strength.
        p_value: Holm-corrected, of "no other strength is better for this class".
    """

    name: str
    accuracy: float
    best_accuracy: float
    best_strength: float
    p_value: float

    @property
    def regret(self) -> float:
        """`best_accuracy - accuracy`, never negative; biased upwards, as the best of several noisy means is."""
        return self.best_accuracy - self.accuracy


@dataclass(frozen=True)
class PerClassSweep:
    """Accuracies of each class under each strength and seed.

    Attributes:
        strengths: the values swept over, in any order.
        accuracy_TSC: accuracies. NaN in a class without test items: it has no part in means.
        names: names of the classes; default their numbers.

    Raises:
        ValueError: shapes that do not fit, fewer than two strengths, or values outside [0, 1].

    >>> accuracy_TSC = np.array([[[0.8, 0.9]], [[0.95, 0.85]]])
    >>> sweep = PerClassSweep((0.0, 1.0), accuracy_TSC, ("cat", "spider"))
    >>> sweep.best_strength, round(sweep.regrets()[1].regret, 3)
    (1.0, 0.05)
    """

    strengths: Sequence[float]
    accuracy_TSC: Array
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.accuracy_TSC, dtype=np.float64)
        names = tuple(self.names) or tuple(str(c) for c in range(values.shape[-1]))
        if values.ndim != 3 or 0 in values.shape or len(values) != len(self.strengths) or len(values) < 2:
            raise ValueError(
                f"accuracies {values.shape} of {len(self.strengths)} strengths: expected [strengths, seeds, classes] "
                "with at least two strengths"
            )
        if len(names) != values.shape[2]:
            raise ValueError(f"{len(names)} names for {values.shape[2]} classes")
        absent_C = np.isnan(values).all(axis=(0, 1))
        if absent_C.all() or not ((values >= 0) & (values <= 1))[:, :, ~absent_C].all():
            raise ValueError("accuracies must lie in [0, 1], or be NaN in all of a class's entries, not of all classes")
        object.__setattr__(self, "accuracy_TSC", values)
        object.__setattr__(self, "names", names)

    @property
    def mean_T(self) -> Array:
        """Accuracy of each strength: mean over seeds and classes, each class weighing the same."""
        return np.nanmean(self.accuracy_TSC, axis=2).mean(axis=1)

    @property
    def best_strength(self) -> float:
        """The strength that is best on average, the first of equals."""
        return self.strengths[int(self.mean_T.argmax())]

    def regrets(self, *, seed: int = 0) -> list[ClassRegret]:
        """What each class pays, those without test items left out.

        A class is compared at every other strength with that which is best on average, by a one-sided sign-flip test
        over the seeds, which are pairs; Holm's correction covers all classes and strengths, and so the choice of the
        class's best. The test is exact up to 13 seeds. With S seeds no p value is below 2^-S before correction: ten
        classes and four strengths need at least ten seeds to show anything at 5 %.

        Args:
            seed: of the sampled sign flips, where there are more than 13 seeds.
        """
        at = int(self.mean_T.argmax())
        present = np.flatnonzero(~np.isnan(self.accuracy_TSC[0, 0]))
        mean_TC = self.accuracy_TSC.mean(axis=1)
        others = [t for t in range(len(self.strengths)) if t != at]
        difference_SQ = np.concatenate([(self.accuracy_TSC[t] - self.accuracy_TSC[at])[:, present] for t in others], 1)
        p_OC = holm(_sign_flip(difference_SQ, seed)).reshape(len(others), len(present))
        found = []
        for column, c in enumerate(present):
            # Among equals the class has nothing to wish for.
            best = at if mean_TC[at, c] >= mean_TC[:, c].max() else int(mean_TC[:, c].argmax())
            found.append(
                ClassRegret(
                    name=self.names[int(c)],
                    accuracy=float(mean_TC[at, c]),
                    best_accuracy=float(mean_TC[best, c]),
                    best_strength=self.strengths[best],
                    p_value=float(p_OC[:, column].min()),
                )
            )
        return found

    def summary(self) -> dict[str, float]:
        """`per_class/{best_strength, accuracy, mean_regret, worst_regret}`."""
        regrets = [entry.regret for entry in self.regrets()]
        return {
            "per_class/best_strength": float(self.best_strength),
            "per_class/accuracy": float(self.mean_T.max()),
            "per_class/mean_regret": float(np.mean(regrets)),
            "per_class/worst_regret": max(regrets),
        }


def class_accuracies(label_N: npt.ArrayLike, predicted_N: npt.ArrayLike, *, classes: int) -> Array:
    """Share of each class's items that are predicted right, `[C]`; NaN for a class without items.

    Args:
        label_N: class numbers.
        predicted_N: predicted ones.
        classes: number of classes.

    Raises:
        ValueError: lists of different length, or a class number out of range.

    >>> class_accuracies([0, 0, 1], [0, 1, 1], classes=3).tolist()
    [0.5, 1.0, nan]
    """
    label, predicted = np.asarray(label_N), np.asarray(predicted_N)
    if label.shape != predicted.shape or label.ndim != 1:
        raise ValueError(f"labels {label.shape} and predictions {predicted.shape}: expected two equal lists")
    if len(label) and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(f"a label lies outside 0..{classes - 1}")
    items = np.bincount(label, minlength=classes).astype(np.float64)
    right = np.bincount(label[label == predicted], minlength=classes).astype(np.float64)
    return np.divide(right, items, out=np.full(classes, np.nan), where=items > 0)


def per_class_metrics(
    label_N: npt.ArrayLike, predicted_N: npt.ArrayLike, *, names: Sequence[str]
) -> Mapping[str, float]:
    """`per_class/accuracy/{name}` of each class that occurs, and `per_class/worst`: to return from an `evaluate`.

    Args:
        label_N: class numbers.
        predicted_N: predicted ones.
        names: names of all classes.
    """
    values = class_accuracies(label_N, predicted_N, classes=len(names))
    found = {f"per_class/accuracy/{name}": float(v) for name, v in zip(names, values, strict=True) if not np.isnan(v)}
    return found | {"per_class/worst": float(np.nanmin(values))}


def holm(p_Q: npt.ArrayLike) -> Array:
    """Probabilities corrected for their number (Holm 1979): controls the chance of any false finding.

    Args:
        p_Q: p values.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_Q, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _sign_flip(difference_SQ: Array, seed: int) -> Array:
    """One-sided p value of a positive mean of each column, under symmetry about zero."""
    if len(difference_SQ) < 2:
        return np.ones(difference_SQ.shape[1])
    result = permutation_test(
        (difference_SQ,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=512,
        rng=np.random.default_rng(seed),
        axis=0,
    )
    return np.asarray(result.pvalue)
