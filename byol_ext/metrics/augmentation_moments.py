"""What an augmentation does on average: mean and covariance of an augmented sample, and the regulariser that they are.

Source: arXiv 2202.08325; `specs/core-ssl.md` section 12, `specs/extensions.md` section 14.

A random map `T` takes finitely many forms `t_k` with probabilities `w_k`: shifts, flips, or the nodes of a quadrature
over a continuous parameter. Its moments are sums, `E = sum_k w_k t_k(x)` and `V = A A'` with the columns
`A_k = sqrt(w_k) (t_k(x) - E)`, never formed as a matrix. For a linear model the expected squared error is exactly

    E |y - W T(x) - b|^2 = |y - W E - b|^2 + |W A|_F^2,

and for a network, with the Jacobian in the place of `W`, to first order: an explicit regulariser, without sampling.
Maps of images are in `byol_ext.images.linear_maps`.

Legend: `B` samples, `X` the dims of one sample, `K` forms of the map, `R` columns of a root of the covariance, `D`
outputs of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from byol_ext.losses.pair import as_float

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RandomMap:
    """A random map of samples that takes finitely many forms.

    Attributes:
        weight_K: probabilities.
        forms: `[B, X...] -> [K, B, X...]`, every form of every sample.

    >>> flip = RandomMap(torch.tensor([0.5, 0.5]), lambda x: torch.stack([x, x.flip(-1)]))
    >>> moments(flip, torch.tensor([[1.0, 3.0]])).mean.tolist()
    [[2.0, 2.0]]
    """

    weight_K: Tensor
    forms: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        total = float(self.weight_K.sum()) if self.weight_K.ndim == 1 else math.nan
        if not abs(total - 1.0) < 1e-5 or bool((self.weight_K < 0).any()):
            raise ValueError(f"weight_K = {self.weight_K}: expected a list of probabilities that sum to 1")

    def then(self, second: RandomMap) -> RandomMap:
        """This map, then another that is drawn independently: `K1 K2` forms."""
        weight_K = torch.outer(second.weight_K, self.weight_K).flatten()

        def forms(x: Tensor) -> Tensor:
            first_KB = self.forms(x)
            return second.forms(first_KB.flatten(0, 1)).unflatten(1, first_KB.shape[:2]).flatten(0, 1)

        return RandomMap(weight_K, forms)


def mixture(share: float, *, often: RandomMap, otherwise: RandomMap) -> RandomMap:
    """One map with probability `share`, else another: an augmentation that is applied at times.

    Args:
        share: probability of the first.
        often: the first.
        otherwise: the other, such as `identity()`.

    Raises:
        ValueError: if `share` is no probability.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share = {share}: expected a probability")
    weight_K = torch.cat([share * often.weight_K, (1.0 - share) * otherwise.weight_K])
    return RandomMap(weight_K, lambda x: torch.cat([often.forms(x), otherwise.forms(x)]))


