"""Closed forms of a linear predictor: a matrix ``P`` from second moments of latents, and what it does to a spectrum.

``q = z P`` (rows are samples). ``S = Z'Z / b`` is the second moment of the online latents ``Z``, ``X = Z'T / b`` their
cross moment with the target latents ``T``. Where ``T`` equals ``Z`` every kind is a function ``g`` of the eigenvalues
of ``S`` in the eigenbasis of ``S``: :func:`filter_response`, in scalar arithmetic, is the theory that a trained or
computed predictor is held against.

| kind | paper | ``g(l)`` |
|---|---|---|
| :class:`LeastSquares` | prior art (LRP) | 1 where ``l > 0`` |
| :class:`Neumann` | arXiv 2302.04817, 4 | ``2 c l - (c l)^2`` |
| :class:`Visser` | same | ``sqrt(l)``, about ``1 / (eta n)`` at 0 |
| :class:`NewtonSchulz` | same, NS and NS^2 | ``sqrt(l)`` or ``l^(1/4)`` above a knee, linear below |
| :class:`Stiefel` | same | 1 above a knee, linear below, up to scale |
| :class:`Power` | DirectPred 2102.06810, DirectCopy and DirectSet 2110.04947 | ``(l / l_max)^alpha`` |

Legend: ``D`` width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from byol_ext.matrix_roots import newton_schulz, spectral_norm, visser, visser_iteration


class ClosedFormKind(ABC):
    """How a predictor follows from moments of the latents; see the table of the module."""

    @property
    def uses_cross(self) -> bool:
        """Whether :meth:`solve` reads the cross moment with the targets, and not ``S`` alone."""
        return False

    @property
    def differentiable(self) -> bool:
        """Whether gradients through :meth:`solve` are finite when eigenvalues coincide."""
        return True

    @abstractmethod
    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """The predictor ``P [D, D]`` from the second moment and the cross moment (ignored unless ``uses_cross``)."""

    @abstractmethod
    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """Eigenvalues of ``P`` given those of ``S``, when targets equal online latents."""


def filter_response(kind: ClosedFormKind, eigenvalues_D: Tensor) -> Tensor:
    """Eigenvalues of the predictor that a kind makes of a second moment, by scalar theory (before scale and ridge).

    Args:
        kind: The closed form.
        eigenvalues_D: Eigenvalues of ``S``, all of them: some kinds divide by the norm of the whole spectrum.

    Returns:
        ``[D]``, in the order given.

    Raises:
        ValueError: If the eigenvalues are not one list of numbers that are not negative.

    Example:
        >>> filter_response(Power(0.5), torch.tensor([4.0, 1.0, 0.25, 0.0])).tolist()
        [1.0, 0.5, 0.25, 0.0]
    """
    if eigenvalues_D.ndim != 1 or not bool((eigenvalues_D >= 0).all()):
        raise ValueError(f"expected eigenvalues [D] of a second moment, none negative, got {eigenvalues_D}")
    return kind.response(eigenvalues_D)


@dataclass(frozen=True)
class LeastSquares(ClosedFormKind):
    """LRP, the batch's best predictor ``S^-1 X``: ``Z P`` is the projection of the targets on the columns of ``Z``.

    Attributes:
        damping: ``(S + damping * l_max * I)^-1 X`` by Cholesky when positive; 0 takes the pseudo-inverse, which costs
            an eigendecomposition and is exact when there are fewer rows than dimensions, too.
    """

    damping: float = 0.0

    def __post_init__(self) -> None:
        if self.damping < 0:
            raise ValueError(f"damping={self.damping} must not be negative")

    @property
    def uses_cross(self) -> bool:
        """True."""
        return True

    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """``[D, D]``."""
        if self.damping:
            ridge = self.damping * _top(s_DD)
            factor, _ = torch.linalg.cholesky_ex(
                s_DD + ridge * torch.eye(len(s_DD), dtype=s_DD.dtype, device=s_DD.device)
            )
            return torch.cholesky_solve(x_DD, factor)
        if not bool(torch.isfinite(s_DD).all()):
            return torch.full_like(x_DD, torch.nan)
        return torch.linalg.pinv(s_DD, hermitian=True) @ x_DD

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """``l / (l + damping * l_max)``, or 1 on the range."""
        largest = _largest(eigenvalues_D)
        if self.damping:
            return eigenvalues_D / (eigenvalues_D + self.damping * largest)
        return (eigenvalues_D > _cutoff(eigenvalues_D) * largest).to(eigenvalues_D.dtype)


@dataclass(frozen=True)
class Neumann(ClosedFormKind):
    """NE, ``2 c X - c^2 S X``: :class:`LeastSquares` with ``S^-1`` replaced by the first terms of its Neumann series.

    Attributes:
        gain: ``c``. The paper writes ``Z'Z`` without the division by the number of rows ``b``, which is ``gain=b``, and
            says of the latents' normalisation only that it is well chosen. ``None`` takes ``1 / l_max``, so that ``g``
            rises from 0 to 1 over the spectrum, whatever the units of ``z`` (ours).

    Raises:
        ValueError: In :meth:`solve`, if ``c l_max`` is not below 2, where the series diverges.
    """

    gain: float | None = None

    def __post_init__(self) -> None:
        if self.gain is not None and not self.gain > 0:
            raise ValueError(f"gain={self.gain} must be positive")

    @property
    def uses_cross(self) -> bool:
        """True."""
        return True

    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """``[D, D]``."""
        largest = _top(s_DD)
        if self.gain is None:
            return (2.0 * x_DD - s_DD @ x_DD / largest) / largest
        top = self.gain * float(largest)
        if 2.0 <= top < float("inf"):
            raise ValueError(
                f"the Neumann expansion needs gain * largest eigenvalue below 2, got {top:.4g}; normalise the latents, "
                "lower the gain, or leave gain=None, which divides by the largest eigenvalue"
            )
        return 2.0 * self.gain * x_DD - self.gain**2 * s_DD @ x_DD

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """``2 c l - (c l)^2``."""
        scaled_D = eigenvalues_D / _largest(eigenvalues_D) if self.gain is None else self.gain * eigenvalues_D
        return 2.0 * scaled_D - scaled_D.square()


@dataclass(frozen=True)
class Visser(ClosedFormKind):
    """``S^{1/2}`` by Visser's iteration; what it leaves on null directions acts as a ridge.

    Attributes:
        steps: Iterations ("several dozen").
        step_size: ``eta``; the paper does not give it.
        relative: Iterate on ``S / l_max`` and scale the root back, which converges for every ``S`` when ``eta < 1``
            (ours); otherwise on ``S``, and ``eta^2 l_max >= 1`` is an error.
    """

    steps: int = 40
    step_size: float = 0.5
    relative: bool = True

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.step_size > 0 or (self.relative and self.step_size >= 1):
            raise ValueError(
                f"steps={self.steps}, step_size={self.step_size}: expected steps >= 0 and a positive step_size, "
                "below 1 when relative"
            )

    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """``[D, D]``."""
        if not self.relative:
            return visser(s_DD, steps=self.steps, step_size=self.step_size)
        largest = _top(s_DD)
        root_DD = visser_iteration(s_DD / largest, steps=self.steps, step_size=self.step_size)
        return root_DD * largest.sqrt()

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """``(1/2 - u) / eta`` after ``n`` times ``u <- u^2 + 1/4 - eta^2 l`` from 0."""
        largest = _largest(eigenvalues_D) if self.relative else torch.ones_like(eigenvalues_D[0])
        u_D = torch.zeros_like(eigenvalues_D)
        for _ in range(self.steps):
            u_D = u_D.square() + 0.25 - self.step_size**2 * eigenvalues_D / largest
        return (0.5 - u_D) / self.step_size * largest.sqrt()


@dataclass(frozen=True)
class NewtonSchulz(ClosedFormKind):
    """NS, ``S^{1/2}``, or with ``times=2`` NS^2, ``S^{1/4}``.

    Attributes:
        steps: Iterations of each root (paper: 9 for NS, 7 for NS^2).
        times: Roots taken one after the other.
    """

    steps: int = 9
    times: int = 1

    def __post_init__(self) -> None:
        if self.steps < 0 or self.times < 1:
            raise ValueError(f"steps={self.steps}, times={self.times}: expected at least 0 and at least 1")

    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """``[D, D]``."""
        for _ in range(self.times):
            s_DD = newton_schulz(s_DD, steps=self.steps).root
        return s_DD

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """``sqrt(l)`` above ``1.5^(-2n)`` of the Frobenius norm, ``1.5^n l`` over the root of that norm below."""
        for _ in range(self.times):
            eigenvalues_D = _newton_schulz_scalars(eigenvalues_D, self.steps)[0]
        return eigenvalues_D


@dataclass(frozen=True)
class Stiefel(ClosedFormKind):
    """``B S' / |B|_F`` with ``B`` about ``(S'S)^{-1/2}`` by Newton-Schulz: a truncated polar factor of ``S``.

    The exact polar factor of a full-rank ``S`` is the identity: the method is its truncation, and more steps undo it.

    Attributes:
        steps: Iterations (paper: 9).
    """

    steps: int = 9

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} must not be negative")

    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """``[D, D]``."""
        # Only the ratio of B to its norm counts, so S is scaled first: S'S would leave float32's range sooner than S.
        unit_DD = s_DD / s_DD.norm().clamp_min(torch.finfo(s_DD.dtype).tiny)
        inverse_DD = newton_schulz(unit_DD.mT @ unit_DD, steps=self.steps).inverse
        return inverse_DD @ s_DD.mT / inverse_DD.norm()

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """``b(l^2) l / |b|``."""
        inverse_D = _newton_schulz_scalars(eigenvalues_D.square(), self.steps)[1]
        return inverse_D * eigenvalues_D / inverse_D.norm()


@dataclass(frozen=True)
class Power(ClosedFormKind):
    """``S^alpha``: DirectPred (1/2), DirectCopy (1), DirectSet (any); all but 1 cost an eigendecomposition.

    Attributes:
        alpha: Exponent.
        relative: Divide the eigenvalues by the largest first (DirectPred, and DirectCopy as published; DirectCopy's
            code does not).
        floor: Least eigenvalue of the result.
    """

    alpha: float = 0.5
    relative: bool = True
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not self.alpha > 0 or self.floor < 0:
            raise ValueError(f"alpha={self.alpha}, floor={self.floor}: expected a positive one, and none below 0")

    @property
    def differentiable(self) -> bool:
        """Only without eigendecomposition."""
        return self._is_copy

    @property
    def _is_copy(self) -> bool:
        return self.alpha == 1.0 and self.floor == 0.0

    def solve(self, s_DD: Tensor, x_DD: Tensor) -> Tensor:
        """``[D, D]``."""
        if self._is_copy:
            return s_DD / _top(s_DD) if self.relative else s_DD
        if not bool(torch.isfinite(s_DD).all()):
            return torch.full_like(s_DD, torch.nan)
        eigenvalues_D, basis_DD = torch.linalg.eigh(s_DD)
        return (basis_DD * self.response(eigenvalues_D.clamp_min(0))) @ basis_DD.mT

    def response(self, eigenvalues_D: Tensor) -> Tensor:
        """``max((l / l_max)^alpha, floor)``."""
        if self.relative:
            eigenvalues_D = eigenvalues_D / _largest(eigenvalues_D)
        return eigenvalues_D.pow(self.alpha).clamp_min(self.floor)


def _largest(eigenvalues_D: Tensor) -> Tensor:
    """Largest eigenvalue, never small enough to divide a zero matrix into NaN."""
    return eigenvalues_D.amax().clamp_min(torch.finfo(eigenvalues_D.dtype).tiny * 2**20)


def _top(s_DD: Tensor) -> Tensor:
    """:func:`_largest` of a matrix."""
    return spectral_norm(s_DD).clamp_min(torch.finfo(s_DD.dtype).tiny * 2**20)


def _cutoff(values: Tensor) -> float:
    """Share of the largest eigenvalue below which one counts as rounding: that of ``torch.linalg.pinv``."""
    return len(values) * torch.finfo(values.dtype).eps


def _newton_schulz_scalars(eigenvalues_D: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Root and inverse root that Newton-Schulz makes of each eigenvalue of a matrix."""
    norm = eigenvalues_D.norm().clamp_min(torch.finfo(eigenvalues_D.dtype).tiny)
    root_D, inverse_D = eigenvalues_D / norm, torch.ones_like(eigenvalues_D)
    for _ in range(steps):
        t_D = (3.0 - root_D * inverse_D) / 2.0
        root_D, inverse_D = root_D * t_D, inverse_D * t_D
    return root_D * norm.sqrt(), inverse_D / norm.sqrt()
