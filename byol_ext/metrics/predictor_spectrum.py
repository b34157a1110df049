"""What a linear predictor does to the spectrum of the latents: its eigenvalues, its eigenspaces, and its filter.

Sources: `specs/core-ssl.md` sections 5, 6 and 11; arXiv 2302.04817, DirectPred (2102.06810).

Legend: `R` rows (samples), `D` width. A predictor acts on rows, `q = z P`; `S = Z'Z / R` is the second moment of its
inputs, not centred, with eigenvalues `s_j` and eigenvectors `v_j`.

A closed form is a function of `S`: it shares the eigenvectors, and `v_j' P v_j = g(s_j)`. How near a trained predictor
comes to that is `commutator` and `alignment`; which `g` it has learned is `gain_D`, held against theory by
`filter_fit`. Everything is computed in float64 without gradient.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Out
from byol_ext.closed_form import ClosedForm
from byol_ext.metrics.spectrum import ema_distance, linear_predictor_stats
from byol_ext.predictors import Learned
from byol_ext.spectral_filters import ClosedFormKind, filter_response

NULL_SHARE = 1e-10
"""Eigenvalues of `S` below this share of the largest count as zero: nothing is known of what lies along them."""


@dataclass(frozen=True)
class PredictorSpectrum:
    """A predictor in the eigenbasis of the second moment of its inputs, largest eigenvalue first.

    Attributes:
        s_D: eigenvalues of `S`.
        gain_D: `v_j' P v_j`, the predictor's gain on each eigenvector of `S`.
        alignment_D: `|cos(v_j P, v_j)|`: 1 where `v_j` is an eigenvector of `P`, too, 0 also where `v_j P` is zero.
            Eigenvectors of equal eigenvalues are arbitrary, and so is their alignment; `commutator` does not mind.
        eigenvalue_D: eigenvalues of the symmetric part of `P`.
        singular_D: singular values of `P`.
        commutator: `|P S - S P| / (|P| |S|)`, 0 if they share eigenspaces, at most sqrt(2).
    """

    s_D: Tensor
    gain_D: Tensor
    alignment_D: Tensor
    eigenvalue_D: Tensor
    singular_D: Tensor
    commutator: float

    @property
    def seen_D(self) -> Tensor:
        """Which eigenvectors of `S` have an eigenvalue that is not zero."""
        return self.s_D > NULL_SHARE * self.s_D[0].clamp_min(torch.finfo(torch.float64).tiny)

    def summary(self) -> dict[str, float]:
        """Flat numbers.

        Returns:
            `alignment` (mean over the eigenvectors that occur, weighted by eigenvalue), `commutator`,
            `filter_exponent` (the slope `a` of `gain ~ s^a` in logarithms, DirectPred's theory says 1/2; NaN with fewer
            than two positive gains), and of `P` divided by its largest singular value: `binary_error` (mean distance of
            the singular values from {0, 1}: 0 for a projection) and `polar_distance` (root mean square distance
            from 1: from the nearest orthogonal matrix).
        """
        weight_D = torch.where(self.seen_D, self.s_D, 0.0)
        total = float(weight_D.sum())
        unit_D = self.singular_D / self.singular_D[0] if float(self.singular_D[0]) > 0 else self.singular_D
        return {
            "alignment": float((weight_D * self.alignment_D).sum()) / total if total > 0 else math.nan,
            "commutator": self.commutator,
            "filter_exponent": self._exponent(),
            "binary_error": float(torch.minimum(unit_D, 1.0 - unit_D).mean()),
            "polar_distance": float((unit_D - 1.0).square().mean().sqrt()),
        }

    def _exponent(self) -> float:
        usable_D = self.seen_D & (self.gain_D > 0)
        if int(usable_D.sum()) < 2:
            return math.nan
        x, y = self.s_D[usable_D].log(), self.gain_D[usable_D].log()
        x = x - x.mean()
        spread = float(x.square().sum())
        return float((x * y).sum()) / spread if spread > 1e-12 else math.nan


@dataclass(frozen=True)
class FilterFit:
    """The best `gain = scale * g(s) + ridge` for a filter `g` of theory.

    Attributes:
        scale: factor of `g`.
        ridge: constant.
        r2: explained share of the variance of the gains over eigenvectors; 1 if theory says it all, and where the
            gains do not vary.
    """

    scale: float
    ridge: float
    r2: float


@torch.no_grad()
def predictor_spectrum(p_DD: Tensor, *, z_RD: Tensor | None = None, s_DD: Tensor | None = None) -> PredictorSpectrum:
    """Look at a predictor in the eigenbasis of its inputs.

    Args:
        p_DD: matrix of the predictor, `q = z P`, as of `linear_matrix`.
        z_RD: its inputs, or
        s_DD: their second moment.

    Raises:
        ValueError: unless exactly one of `z_RD` and `s_DD` is given, for shapes that do not fit, or values that are
            not finite.

    >>> z = torch.randn(64, 3) * torch.tensor([4.0, 2.0, 1.0])
    >>> s = z.T @ z / 64
    >>> round(predictor_spectrum(s @ s, z_RD=z).summary()["filter_exponent"], 3)
    2.0
    """
    if (z_RD is None) == (s_DD is None):
        raise ValueError("give either the inputs z_RD or their second moment s_DD")
    p = p_DD.detach().double()
    if z_RD is not None:
        z = z_RD.detach().double().reshape(-1, z_RD.shape[-1])
        s_DD = z.mT @ z / max(len(z), 1)
    assert s_DD is not None
    s = s_DD.detach().double()
    if p.ndim != 2 or p.shape[0] != p.shape[1] or s.shape != p.shape:
        raise ValueError(f"predictor {tuple(p.shape)}, second moment {tuple(s.shape)}: expected two equal squares")
    if not bool(torch.isfinite(p).all() and torch.isfinite(s).all()):
        raise ValueError("predictor or inputs hold NaN or Inf")
    p, s = p.cpu(), s.cpu()
    s_D, basis_DD = (x.flip(-1) for x in torch.linalg.eigh(s))
    moved_DD = basis_DD.mT @ p
    gain_D = (moved_DD * basis_DD.mT).sum(1)
    norms = float(p.norm() * s.norm())
    return PredictorSpectrum(
        s_D=s_D.clamp_min(0.0),
        gain_D=gain_D,
        alignment_D=F.normalize(moved_DD, dim=1).mul(basis_DD.mT).sum(1).abs(),
        eigenvalue_D=torch.linalg.eigvalsh((p + p.mT) / 2).flip(0),
        singular_D=torch.linalg.svdvals(p),
        commutator=float((p @ s - s @ p).norm()) / norms if norms > 0 else 0.0,
    )


@torch.no_grad()
def filter_fit(spectrum: PredictorSpectrum, kind: ClosedFormKind) -> FilterFit:
    """Hold the gains of a predictor against the filter of a closed form, up to scale and ridge.

    Args:
        spectrum: the predictor.
        kind: the closed form, such as `byol_ext.spectral_filters.Power(0.5)`.

    >>> from byol_ext.spectral_filters import Power
    >>> s = torch.diag(torch.tensor([4.0, 1.0, 0.25]))
    >>> fit = filter_fit(predictor_spectrum(3 * s.sqrt() + 2 * torch.eye(3), s_DD=s), Power(0.5, relative=False))
    >>> round(fit.scale, 6), round(fit.ridge, 6), round(fit.r2, 6)
    (3.0, 2.0, 1.0)
    """
    g_D = filter_response(kind, spectrum.s_D)
    x, y = g_D - g_D.mean(), spectrum.gain_D - spectrum.gain_D.mean()
    spread, varied = float(x.square().sum()), float(y.square().sum())
    # Below rounding a filter or a gain is constant: nothing to divide by, and no slope to be found.
    floor = 1e-24 * len(g_D)
    mean_gain = float(spectrum.gain_D.mean())
    if varied <= floor * float(spectrum.gain_D.abs().max()) ** 2:
        return FilterFit(0.0, mean_gain, 1.0)
    if spread <= floor * float(g_D.abs().max()) ** 2:
        return FilterFit(0.0, mean_gain, 0.0)
    scale = float((x * y).sum()) / spread
    r2 = 1.0 - float((y - scale * x).square().sum()) / varied
    return FilterFit(scale, mean_gain - scale * float(g_D.mean()), r2)


def linear_matrix(predictor: nn.Module) -> Tensor | None:
    """The matrix `P [D, D]` of `q = z P`, detached; `None` for a predictor that is not linear and square.

    Args:
        predictor: `byol_ext.predictors.linear_predictor`'s, a `ClosedForm`, or an `nn.Linear` (its bias is left out).
    """
    if isinstance(predictor, ClosedForm):
        return predictor.matrix.detach()
    layer = predictor.net if isinstance(predictor, Learned) else predictor
    if isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
        return layer.weight.detach().mT
    return None


class PredictorMonitor:
    """A `Monitor` of `byol_ext.training.fit` for `Bootstrap`: predictions, linear predictors, distance of the target.

    Args:
        max_rows: rows used of each latent, the first ones.

    The values, each where there is something to measure:
    - `predictor/{edge}/cosine`: mean cos(q, target) of an edge without alignment, over all rows, whatever its mask;
    - `predictor/{name}/...` of a linear predictor: `asymmetry`, `idempotence_error`, `stable_rank` and
      `PredictorSpectrum.summary` on the online latents of the step;
    - `ema/distance`: `|theta - xi| / |theta|` of online and averaged branches.
    """

    def __init__(self, *, max_rows: int = 4096) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows = {max_rows}: expected at least 1")
        self.max_rows = max_rows

    def __call__(self, model: nn.Module, out: Out, step: int) -> dict[str, float]:
        """Measure.

        Args:
            model: the `Bootstrap`.
            out: result of its last forward.
            step: optimiser steps done, that forward's included.

        Raises:
            TypeError: for another model.
        """
        if not isinstance(model, Bootstrap):
            raise TypeError(f"PredictorMonitor watches a Bootstrap, got {type(model).__name__}")
        values: dict[str, float] = {}
        for edge in model.edges(max(step - 1, 0)):
            q = out.predictions.get((edge.src, edge.predictor))
            if q is not None and edge.align is None and edge.dst in out.target:
                q_RD, target_RD = self._rows(q), self._rows(out.target[edge.dst].z)
                values[f"predictor/{edge.name}/cosine"] = float(F.cosine_similarity(q_RD, target_RD, dim=1).mean())
        for name, predictor in model.predictors.items():
            inputs = [self._rows(out.online[view].z) for view, used in out.predictions if used == name]
            matrix = linear_matrix(predictor)
            if matrix is not None and inputs:
                found = {f"predictor/{name}/{key}": value for key, value in _measure(matrix, torch.cat(inputs)).items()}
                values |= found
        if model.target is not None and model.target.ema is not None:
            values["ema/distance"] = ema_distance(online=model.branches, target=model.target.ema.module)
        return values

    def _rows(self, x: Tensor) -> Tensor:
        return x.detach().reshape(-1, x.shape[-1])[: self.max_rows].double()


def _measure(p_DD: Tensor, z_RD: Tensor) -> dict[str, float]:
    """All numbers of a linear predictor; none where a value is not finite."""
    if not bool(torch.isfinite(p_DD).all() and torch.isfinite(z_RD).all()):
        return {}
    return linear_predictor_stats(p_DD) | predictor_spectrum(p_DD, z_RD=z_RD).summary()


class GradientNorms:
    """Gradient norms of parts of the model, a `Monitor` of `byol_ext.training.fit`.

    The loop clears gradients before monitors run, so the norms are taken at the optimiser step, after clipping; that
    of everything before clipping is the loop's `grad_norm`. A skipped step keeps the values of the one before.

    Args:
        parts: name -> prefix of the names of parameters; `None`: `online` and `predictor` of a `Bootstrap`.

    >>> model, norms = nn.Linear(2, 1, bias=False), GradientNorms({"all": ""})
    >>> optimizer = norms.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> model(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> optimizer.step()
    >>> norms(model, Out(torch.zeros(())), 1)
    {'grad_norm/all': 5.0}
    """

    def __init__(self, parts: dict[str, str] | None = None) -> None:
        self.parts = {"online": "branches.", "predictor": "predictors."} if parts is None else dict(parts)
        self._norms: dict[str, Tensor] = {}

    def watch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Read the gradients at each step of an optimiser; to use in `fit(..., optimizer=)`, which builds it.

        Args:
            model: the model whose parameters it steps.
            optimizer: the optimiser, not yet prepared.

        Returns:
            The same optimiser.
        """
        members = {
            part: [p for name, p in model.named_parameters() if name.startswith(prefix) and p.requires_grad]
            for part, prefix in self.parts.items()
        }

        def read(stepped: torch.optim.Optimizer, args: object, kwargs: object) -> None:
            for part, parameters in members.items():
                grads = [p.grad for p in parameters if p.grad is not None]
                self._norms[part] = torch.nn.utils.get_total_norm(grads)

        optimizer.register_step_pre_hook(read)
        return optimizer

    def __call__(self, model: nn.Module, out: Out, step: int) -> dict[str, float]:
        """`grad_norm/{part}` of the last optimiser step."""
        return {f"grad_norm/{part}": float(norm) for part, norm in self._norms.items()}
