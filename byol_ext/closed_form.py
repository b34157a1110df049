"""Closed-form linear predictors in place of a trained one: DirectPred and its relatives.

``P`` is computed from the latents of the step by a :class:`~byol_ext.spectral_filters.ClosedFormKind` and acts as
``q = z P``. Two averages over steps exist in the papers: of ``P`` (arXiv 2302.04817) or of the moments it is computed
from (DirectPred); and two moments at which it changes: before the predictions of the batch that it is computed from, or
after the optimiser step. :class:`ClosedForm` has both as options; its defaults are those of 2302.04817,
:func:`direct_pred` and :func:`direct_copy` have those of the papers that they are named after.

Legend: ``D`` width, ``R`` rows of all edges and ranks, ``M`` moments (second, and cross where the kind reads it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import as_float, full_precision
from byol_ext.matrix_roots import spectral_norm
from byol_ext.predictors import Ctx, Fitted, Prediction
from byol_ext.spectral_filters import ClosedFormKind, Power

Rows = Literal["online", "both"]


class ClosedForm(Fitted):
    """A linear predictor that a formula makes of the latents; its matrix is a buffer, not a parameter.

    ``Bootstrap`` calls :meth:`observe` before the predictions of a step and :meth:`commit` after the optimiser step; a
    skipped step leaves the averages as they were. The first batch initialises them; before it, and so for an untrained
    control, ``P`` is the identity. In evaluation the committed ``P`` acts and nothing is observed.

    Args:
        width: ``D``.
        kind: The formula, such as ``NewtonSchulz()``.
        ridge: ``alpha``: ``P + alpha I``.
        scale: ``spectral`` divides ``P`` by its spectral norm before the ridge is added, which gives ``alpha`` a
            meaning of its own (ours); ``paper`` leaves the formula as it is.
        average: What is averaged over steps: the ``predictor`` (2302.04817) or the ``moments`` (DirectPred).
        decay: Weight of the old value in that average; 0 for none. The paper gives none, .9 is ours; DirectPred has .3.
        acts: ``now``, on the predictions of the batch it is computed from; ``next``, from the next step on, computed in
            :meth:`commit`.
        rows: Rows of the moments. ``online``: the online latents of all edges of the predictor, which for two symmetric
            edges are both views. ``both``: online and target latents, each in the place of the other as well.
        centre: Subtract the mean of the rows first.
        differentiable: Let gradients flow through ``P``; otherwise it is a constant.
        dtype: Least precision of moments, formula and buffers: float32 or float64, whatever autocast says.

    Attributes:
        matrix: ``P`` as committed, ``[D, D]``, ridge included.
        moments: Second and, where the kind reads it, cross moment behind it, ``[M, D, D]``.

    Raises:
        ValueError: If options contradict each other.

    Example:
        >>> from byol_ext.spectral_filters import NewtonSchulz
        >>> predictor = ClosedForm(4, NewtonSchulz(), ridge=0.1)
        >>> z, target = torch.randn(32, 4), torch.randn(32, 4)
        >>> predictor.observe([(z, target)])
        >>> predictor(z, Ctx()).q.shape
        torch.Size([32, 4])
    """

    matrix: Tensor
    moments: Tensor
    initialised: Tensor

    def __init__(
        self,
        width: int,
        kind: ClosedFormKind,
        *,
        ridge: float = 0.0,
        scale: Literal["spectral", "paper"] = "spectral",
        average: Literal["predictor", "moments"] = "predictor",
        decay: float = 0.9,
        acts: Literal["now", "next"] = "now",
        rows: Rows = "online",
        centre: bool = False,
        differentiable: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0 or ridge < 0.0:
            raise ValueError(f"decay={decay}, ridge={ridge}: expected a decay in [0, 1) and a ridge of at least 0")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype}: closed forms need torch.float32 or torch.float64")
        if differentiable and (acts == "next" or not kind.differentiable):
            raise ValueError(
                f"differentiable=True needs acts='now', got {acts!r}, and a kind without eigendecomposition, got {kind}"
            )
        for name, value, known in (
            ("scale", scale, ("spectral", "paper")),
            ("average", average, ("predictor", "moments")),
            ("acts", acts, ("now", "next")),
            ("rows", rows, ("online", "both")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {known}")
        self.kind, self.ridge, self.scale, self.average, self.decay = kind, ridge, scale, average, decay
        self.acts, self.rows, self.centre, self.differentiable, self.dtype = acts, rows, centre, differentiable, dtype
        self.register_buffer("matrix", torch.eye(width, dtype=dtype))
        self.register_buffer("moments", torch.zeros(1 + kind.uses_cross, width, width, dtype=dtype))
        self.register_buffer("initialised", torch.tensor(False))
        self._observed: Tensor | None = None
        self._acting: Tensor | None = None

    @property
    def couples_samples(self) -> bool:
        """In training: the matrix is made of the rows of the batch, now or for the next step."""
        return self.training

    def observe(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Compute the moments of a step, and the predictor if it acts now; nothing in evaluation.

        Args:
            pairs: (online latents, target latents) ``[..., D]`` of each edge.

        Raises:
            ValueError: If latents and targets differ in shape or have another width than the predictor.
        """
        self._observed = self._acting = None
        if not self.training:
            return
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            cross, width = self.kind.uses_cross, len(self.matrix)
            new = latent_moments(pairs, width, cross=cross, rows=self.rows, centre=self.centre, dtype=self.dtype)
            if self.average == "moments":
                new = self._averaged(new, old=self.moments)
            self._observed = new.detach()
            # Without a committed predictor there is none to wait for: the first batch makes it.
            if self.acts == "now" or not self.initialised:
                self._acting = self._predictor(new)

    def forward(self, z: Tensor, ctx: Ctx) -> Prediction:
        """``z P``, ``[..., D] -> [..., D]``, in float32 or wider."""
        acting = self._acting if self.training and self._acting is not None else self.matrix
        return Prediction(_times(z, acting), {})

    @torch.no_grad()
    def commit(self) -> None:
        """Take over the moments and the predictor of the step."""
        if self._observed is None:
            return
        acting = self._acting if self._acting is not None else self._predictor(self._observed)
        self.moments.copy_(self._observed)
        self.matrix.copy_(acting)
        self.initialised.fill_(True)
        self._observed = self._acting = None

    def _predictor(self, observed: Tensor) -> Tensor:
        identity_DD = torch.eye(observed.shape[-1], dtype=observed.dtype, device=observed.device)
        p_DD = _solve(observed, self.kind)
        if self.scale == "spectral":
            p_DD = p_DD / spectral_norm(p_DD).clamp_min(torch.finfo(p_DD.dtype).tiny)
        p_DD = p_DD + self.ridge * identity_DD
        return self._averaged(p_DD, old=self.matrix) if self.average == "predictor" else p_DD

    def _averaged(self, new: Tensor, *, old: Tensor) -> Tensor:
        kept = self.decay * self.initialised.to(new.dtype)
        return kept * old.to(new.dtype) + (1.0 - kept) * new


