"""Gaussian priors over weights, learned from pre-training: SWAG, and the penalty that it makes of fine-tuning.

"Pre-Train Your Loss" (arXiv 2205.10279; specs core-ssl 12, extensions 7): the weights that pre-training passes through
at its end give ``N(mu, S)`` with ``S = L L' + diag(v)``; downstream, the loss is
``mean NLL - log N(w; mu, s (L L' + diag v) + e I) / N``. The scale ``s`` has to be large, as SWAG's deviations are
tiny; ``s -> inf`` is plain fine-tuning, ``s -> 0`` with ``e = 0`` keeps the weights at ``mu``.

Only parameters have a prior. BatchNorm statistics are no weights: they are those of the model that is fine-tuned, and
have to be estimated again for a sampled one (``torch.optim.swa_utils.update_bn``).

What the public code does otherwise: it multiplies ``L`` itself by ``s``, whose covariance so scales with ``s^2``, and
divides its deviations by ``K - 1`` without SWAG's 1/2.

Legend: ``P`` parameters, flattened and put together in the order of their names; ``R`` columns of ``L``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Out
from byol_ext.losses.pair import as_float

Selector = Callable[[nn.Module], nn.Module]


class GaussianPrior(nn.Module):
    """``N(mean, scale (factor factor' + diag variance) + eps I)`` over the parameters of a module.

    In coordinates divided by the root ``d`` of the diagonal, the covariance is ``I + Q diag(gain) Q'`` with
    orthonormal ``Q``. A distance is then that across ``Q`` plus that along it; Woodbury's formula subtracts two numbers
    of the size of P instead, which float32 cannot.

    Args:
        shapes: Shapes of the parameters by name, in the order in which they are put together.
        mean_P: Mean.
        factor_PR: ``L``; without columns for a diagonal prior.
        variance_P: ``v``, not negative.
        scale: ``s`` (public code: 1e10).
        eps: ``e``, added to the diagonal after the scale (public code: .1).

    Raises:
        ValueError: If sizes do not fit, or a variance is not positive.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> prior = GaussianPrior.isotropic(layer, variance=0.5)
        >>> with torch.no_grad():
        ...     layer.weight += torch.tensor([[1.0, 2.0]])
        >>> round(prior.penalty(layer, data=10).item(), 4)
        0.5
    """

    mean_P: Tensor
    variance_P: Tensor
    root_P: Tensor
    directions_PR: Tensor
    gain_R: Tensor

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        mean_P: Tensor,
        factor_PR: Tensor,
        variance_P: Tensor,
        scale: float = 1.0,
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        total = sum(shape.numel() for shape in self.shapes.values())
        if mean_P.shape != (total,) or variance_P.shape != (total,) or factor_PR.shape[:-1] != (total,):
            raise ValueError(
                f"mean {tuple(mean_P.shape)}, variance {tuple(variance_P.shape)}, factor {tuple(factor_PR.shape)}: "
                f"expected [{total}], [{total}] and [{total}, R] for these parameters"
            )
        diagonal_P = scale * variance_P.detach().double() + eps
        if not (scale > 0 and eps >= 0) or not bool((diagonal_P > 0).all()):
            raise ValueError(f"scale={scale}, eps={eps}: expected a positive scale and a positive diagonal")
        self.scale, self.eps = scale, eps
        root_P = diagonal_P.sqrt()
        whitened_PR = math.sqrt(scale) * factor_PR.detach().double() / root_P[:, None]
        directions_PR, singular_R, _ = torch.linalg.svd(whitened_PR, full_matrices=False)
        values = {
            "mean_P": mean_P,
            "variance_P": variance_P,
            "root_P": root_P,
            "directions_PR": directions_PR,
            "gain_R": singular_R.square(),
        }
        for name, value in values.items():
            self.register_buffer(name, value.detach().to(mean_P.dtype, copy=True))

    @classmethod
    def isotropic(
        cls, module: nn.Module, *, variance: float, around: Mapping[str, Tensor] | None = None
    ) -> GaussianPrior:
        """``N(w0, variance I)``: L2-SP around a checkpoint, or weight decay around zeros.

        Args:
            module: Whose parameters it is over.
            variance: Variance of each.
            around: ``w0`` by name; default the module's present parameters.
        """
        own = dict(module.named_parameters())
        mean_P = as_float(flatten(own if around is None else around, own))
        return cls(
            {name: p.shape for name, p in own.items()},
            mean_P=mean_P,
            factor_PR=mean_P.new_zeros(len(mean_P), 0),
            variance_P=torch.full_like(mean_P, variance),
        )

    @property
    def factor_PR(self) -> Tensor:
        """A factor of the low-rank part: ``factor factor'`` is that of the argument, before the scale."""
        return self.root_P[:, None] * self.directions_PR * (self.gain_R / self.scale).sqrt()

    def scaled(self, scale: float, *, eps: float = 0.0) -> GaussianPrior:
        """The same prior with another ``scale`` and ``eps``.

        Args:
            scale: ``s``.
            eps: ``e``.
        """
        return GaussianPrior(
            self.shapes,
            mean_P=self.mean_P,
            factor_PR=self.factor_PR,
            variance_P=self.variance_P,
            scale=scale,
            eps=eps,
        )

    def penalty(self, module: nn.Module, *, data: int) -> Tensor:
        """``(w - mu)' S^-1 (w - mu) / 2 data``: what the prior adds to a mean loss, up to a constant.

        The constant, of the size of P, is left out: in float32 it would drown the loss.

        Args:
            module: Module with the prior's parameters; others, such as a new head, are not looked at.
            data: Samples that the mean loss stands for.

        Returns:
            Scalar with gradient, in the prior's precision.

        Raises:
            ValueError: If ``data`` is not positive, or a parameter is missing or has another shape.
        """
        if data < 1:
            raise ValueError(f"data={data}: expected the number of training samples")
        return self._squared_distance(module) / (2 * data)

    def log_density(self, module: nn.Module) -> Tensor:
        """``log N(w; mu, S)`` with every constant.

        Args:
            module: See :meth:`penalty`.
        """
        logdet = 2.0 * self.root_P.log().sum() + self.gain_R.log1p().sum()
        return -0.5 * (self._squared_distance(module) + logdet + len(self.mean_P) * math.log(2.0 * math.pi))

    @torch.no_grad()
    def sample_(self, module: nn.Module, *, generator: torch.Generator | None = None) -> None:
        """Overwrite a module's parameters with a draw from the prior.

        Args:
            module: See :meth:`penalty`.
            generator: Of the noise, on the prior's device.
        """
        own = self._matched(module)
        noise_P = torch.randn(self.mean_P.shape, generator=generator, device=self.mean_P.device).to(self.mean_P)
        along_R = self.directions_PR.mT @ noise_P
        noise_P += self.directions_PR @ (along_R * ((1.0 + self.gain_R).sqrt() - 1.0))
        drawn_P = self.mean_P + self.root_P * noise_P
        parts = drawn_P.split([shape.numel() for shape in self.shapes.values()])
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            own[name].copy_(part.reshape(shape))

    def _matched(self, module: nn.Module) -> dict[str, nn.Parameter]:
        own = dict(module.named_parameters())
        wrong = [name for name, shape in self.shapes.items() if name not in own or own[name].shape != shape]
        if wrong:
            raise ValueError(f"the module lacks parameters of the prior, or their shapes differ: {wrong[:5]}")
        return own

    def _squared_distance(self, module: nn.Module) -> Tensor:
        with torch.autocast(self.mean_P.device.type, enabled=False):
            flat_P = flatten(self._matched(module), self.shapes).to(self.mean_P)
            whitened_P = (flat_P - self.mean_P) / self.root_P
            along_R = self.directions_PR.mT @ whitened_P
            across_P = whitened_P - self.directions_PR @ along_R
            # Sums over P round: a second pass takes out what the first has left.
            rest_R = self.directions_PR.mT @ across_P
            along_R, across_P = along_R + rest_R, across_P - self.directions_PR @ rest_R
            return across_P.square().sum() + (along_R.square() / (1.0 + self.gain_R)).sum()


class Swag(nn.Module):
    """Mean, variance and last deviations of the weights that a training passes through (SWAG, arXiv 1902.02476).

    Collect in a last stage at a constant or cyclic rate. From the loop of :func:`byol_ext.training.fit` by
    :class:`SwagMonitor`, or from saved checkpoints: load each into the module and call :meth:`collect`.

    Args:
        module: Whose parameters are followed: an encoder, or its average in ``Target``. A head that will be replaced
            is no part of it.
        rank: Deviations kept (public code: 5; 20 in SWAG).

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> swag = Swag(layer, rank=2)
        >>> for _ in range(4):
        ...     with torch.no_grad():
        ...         layer.weight += 0.1
        ...     swag.collect(layer)
        >>> swag.prior(scale=10.0).factor_PR.shape
        torch.Size([8, 2])
    """

    mean_P: Tensor
    squares_P: Tensor
    deviation_PR: Tensor
    count: Tensor

    def __init__(self, module: nn.Module, *, rank: int = 5) -> None:
        super().__init__()
        if rank < 0 or rank == 1:
            raise ValueError(f"rank={rank}: expected 0 for a diagonal, or at least 2")
        own = dict(module.named_parameters())
        self.shapes = {name: p.shape for name, p in own.items()}
        flat_P = flatten(own, own).detach().float()
        self.register_buffer("mean_P", torch.zeros_like(flat_P))
        self.register_buffer("squares_P", torch.zeros_like(flat_P))
        self.register_buffer("deviation_PR", flat_P.new_zeros(len(flat_P), rank))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device=flat_P.device))

    @torch.no_grad()
    def collect(self, module: nn.Module) -> None:
        """Take in the present parameters.

        Args:
            module: A module with the parameters of the first.
        """
        flat_P = flatten(dict(module.named_parameters()), self.shapes).detach().to(self.mean_P)
        # Welford's sums: the mean of squares less the squared mean would lose deviations of 1e-3 to float32.
        before_P = flat_P - self.mean_P
        self.mean_P += before_P / (int(self.count) + 1)
        after_P = flat_P - self.mean_P
        self.squares_P += before_P * after_P
        if rank := self.deviation_PR.shape[1]:
            self.deviation_PR[:, int(self.count) % rank] = after_P
        self.count += 1

    def prior(self, *, scale: float = 1.0, eps: float = 0.0, least_variance: float = 1e-6) -> GaussianPrior:
        """``N(mean, scale (D D' / 2 (K - 1) + diag variance / 2) + eps I)``.

        ``D`` has the last ``K`` deviations, each from the mean at its time, the variance divides by the number of
        collections: both as in SWAG.

        Args:
            scale: ``s``.
            eps: ``e``.
            least_variance: Floor of the variances before they are halved (public code: 1e-6).

        Raises:
            ValueError: If fewer than two sets of weights, or fewer than the rank, were collected.
        """
        count, rank = int(self.count), self.deviation_PR.shape[1]
        if count < max(2, rank):
            raise ValueError(f"{count} sets of weights were collected; a prior of rank {rank} needs {max(2, rank)}")
        factor_PR = self.deviation_PR / math.sqrt(2.0 * (rank - 1)) if rank else self.deviation_PR
        variance_P = (self.squares_P / count).clamp_min(least_variance) / 2.0
        return GaussianPrior(
            self.shapes, mean_P=self.mean_P, factor_PR=factor_PR, variance_P=variance_P, scale=scale, eps=eps
        )


class SwagMonitor:
    """A ``Monitor`` of :func:`byol_ext.training.fit` that collects weights from any recipe.

    It collects each time that it is called, every ``monitor_every`` steps, from a step on. Its sums are not in the
    checkpoints: in a run that is resumed amid the collection, save and load ``swag.state_dict()``, or collect from the
    checkpoints.

    Args:
        swag: Where weights go.
        select: Finds the module in the model, such as ``lambda model: model.branches["image"].encoder``.
        start: First step.
    """

    def __init__(self, swag: Swag, select: Selector, *, start: int = 0) -> None:
        self.swag, self.select, self.start = swag, select, start

    def __call__(self, model: nn.Module, out: Out, step: int) -> dict[str, float]:
        """Collect; returns ``swag/collected``."""
        if step >= self.start:
            self.swag.collect(self.select(model))
        return {"swag/collected": float(self.swag.count)}


def flatten(values: Mapping[str, Tensor], names: Mapping[str, object]) -> Tensor:
    """Tensors of the given names in their order, as one vector.

    Args:
        values: Tensors by name.
        names: Which, in which order.

    Raises:
        KeyError: If one is missing.
    """
    return torch.cat([values[name].reshape(-1) for name in names])
