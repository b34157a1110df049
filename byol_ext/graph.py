"""Vocabulary of the graph: latents, edges, set terms and the result of a forward.

Legend: ``B`` batch, ``D`` width; ``y`` representation, ``z`` projection, ``q`` prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.heads import WindowBatchNorm2d
from byol_ext.predictors import Ctx, Fitted
from byol_ext.schedules import Schedule

Align = Callable[[Tensor, Ctx], tuple[Tensor, Tensor | None]]
On = Literal["y", "z", "q", "target"]


class Latent(NamedTuple):
    """What a branch says of a view: representation ``y`` (probes use it) and projection ``z``."""

    y: Tensor
    z: Tensor


@dataclass(frozen=True)
class Edge:
    """From the online latent of ``src``, predict the target latent of ``dst``.

    Attributes:
        src: View whose online latent is read.
        dst: View whose target latent is predicted.
        predictor: Name of the predictor; ``None`` for the identity.
        weight: Weight of the edge's mean loss, a number or a schedule.
        align: Turns target latents into the shape of the prediction: ``(z, ctx) -> (target, validity or None)``.
        mask: Name of a row mask in ``ctx.masks``; without masks every row counts. The mean is over all rows, masked
            ones counting zero, so that micro-batches and ranks add up exactly.
        label: Name of the edge where two have the same ends; default ``src->dst``.
    """

    src: str
    dst: str
    predictor: str | None = None
    weight: float | Schedule = 1.0
    align: Align | None = None
    mask: str | None = None
    label: str | None = None

    @property
    def name(self) -> str:
        """Name of its terms and elements: the label, or ``"src->dst"``."""
        return self.label if self.label is not None else f"{self.src}->{self.dst}"


def horizon(steps: int, *, ends: str = "ends") -> Align:
    """Alignment of BYOL-Explore: the targets of time ``t`` are the latents of ``t + 1 ... t + K``.

    A target is valid when it lies inside the window and no episode ends on the way to it.

    Args:
        steps: Horizon ``K``.
        ends: Name in ``ctx.data`` of ``[B, T]``, true where the step from ``t`` to ``t + 1`` ends an episode; no
            ends when the name is absent.

    Returns:
        ``(z [B, T, D], ctx) -> (targets [B, T, K, D], validity [B, T, K])``.

    Example:
        >>> target, valid = horizon(2)(torch.arange(3.0).reshape(1, 3, 1), Ctx())
        >>> target[0, 0, :, 0].tolist(), valid[0, 1].tolist()
        ([1.0, 2.0], [True, False])
    """

    def align(z_BTD: Tensor, ctx: Ctx) -> tuple[Tensor, Tensor]:
        batch, time = z_BTD.shape[:2]
        inside_TK = _following(torch.ones(1, time, 1, dtype=torch.bool, device=z_BTD.device), steps)[0, ..., 0]
        valid_BTK = inside_TK.expand(batch, -1, -1)
        if ends in ctx.data:
            passed_BT = ctx.data[ends].to(torch.int64).cumsum(1)
            before_BT = passed_BT - ctx.data[ends].to(torch.int64)
            # Ends in t ... t + k - 1 are those passed before t + k, less those passed before t.
            crossed_BTK = _following(before_BT[..., None], steps)[..., 0] != before_BT[:, :, None]
            valid_BTK = valid_BTK & ~crossed_BTK
        return _following(z_BTD, steps), valid_BTK

    return align


def _following(x_BTD: Tensor, steps: int) -> Tensor:
    """The ``steps`` rows after each row, zeros past the end: a view ``[B, T, K, D]`` of one padded copy."""
    return F.pad(x_BTD, (0, 0, 0, steps))[:, 1:].unfold(1, steps, 1).movedim(-1, 2)


def row_mask(name: str | None, ctx: Ctx) -> Tensor | None:
    """A named mask of a step; ``None`` without a name, or when the step has no masks at all.

    Raises:
        KeyError: If the step has masks but not this one.
    """
    if name is None or not ctx.masks:
        return None
    if name not in ctx.masks:
        raise KeyError(f"mask {name!r} is not among the masks of this step: {sorted(ctx.masks)}")
    return ctx.masks[name]


def joined(inputs: Sequence[Any]) -> Any:
    """Inputs of several views as one batch; mappings are put together key by key."""
    if isinstance(inputs[0], Mapping):
        return {key: torch.cat([x[key] for x in inputs]) for key in inputs[0]}
    return torch.cat(tuple(inputs))


def rows_of(x: Any) -> int:
    """Rows of a view's input, a tensor or a mapping of tensors."""
    return len(next(iter(x.values()))) if isinstance(x, Mapping) else len(x)


def like_rows(weight: Tensor, elements: Tensor, edge: str) -> Tensor:
    """A row mask ``[B]`` (or of more leading dims) that multiplies elements ``[B, ...]``.

    Args:
        weight: The mask.
        elements: Elements of an edge.
        edge: Name of the edge, for the message.

    Raises:
        ValueError: If the leading dims differ.
    """
    if weight.shape != elements.shape[: weight.ndim]:
        raise ValueError(
            f"edge {edge}: a mask of shape {tuple(weight.shape)} does not fit elements {tuple(elements.shape)}"
        )
    return weight.to(elements.dtype).reshape(*weight.shape, *[1] * (elements.ndim - weight.ndim))


@runtime_checkable
class Committed(Protocol):
    """Something with state to settle after the optimiser step."""

    def commit(self) -> None:
        """Settle it."""