def latent_moments(
    pairs: Sequence[tuple[Tensor, Tensor]],
    width: int,
    *,
    cross: bool,
    rows: Rows = "online",
    centre: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Second moment ``Z'Z / R`` and cross moment ``Z'T / R`` of the rows of all pairs and ranks.

    Args:
        pairs: (online latents, target latents), each ``[..., D]``.
        width: ``D``.
        cross: Whether to compute the cross moment; targets are not read otherwise, unless ``rows`` says so.
        rows: See :class:`ClosedForm`.
        centre: Subtract the mean of the rows first.
        dtype: Least precision.

    Returns:
        ``[1 or 2, D, D]``.

    Raises:
        ValueError: If a pair's shapes differ, or their width is another.
    """
    for z, target in pairs:
        if z.shape != target.shape or z.shape[-1] != width:
            raise ValueError(
                f"a closed-form predictor of width {width} needs latents and targets of equal shape [..., {width}], "
                f"got {tuple(z.shape)} and {tuple(target.shape)}"
            )
    z_RD = torch.cat([z.reshape(-1, width) for z, _ in pairs])
    t_RD = torch.cat([target.reshape(-1, width) for _, target in pairs]) if cross or rows == "both" else None
    if t_RD is not None and rows == "both":
        z_RD, t_RD = torch.cat([z_RD, t_RD]), torch.cat([t_RD, z_RD])
    return _moments(z_RD, t_RD if cross else None, centre, torch.promote_types(dtype, z_RD.dtype))


@full_precision
def _moments(z_RD: Tensor, t_RD: Tensor | None, centre: bool, dtype: torch.dtype) -> Tensor:
    sides = [gather_rows(side.to(dtype)) for side in (z_RD, t_RD) if side is not None]
    if centre:
        sides = [side - side.mean(0) for side in sides]
    return torch.stack([sides[0].mT @ side for side in sides]) / len(sides[0])


@full_precision
def _solve(observed: Tensor, kind: ClosedFormKind) -> Tensor:
    return kind.solve(observed[0], observed[-1])


@full_precision
def _times(z: Tensor, p_DD: Tensor) -> Tensor:
    z = as_float(z)
    return z @ p_DD.to(z.dtype)


def direct_pred(
    width: int,
    *,
    ridge: float = 0.1,
    decay: float = 0.3,
    alpha: float = 0.5,
    floor: float = 1e-4,
    dtype: torch.dtype = torch.float32,
) -> ClosedForm:
    """DirectPred (arXiv 2102.06810): ``U diag(max((s / s_max)^alpha + ridge, floor)) U'`` of averaged moments.

    It is set after the optimiser step and acts on the next batch, as in the released code. DirectSet(alpha) of
    2110.04947 is this with another ``alpha``.

    Args:
        width: ``D``.
        ridge: ``eps``: .1 (spec: second-hand, early text of the paper); the documented command of the code has .01.
        decay: Weight of the old moments (released code).
        alpha: Exponent.
        floor: Least eigenvalue (released code).
        dtype: Least precision.
    """
    # The floor holds for the sum with the ridge.
    return _direct(width, Power(alpha, floor=max(floor - ridge, 0.0)), ridge, decay, dtype)


def direct_copy(
    width: int,
    *,
    ridge: float = 0.1,
    decay: float = 0.3,
    relative: bool = True,
    dtype: torch.dtype = torch.float32,
) -> ClosedForm:
    """DirectCopy (arXiv 2110.04947): ``C / |C| + ridge I`` of averaged moments ``C``, without eigendecomposition.

    Args:
        width: ``D``.
        ridge: ``eps``; 2302.04817 finds .3 to .9 best.
        decay: Weight of the old moments (DirectPred's).
        relative: Divide by the spectral norm (spec: second-hand); the released code adds the ridge to ``C`` itself.
        dtype: Least precision.
    """
    return _direct(width, Power(1.0, relative=relative), ridge, decay, dtype)


def _direct(width: int, kind: Power, ridge: float, decay: float, dtype: torch.dtype) -> ClosedForm:
    return ClosedForm(width, kind, ridge=ridge, scale="paper", average="moments", decay=decay, acts="next", dtype=dtype)