def identity() -> RandomMap:
    """The map that leaves a sample as it is."""
    return RandomMap(torch.ones(1), lambda x: x[None])


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of augmented samples.

    Attributes:
        mean: `[B, X...]`.
        root: `[R, B, X...]`: the covariance of sample `b` is the sum over `r` of the outer products of `root[r, b]`.
    """

    mean: Tensor
    root: Tensor

    @property
    def variance(self) -> Tensor:
        """Diagonal of the covariance, `[B, X...]`."""
        return self.root.square().sum(0)

    @property
    def covariance(self) -> Tensor:
        """`[B, N, N]` over the `N` numbers of a sample: for small ones."""
        root_RBN = self.root.flatten(2)
        return torch.einsum("rbi,rbj->bij", root_RBN, root_RBN)

    def spectrum(self) -> Tensor:
        """Eigenvalues of the covariance that are not zero, largest first, `[B, R]`."""
        return self._gram_eigen()[0].flip(-1)

    def compressed(self, rank: int) -> Moments:
        """The same mean with the nearest covariance of lower rank: the directions that vary most, largest first.

        Args:
            rank: columns kept; at least 1.
        """
        if rank < 1:
            raise ValueError(f"rank = {rank}: expected at least 1")
        _, vectors_BRR = self._gram_eigen()
        kept_BRr = vectors_BRR[..., -rank:].flip(-1)
        root = torch.einsum("kb...,bkr->rb...", self.root.double(), kept_BRr)
        return Moments(self.mean, root.to(self.root.dtype))

    def _gram_eigen(self) -> tuple[Tensor, Tensor]:
        root_BRN = self.root.flatten(2).transpose(0, 1).double()
        values_BR, vectors_BRR = torch.linalg.eigh(root_BRN @ root_BRN.mT)
        return values_BR.clamp_min(0.0), vectors_BRR


def moments(random_map: RandomMap, x: Tensor) -> Moments:
    """Exact moments of augmented samples.

    Args:
        random_map: the augmentation.
        x: samples `[B, X...]`, float. Memory grows with `K` times their size.
    """
    forms = random_map.forms(as_float(x))
    weight_K = random_map.weight_K.to(forms).reshape(-1, *[1] * (forms.ndim - 1))
    mean = (weight_K * forms).sum(0)
    return Moments(mean, weight_K.sqrt() * (forms - mean))


def sampled_moments(views: Tensor) -> Moments:
    """Estimated moments, unbiased, from draws of any augmentation.

    Args:
        views: `[K, B, X...]`, `K` independent draws for each sample.

    Raises:
        ValueError: for fewer than two draws.
    """
    if len(views) < 2:
        raise ValueError(f"{len(views)} draws: expected at least two for a covariance")
    views = as_float(views)
    mean = views.mean(0)
    return Moments(mean, (views - mean) / math.sqrt(len(views) - 1))


def linear_risk(weight_DN: Tensor, *, bias_D: Tensor, moments: Moments, target_BD: Tensor) -> Tensor:
    """Expected squared error of a linear model on augmented samples, exact: `|y - W E - b|^2 + |W A|_F^2`.

    Args:
        weight_DN: weight on the `N` numbers of a sample.
        bias_D: bias.
        moments: moments of the samples.
        target_BD: targets.

    Returns:
        `[B]`.
    """
    error_BD = target_BD - moments.mean.flatten(1) @ weight_DN.mT - bias_D
    spread_RBD = moments.root.flatten(2) @ weight_DN.mT
    return error_BD.square().sum(-1) + spread_RBD.square().sum((0, 2))


def ridge(moments: Moments, target_BD: Tensor, *, penalty: float = 0.0) -> tuple[Tensor, Tensor]:
    """The linear model of the least expected squared error, in one solve: what training on infinitely many draws finds.

    Minimises `mean_b E |y_b - W T(x_b) - c|^2 + penalty |W|^2`, the bias `c` without penalty, in float64.

    Args:
        moments: moments of the samples.
        target_BD: targets.
        penalty: of the weights.

    Returns:
        Weight `[D, N]` and bias `[D]`, float64.
    """
    x_BN, root_SN = moments.mean.flatten(1).double(), moments.root.flatten(2).flatten(0, 1).double()
    y_BD = target_BD.double()
    mean_N, mean_D = x_BN.mean(0), y_BD.mean(0)
    centred_BN = x_BN - mean_N
    second_NN = (centred_BN.mT @ centred_BN + root_SN.mT @ root_SN) / len(x_BN)
    second_NN.diagonal().add_(penalty)
    cross_ND = centred_BN.mT @ (y_BD - mean_D) / len(x_BN)
    weight_DN = torch.linalg.lstsq(second_NN, cross_ND, driver="gelsd" if second_NN.is_cpu else None).solution.mT
    return weight_DN, mean_D - weight_DN @ mean_N


def explicit_regularizer(model: Model, moments: Moments) -> Tensor:
    """`|J A|_F^2` of each sample: how far the augmentation moves the output, to first order (TangentProp).

    Add it to a loss at `moments.mean`; gradients reach the model's parameters. It costs a forward-mode pass for each
    of the `R` columns: see `Moments.compressed`.

    Args:
        model: `[B, X...] -> [B, ...]`, each row by itself (BatchNorm in eval mode).
        moments: moments of the samples.

    Returns:
        `[B]`.

    >>> double = RandomMap(torch.tensor([0.5, 0.5]), lambda x: torch.stack([x, 3 * x]))
    >>> round(explicit_regularizer(lambda x: 2 * x, moments(double, torch.ones(1, 1))).item(), 5)
    4.0
    """
    total = moments.mean.new_zeros(len(moments.mean))
    for column in moments.root:
        moved = torch.func.jvp(model, (moments.mean,), (column,))[1]
        total = total + as_float(moved).flatten(1).square().sum(1)
    return total


def loss_variance(gradient: Tensor, moments: Moments) -> Tensor:
    """Variance of a sample's loss under augmentation, to first order: `g' V g`.

    It is small where the gradient lies along directions that the augmentation leaves alone.

    Args:
        gradient: gradient of each sample's loss by its input at `moments.mean`, `[B, X...]`.
        moments: moments of the samples.

    Returns:
        `[B]`.
    """
    return (moments.root * gradient).flatten(2).sum(2).square().sum(0)


def samples_needed(*, mean: float, variance: float, relative_error: float) -> int:
    """Augmented samples until the standard error of the mean loss is a share of it.

    Args:
        mean: mean loss of an augmented sample.
        variance: its variance.
        relative_error: that share, such as .01.

    Raises:
        ValueError: for a share or a mean that is not positive, or a negative variance.

    >>> samples_needed(mean=2.0, variance=1.0, relative_error=0.01)
    2500
    """
    if not (relative_error > 0 and mean > 0 and variance >= 0):
        raise ValueError(
            f"mean = {mean}, variance = {variance}, relative_error = {relative_error}: expected the variance not "
            "negative and the others positive"
        )
    # One rounding error more must not ask for a further sample.
    return max(math.ceil(variance / (relative_error * mean) ** 2 * (1.0 - 1e-9)), 1)


class AugmentationSensitivity:
    """An `Evaluate` of `byol_ext.training.fit`: how much of a representation's variance augmentation makes.

    Args:
        maps: augmentations by name.
        samples: samples `[B, X...]` on the model's device, at least two.
        encode: `(model, samples) -> [B, D]`, such as `lambda model, x: model.embed({"a": x})["a"]["y"]`.
        rank: directions of each augmentation that are followed.
    """

    def __init__(
        self,
        maps: dict[str, RandomMap],
        samples: Tensor,
        encode: Callable[[nn.Module, Tensor], Tensor],
        *,
        rank: int = 8,
    ) -> None:
        if len(samples) < 2:
            raise ValueError(f"{len(samples)} samples: expected at least two for a variance")
        self.encode = encode
        self.moments = {name: moments(random_map, samples).compressed(rank) for name, random_map in maps.items()}

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """`augmentation/{name}/sensitivity`: mean `|J A|^2` over the variance of the outputs at the means.

        0 for an invariant representation; 1 where an augmentation moves an output as far as another sample does. NaN
        for a collapsed one.
        """
        found: dict[str, float] = {}
        for name, of_samples in self.moments.items():
            with torch.no_grad():
                y_BD = as_float(self.encode(model, of_samples.mean)).flatten(1)
            explicit_B = explicit_regularizer(lambda x: self.encode(model, x), of_samples)
            spread = float(y_BD.var(dim=0).sum())
            explicit = float(explicit_B.detach().mean())
            found[f"augmentation/{name}/sensitivity"] = explicit / spread if spread > 0 else math.nan
        return found