@runtime_checkable
class Windowed(Protocol):
    """An encoder with an input norm that can take its statistics over an accumulation window."""

    input_norm: WindowBatchNorm2d | None

    def norm_input(self, x: Any, /) -> Tensor:
        """What the input norm sees of an encoder input."""


class SetTerm(nn.Module):
    """A loss that mixes samples: a pure function of the projections of some views.

    Args:
        name: Name of the term.
        views: Views it reads.
        fn: ``stacked`` false: called with one keyword a view, in the order of ``keys``; true: called with one tensor
            ``[V, B, D]``. Returns a scalar and parts to log.
        weight: Weight, a number or a schedule.
        keys: Keyword names of the views, such as ``("a", "b")``; ``None`` stacks the views.
        on: Which latent: ``y``, ``z``, ``q`` (by the predictor named ``predictor``) or ``target`` (the target's
            projection); one for all views, or one a view.
        predictor: Predictors for ``q``, one a view; ``None`` for the identity.
        mask: Name of a row mask in ``ctx.masks``, passed to ``fn`` as ``mask``.
        scale: Module whose output (keyword arguments) is passed to ``fn``: a learnable temperature.
        data: Names in ``ctx.data`` that are passed to ``fn`` as keyword arguments where present.
        couples: Whether ``fn`` mixes rows. A mean of per-row terms over a fixed number of rows does not, and leaves
            accumulation exact.
    """

    def __init__(
        self,
        name: str,
        views: Sequence[str],
        fn: Callable[..., tuple[Tensor, dict[str, Tensor]]],
        *,
        weight: float | Schedule = 1.0,
        keys: Sequence[str] | None = None,
        on: On | Sequence[On] = "z",
        predictor: Sequence[str | None] = (),
        mask: str | None = None,
        scale: nn.Module | None = None,
        data: Sequence[str] = (),
        couples: bool = True,
    ) -> None:
        super().__init__()
        if keys is not None and len(keys) != len(views):
            raise ValueError(f"keys={tuple(keys)} must name each of views={tuple(views)}")
        self.on: tuple[On, ...] = (on,) * len(views) if isinstance(on, str) else tuple(on)
        if len(self.on) != len(views):
            raise ValueError(f"on={self.on} must name a latent of each of views={tuple(views)}")
        if "q" in self.on and len(predictor) != len(views):
            raise ValueError(f"on='q' needs one predictor a view, got {tuple(predictor)} for {tuple(views)}")
        self.name, self.views, self.fn, self.weight = name, tuple(views), fn, weight
        self.keys = None if keys is None else tuple(keys)
        self.predictor = tuple(predictor) if predictor else (None,) * len(views)
        self.mask, self.data, self.couples = mask, tuple(data), couples
        self.scale = scale

    def forward(self, latents: Sequence[Tensor], ctx: Ctx) -> tuple[Tensor, dict[str, Tensor]]:
        """The unweighted term and its parts."""
        extra: dict[str, Any] = dict(self.scale()) if self.scale is not None else {}
        extra |= {name: ctx.data[name] for name in self.data if name in ctx.data}
        mask = row_mask(self.mask, ctx)
        if mask is not None:
            extra["mask"] = mask
        if self.keys is None:
            return self.fn(torch.stack(tuple(latents)), **extra)
        return self.fn(**dict(zip(self.keys, latents, strict=True)), **extra)

    def commit(self) -> None:
        """Called after the optimiser step."""
        if isinstance(self.scale, Committed):
            self.scale.commit()


class Encoded(NamedTuple):
    """Representations by view: the online network's and the target's."""

    online: dict[str, Tensor]
    target: dict[str, Tensor]


@dataclass
class Out:
    """Result of a forward.

    Attributes:
        loss: Scalar to differentiate.
        terms: Detached scalars by name: each edge, set term and auxiliary loss, unweighted.
        elements: Unreduced edge losses by edge name, with gradient; an intrinsic reward is ``elements[e].detach()``.
        online: Online latents by view.
        target: Target latents by view.
        predictions: Predictions by (source view, predictor).
        inner: What the predictors passed on besides, such as a world model's beliefs, by (source view, predictor).
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)
    online: dict[str, Latent] = field(default_factory=dict)
    target: dict[str, Latent] = field(default_factory=dict)
    predictions: dict[tuple[str, str | None], Tensor] = field(default_factory=dict)
    inner: dict[tuple[str, str | None], Mapping[str, Tensor]] = field(default_factory=dict)


def ends(edge: Edge, out: Out, ctx: Ctx) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What an edge joins: online latents, aligned target latents, and the weights of its rows or elements."""
    target, valid = out.target[edge.dst].z, None
    if edge.align is not None:
        target, valid = edge.align(target, ctx)
    weights = [weight for weight in (valid, row_mask(edge.mask, ctx)) if weight is not None]
    return out.online[edge.src].z, target, weights


def observe(predictors: nn.ModuleDict, edges: Sequence[Edge], out: Out, ctx: Ctx) -> None:
    """Show each :class:`~byol_ext.predictors.Fitted` predictor both ends of its edges, masked rows zero.

    Args:
        predictors: Predictors by name.
        edges: Edges of the step.
        out: Result so far: the latents of both networks.
        ctx: Masks and side information.
    """
    for name, predictor in predictors.items():
        own = [edge for edge in edges if edge.predictor == name]
        if isinstance(predictor, Fitted) and own:
            predictor.observe([_weighted(edge, *ends(edge, out, ctx)) for edge in own])


def _weighted(edge: Edge, z: Tensor, target: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    for weight in weights:
        z, target = z * like_rows(weight, z, edge.name), target * like_rows(weight, target, edge.name)
    return z, target
