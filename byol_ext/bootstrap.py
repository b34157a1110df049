"""The bootstrapped-latent core: a method is a graph on views.

Each view is encoded by an online :class:`Branch`; each :class:`Edge` says "from the online latent of this view, predict
the target latent of that view"; the predictor is the part of the online network that has no copy in the target; the
:class:`Target` is the only place where a stop-gradient exists; losses are pure functions. :class:`Bootstrap` runs the
graph and knows no method name.

Order of a step: ``views -> online -> predictors -> target -> loss -> backward -> clip -> optimiser ->
after_step(step)``; a skipped optimiser step skips ``after_step``.

Legend: ``B`` batch, ``T`` time, ``K`` horizon, ``D`` width; ``y`` representation, ``z`` projection, ``q`` prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from byol_ext.ema import EMA
from byol_ext.graph import Edge, Encoded, Latent, Out, SetTerm, Windowed, ends, joined, like_rows, observe, rows_of
from byol_ext.heads import WindowBatchNorm2d, batch_norms
from byol_ext.losses.pair import cosine_distance
from byol_ext.predictors import Ctx, Prediction, Predictor
from byol_ext.schedules import at
from byol_ext.target import Branch, Target

Views = Mapping[str, Any]
WindowNorm = tuple[WindowBatchNorm2d, Callable[[Any], Tensor]]
PairLoss = Callable[..., Tensor]

__all__ = [
    "EMA",
    "Bootstrap",
    "Branch",
    "Ctx",
    "Edge",
    "Encoded",
    "Latent",
    "Out",
    "Prediction",
    "Predictor",
    "SetTerm",
    "Target",
]


class Bootstrap(nn.Module):
    """Runs a graph of edges and set terms over views.

    Args:
        branches: Online branches by name.
        views: Branch of each view.
        target: Target network, or ``None`` when no edge exists.
        predictors: Predictors by name.
        plan: Edges, or a function from the step to edges (ViDiDi's alternating schedule).
        pair: Pair loss ``(q=, target=) -> [...]``.
        set_terms: Losses that mix samples.
        view_batching: ``separate`` runs each view through its branch alone, as BYOL's reference does, so BatchNorm
            statistics are per view; ``concat`` runs the views of a branch through encoder and projector in one batch.

    Raises:
        ValueError: If a name is unknown, or an edge exists without a target.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        views: Mapping[str, str],
        *,
        target: Target | None = None,
        predictors: Mapping[str, Predictor] | None = None,
        plan: Sequence[Edge] | Callable[[int], Sequence[Edge]] = (),
        pair: PairLoss = cosine_distance,
        set_terms: Sequence[SetTerm] = (),
        view_batching: Literal["separate", "concat"] = "separate",
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.views = dict(views)
        self.target = target
        self.predictors = nn.ModuleDict(predictors or {})
        self.plan = plan
        self.pair = pair
        self.set_terms = nn.ModuleList(set_terms)
        self.view_batching = view_batching
        self._seen: set[tuple[str, str, str | None, str]] = set()
        unknown = set(self.views.values()) - set(branches)
        if unknown:
            raise ValueError(f"views name the branches {sorted(unknown)}; known are {sorted(branches)}")
        if view_batching == "concat" and target is not None and target.source == "self":
            raise ValueError("view_batching='concat' does not go with a target that is the online network itself")
        self.edges(0)

    def _check(self, edges: Sequence[Edge]) -> None:
        names = [edge.name for edge in edges] + [term.name for term in self._terms()]
        if len(names) != len(set(names)):
            raise ValueError(f"edges and set terms share a name: {sorted(names)}; give edges with equal ends a label")
        for edge in edges:
            for view in (edge.src, edge.dst):
                if view not in self.views:
                    raise ValueError(f"edge {edge.name} names the view {view!r}; known are {sorted(self.views)}")
            if edge.predictor is not None and edge.predictor not in self.predictors:
                known = sorted(self.predictors)
                raise ValueError(f"edge {edge.name} names the predictor {edge.predictor!r}; known are {known}")
            if self.target is None:
                raise ValueError(f"edge {edge.name} needs a target network")

    def edges(self, step: int) -> Sequence[Edge]:
        """Edges of a step, checked when they first appear.

        Raises:
            ValueError: If a name is unknown or doubled, or the step has neither edges nor set terms.
        """
        edges = self.plan(step) if callable(self.plan) else self.plan
        keys = {(edge.src, edge.dst, edge.predictor, edge.name) for edge in edges}
        if len(keys) != len(edges) or not keys <= self._seen:
            self._check(edges)
            self._seen |= keys
        if not edges and not len(self.set_terms):
            raise ValueError(f"step {step} has neither edges nor set terms: there is nothing to learn")
        return edges

    def forward(self, views: Views, ctx: Ctx | None = None, step: int = 0) -> Out:
        """Loss of a batch.

        Args:
            views: Input of each view.
            ctx: Masks and side information.
            step: Index of the optimiser step, from 0; schedules and ``plan`` read it.

        Returns:
            :class:`Out`.
        """
        return self.objective(self.encode(views, step), ctx, step)

    def encode(self, views: Views, step: int = 0, *, target: bool = True) -> Encoded:
        """Representations that the step's edges and set terms need; each view runs once per network.

        Args:
            views: Input of each view.
            step: Index of the optimiser step.
            target: Whether the target network runs too.

        Raises:
            KeyError: If a needed view is missing.
        """
        online_names, target_names = self._needed(step)
        missing = sorted((online_names | target_names) - views.keys())
        if missing:
            raise KeyError(f"views {missing} are missing from the batch; it has {sorted(views)}")
        online = self._run(views, online_names, lambda name, x, view: self._branch(name).encode(x))
        targets: dict[str, Tensor] = {}
        if self.target is not None and target:
            encode = self.target.encode
            targets = self._run(
                views,
                target_names,
                lambda name, x, view: encode(name, x, online_y=online.get(view) if view else None),
            )
        return Encoded(online, targets)

    def objective(self, encoded: Encoded, ctx: Ctx | None = None, step: int = 0) -> Out:
        """Projectors, predictors and losses on representations: the second half of :meth:`forward`.

        Args:
            encoded: Result of :meth:`encode`, possibly of several micro-batches put together.
            ctx: Masks and side information, of the same rows.
            step: Index of the optimiser step.
        """
        ctx = ctx if ctx is not None else Ctx()
        edges = self.edges(step)
        out = Out(loss=next(iter(encoded.online.values())).new_zeros((), dtype=torch.float32))
        z = self._run(encoded.online, set(encoded.online), lambda name, y, view: self._branch(name).projector(y))
        out.online = {view: Latent(y, z[view]) for view, y in encoded.online.items()}
        out.target = self._targets(encoded.target, out.online)
        observe(self.predictors, edges, out, ctx)
        for edge in edges:
            self._add_edge(edge, out, ctx, step)
        for term in self._terms():
            self._add_set_term(term, out, ctx, step)
        return out

    def embed(self, views: Views, ctx: Ctx | None = None, step: int = 0) -> dict[str, dict[str, Tensor]]:
        """``y``, ``z`` and each view's prediction ``q`` for evaluation; only the online network runs.

        Args:
            views: Input of some of the views.
            ctx: Side information for the predictors.
            step: Step whose edges say which predictor belongs to a view.

        Returns:
            By view, ``{"y": ..., "z": ..., "q": ...}``; ``q`` only where an edge starts at the view.
        """
        ctx = ctx if ctx is not None else Ctx()
        predictor_of = {edge.src: edge.predictor for edge in self.edges(step)}
        result: dict[str, dict[str, Tensor]] = {}
        for view, x in views.items():
            y, z = self._branch(self.views[view])(x)
            result[view] = {"y": y, "z": z}
            if view in predictor_of:
                result[view]["q"] = self._predict(predictor_of[view], z, ctx).q
        return result

    def after_step(self, step: int) -> dict[str, float]:
        """Commit predictors and learnable scales, then move the target; call after each optimiser step.

        Args:
            step: Index of the optimiser step that was taken.

        Returns:
            Values to log: ``ema/tau``.
        """
        for predictor in self.predictors.values():
            cast(Predictor, predictor).commit()
        for term in self._terms():
            term.commit()
        tau = self.target.update(step) if self.target is not None else None
        return {} if tau is None else {"ema/tau": tau}

    @property
    def couples_samples(self) -> bool:
        """Whether a sample's loss depends on the other samples of its batch; naive accumulation is inexact then."""
        return bool(self.coupling_reasons())

    @property
    def encoder_couples_samples(self) -> bool:
        """Whether an *encoder* couples samples; cached accumulation is inexact then too."""
        return any(batch_norms(branch.encoder) for name in self.branches for branch in self._copies(name))

    def coupling_reasons(self) -> list[str]:
        """What couples samples in the present training mode: BatchNorm layers, set terms, predictors."""
        reasons = [f"branches.{name}" for name in batch_norms(self.branches)]
        if self.target is not None:
            reasons += [f"target.{name}" for name in batch_norms(self.target)]
        reasons += [f"predictors.{name}" for name, p in self.predictors.items() if cast(Predictor, p).couples_samples]
        return reasons + [f"set_terms.{term.name}" for term in self._terms() if term.couples]

    def begin_window(self, micro_views: Sequence[Views], step: int = 0) -> None:
        """Give windowed input norms the statistics of all micro-batches of an accumulation window.

        Args:
            micro_views: Views of each micro-batch.
            step: Index of the optimiser step: only views that it encodes count.
        """
        for needed, network in zip(self._needed(step), (self._online_branch, self._target_branch), strict=True):
            for name in self.branches:
                norm = _window_norm(network(name))
                if norm is None:
                    continue
                of_branch = [view for view in self._ordered(needed) if self.views[view] == name]
                groups = {view: [view] for view in of_branch} if self._separate else {name: of_branch}
                for key, members in groups.items():
                    inputs = [views[view] for views in micro_views for view in members if view in views]
                    if inputs:
                        norm[0].begin_window([norm[1](x) for x in inputs], view=key)

    def end_window(self) -> None:
        """Forget the window's statistics."""
        for name in self.branches:
            for norm, _ in self._windowed(name):
                norm.end_window()

    @property
    def _separate(self) -> bool:
        return self.view_batching == "separate"

    def _terms(self) -> list[SetTerm]:
        return [cast(SetTerm, term) for term in self.set_terms]

    def _branch(self, name: str) -> Branch:
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def _online_branch(self, name: str) -> Branch | None:
        return self._branch(name)

    def _target_branch(self, name: str) -> Branch | None:
        return self.target.branch(name) if self.target is not None else None

    def _copies(self, name: str) -> list[Branch]:
        """A branch and its target copy."""
        return [branch for branch in (self._branch(name), self._target_branch(name)) if branch is not None]

    def _windowed(self, name: str) -> list[WindowNorm]:
        """Input norms of a branch and of its target copy."""
        return [norm for branch in self._copies(name) if (norm := _window_norm(branch)) is not None]

    def _ordered(self, names: set[str]) -> list[str]:
        return [view for view in self.views if view in names]

    def _needed(self, step: int) -> tuple[set[str], set[str]]:
        edges = self.edges(step)
        read = [(view, on) for term in self._terms() for view, on in zip(term.views, term.on, strict=True)]
        online = {edge.src for edge in edges} | {view for view, on in read if on != "target"}
        target = {edge.dst for edge in edges} | {view for view, on in read if on == "target"}
        if self.target is not None and self.target.source == "self":
            online |= target
        return online, target

    def _run(
        self, views: Views, names: set[str], encode: Callable[[str, Any, str | None], Tensor]
    ) -> dict[str, Tensor]:
        """Encode the named views in the order of ``self.views``, each alone or all of a branch together."""
        ordered = self._ordered(names)
        result: dict[str, Tensor] = {}
        if self._separate:
            for view in ordered:
                self._select_window(self.views[view], view)
                result[view] = encode(self.views[view], views[view], view)
            return result
        for name in dict.fromkeys(self.views[view] for view in ordered):
            members = [view for view in ordered if self.views[view] == name]
            self._select_window(name, name)
            inputs = [views[view] for view in members]
            parts = encode(name, joined(inputs), None).split([rows_of(x) for x in inputs])
            result |= dict(zip(members, parts, strict=True))
        return result

    def _targets(self, encoded: Mapping[str, Tensor], online: Mapping[str, Latent]) -> dict[str, Latent]:
        """Target latents of representations."""
        if self.target is None:
            return {}
        project = self.target.project

        def projection(name: str, y: Tensor, view: str | None) -> Tensor:
            own = online[view].z if view is not None and view in online else None
            return project(name, y, online_z=own).z

        z = self._run(encoded, set(encoded), projection)
        return {view: Latent(y, z[view]) for view, y in encoded.items()}

    def _select_window(self, name: str, key: str) -> None:
        for norm, _ in self._windowed(name):
            norm.select_window(key)

    def _predict(self, name: str | None, z: Tensor, ctx: Ctx) -> Prediction:
        if name is None:
            return Prediction(z, {})
        return cast(Predictor, self.predictors[name])(z, ctx)

    def _prediction(self, out: Out, view: str, predictor: str | None, ctx: Ctx) -> Tensor:
        """The prediction of a view, computed once; its auxiliary losses join the total then."""
        key = (view, predictor)
        if key not in out.predictions:
            prediction = self._predict(predictor, out.online[view].z, ctx)
            out.predictions[key] = prediction.q
            out.inner[key] = prediction.inner
            for name, value in prediction.aux.items():
                mean = value.float().mean()
                out.loss = out.loss + mean
                out.terms[f"{view}/{predictor}/{name}"] = mean.detach()
        return out.predictions[key]

    def _latent(self, out: Out, view: str, on: str, predictor: str | None, ctx: Ctx) -> Tensor:
        if on == "q":
            return self._prediction(out, view, predictor, ctx)
        latent = out.target[view] if on == "target" else out.online[view]
        return latent.y if on == "y" else latent.z

    def _add_edge(self, edge: Edge, out: Out, ctx: Ctx, step: int) -> None:
        q = self._prediction(out, edge.src, edge.predictor, ctx)
        _, target, weights = ends(edge, out, ctx)
        elements = self.pair(q=q, target=target)
        for weight in weights:
            elements = elements * like_rows(weight, elements, edge.name)
        mean = elements.mean()
        out.elements[edge.name] = elements
        out.terms[edge.name] = mean.detach()
        out.loss = out.loss + at(edge.weight, step) * mean

    def _add_set_term(self, term: SetTerm, out: Out, ctx: Ctx, step: int) -> None:
        latents = [
            self._latent(out, view, on, predictor, ctx)
            for view, on, predictor in zip(term.views, term.on, term.predictor, strict=True)
        ]
        loss, parts = term(latents, ctx)
        out.terms[term.name] = loss.detach()
        out.terms |= {f"{term.name}/{name}": value for name, value in parts.items()}
        out.loss = out.loss + at(term.weight, step) * loss


def _window_norm(branch: Branch | None) -> WindowNorm | None:
    """The input norm of a branch's encoder, and what it sees of an input."""
    encoder = branch.encoder if branch is not None else None
    if not isinstance(encoder, Windowed) or encoder.input_norm is None:
        return None
    return encoder.input_norm, encoder.norm_input
