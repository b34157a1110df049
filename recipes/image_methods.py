"""The graphs of the image recipe: every method is a configuration of ``Bootstrap``.

Pair methods run over ordered pairs of views whose second is a large one, two-view losses over unordered pairs, the
others over all views, so that two views, multi-crop and many patches need no case of their own.

Legend: ``B`` images, ``V`` views, ``D`` width of the projection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Branch, Edge, Predictor, SetTerm, Target
from byol_ext.closed_form import ClosedForm
from byol_ext.heads import mlp_head
from byol_ext.hypernetwork import GroupPredictor, Hypernetwork
from byol_ext.images.encoders import ImageEncoder, small_cnn, timm_resnet, torchvision_resnet, vit_small, vit_tiny
from byol_ext.losses.pair import negative_cosine, normalized_mse
from byol_ext.losses.sie import SplitProjector
from byol_ext.predictors import linear_predictor, mlp_predictor
from byol_ext.schedules import Schedule, constant, ema_cosine
from byol_ext.spectral_filters import ClosedFormKind, LeastSquares, Neumann, NewtonSchulz, Power, Stiefel, Visser
from byol_ext.training import LARS, TrainConfig, adamw, parameter_groups
from byol_ext.whitening import DecorrelatedBatchNorm
from recipes.image_config import ImageConfig
from recipes.image_data import channels
from recipes.image_method_config import CLOSED_FORMS, EDGE_METHODS, ClosedFormConfig, MethodConfig
from recipes.image_terms import set_terms
from recipes.image_views import large_views, view_names

BRANCH = PREDICTOR = "image"
DIRECT = ("directpred", "directcopy", "directset")
RIDGES = {"neumann": 0.15, "stiefel": 0.3, "ns2": 0.3, "directcopy": 0.3, "directpred": 0.1, "directset": 0.1}
_PREDICTED = ("msb", "ascl", "semppl")
"""Methods with set terms on predictions of target latents."""


def build_encoder(config: ImageConfig) -> ImageEncoder:
    """The encoder of a configuration, freshly initialised.

    Args:
        config: The recipe's configuration.

    Raises:
        ValueError: For an unknown name, or options that the network does not have.
    """
    encoder, inputs = config.encoder, channels(config)
    if encoder.name == "small":
        return small_cnn(in_channels=inputs, channels=encoder.channels, strides=encoder.strides, norm=encoder.norm)
    if encoder.name in ("vit_s", "vit_t"):
        if encoder.norm != "batch":
            raise ValueError(f"encoder.norm={encoder.norm!r} is for networks with BatchNorm; {encoder.name} has none")
        build = vit_small if encoder.name == "vit_s" else vit_tiny
        return build(config.data.size, patch_size=encoder.patch, in_channels=inputs)
    if encoder.norm == "none":
        raise ValueError("encoder.norm='none' is a control of the small encoder")
    library, _, name = encoder.name.rpartition(":")
    if library == "timm":
        return timm_resnet(
            name, stem=encoder.stem, norm=encoder.norm, in_channels=inputs, zero_init_last=encoder.zero_init
        )
    if library:
        raise ValueError(f"encoder.name={encoder.name!r}: expected small, vit_s, vit_t, a ResNet or timm:NAME")
    return torchvision_resnet(
        name, stem=encoder.stem, norm=encoder.norm, in_channels=inputs, zero_init_residual=encoder.zero_init
    )


def build_method(config: ImageConfig, encoder: ImageEncoder, *, steps: int, samples: int | None = None) -> Bootstrap:
    """The trainable graph of a configuration.

    Args:
        config: The recipe's configuration.
        encoder: Network with ``width``, ``[B, C, M, M] -> [B, width]``.
        steps: Optimiser steps of the training, for the decay's schedule.
        samples: Training pictures; PAL's active loop needs to know.

    Raises:
        ValueError: If the options contradict each other.

    Example:
        >>> from recipes.image_config import clutter
        >>> config = clutter()
        >>> model = build_method(config, build_encoder(config), steps=100)
        >>> [edge.name for edge in model.edges(0)]
        ['a->b', 'b->a']
    """
    method = config.method
    width = 0 if method.name == "directclr" else method.projector[-1]
    encoder = _with_feature(encoder, method)
    branches = {BRANCH: Branch(encoder, _projector(method, encoder.width, seed=config.seed))}
    views = view_names(config.augment)
    pairs = [(src, dst) for src in views for dst in large_views(config.augment) if src != dst]
    predictor = _predictor(method, width)
    predictors = {} if predictor is None else {PREDICTOR: predictor}
    name = None if predictor is None else PREDICTOR
    edges: list[Edge] = []
    terms: list[SetTerm] = []
    if method.name not in EDGE_METHODS:
        terms = set_terms(config, pairs, predictor=name, samples=samples)
    elif method.target.stop_gradient:
        edges = [Edge(src, dst, name, weight=_weight(method) / len(pairs)) for src, dst in pairs]
    else:
        terms = [_both_ends_learn(method, src, dst, name, 1 / len(pairs)) for src, dst in pairs]
    return Bootstrap(
        branches,
        dict.fromkeys(views, BRANCH),
        target=_target(method, branches, steps=steps) if edges or _reads_target(terms) else None,
        predictors=predictors,
        plan=edges,
        pair=_pair(method),
        set_terms=terms,
        view_batching=method.view_batching,
    )


def build_optimizer(config: ImageConfig, train: TrainConfig) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """The optimiser over the loop's parameter groups.

    Args:
        config: The recipe's configuration.
        train: Its training part with the learning rate of the whole batch.
    """

    def build(model: nn.Module) -> torch.optim.Optimizer:
        if config.optimizer == "adamw":
            return adamw(model, train, next(model.parameters()).device)
        groups = parameter_groups(
            model,
            train.weight_decay,
            predictor_lr_scale=train.predictor_lr_scale,
            predictor_lr_schedule=train.predictor_lr_schedule,
        )
        if config.optimizer == "lars":
            return LARS(groups, train.lr, momentum=config.momentum)
        return torch.optim.SGD(groups, train.lr, momentum=config.momentum)

    return build


def closed_form(config: ClosedFormConfig, name: str, width: int) -> ClosedForm:
    """The closed-form predictor of a method, with what its paper has where the configuration leaves it open.

    Args:
        config: Options.
        name: One of ``CLOSED_FORMS``.
        width: Width of the projection.

    Raises:
        ValueError: If options contradict each other, or the name is none.
    """
    direct = name in DIRECT
    ridge = RIDGES.get(name, 0.0) if config.ridge is None else config.ridge
    scale, average, acts = config.scale, config.average, config.acts
    return ClosedForm(
        width,
        closed_form_kind(config, name, ridge=ridge),
        ridge=ridge,
        scale=("paper" if direct else "spectral") if scale == "own" else scale,
        average=("moments" if direct else "predictor") if average == "own" else average,
        decay=(0.3 if direct else 0.9) if config.decay is None else config.decay,
        acts=("next" if direct else "now") if acts == "own" else acts,
        rows=config.rows,
        centre=config.centre,
        differentiable=config.differentiable,
        dtype=torch.float64 if config.precision == "float64" else torch.float32,
    )


def closed_form_kind(config: ClosedFormConfig, name: str, *, ridge: float = 0.0) -> ClosedFormKind:
    """The formula of a closed-form method: also what a spectrum is held against.

    Args:
        config: Options.
        name: One of ``CLOSED_FORMS``.
        ridge: What will be added; the floor of the direct ones counts it.

    Raises:
        ValueError: If there is no such method.
    """
    steps = config.steps
    match name:
        case "lrp":
            return LeastSquares(config.damping)
        case "neumann":
            return Neumann(config.gain)
        case "visser":
            return Visser(40 if steps is None else steps, config.step_size)
        case "newton-schulz":
            return NewtonSchulz(9 if steps is None else steps)
        case "ns2":
            return NewtonSchulz(7 if steps is None else steps, times=2)
        case "stiefel":
            return Stiefel(9 if steps is None else steps)
        case "directcopy":
            return Power(1.0)
        case "directpred" | "directset":
            alpha = 0.5 if name == "directpred" else config.alpha
            return Power(alpha, floor=max(config.floor - ridge, 0.0))
    raise ValueError(f"{name!r} is no closed form; known are {', '.join(CLOSED_FORMS)}")


def encoder_passes(model: Bootstrap) -> int:
    """Forward passes of the encoder for each picture of a step, online and target: what methods are compared by.

    Example:
        >>> from recipes.image_config import clutter
        >>> config = clutter()
        >>> encoder_passes(build_method(config, build_encoder(config), steps=1))
        4
    """
    online = {edge.src for edge in model.edges(0)}
    target = {edge.dst for edge in model.edges(0)}
    for term in model.set_terms:
        assert isinstance(term, SetTerm)
        for view, on in zip(term.views, term.on, strict=True):
            (target if on == "target" else online).add(view)
    if model.target is not None and model.target.source == "self":
        return len(online | target)
    return len(online) + len(target)


def ema_decay(method: MethodConfig, *, steps: int) -> Schedule:
    """Decay of the target at each step."""
    if method.target.schedule == "constant":
        return constant(method.target.tau)
    return ema_cosine(method.target.tau, steps)


def _with_feature(encoder: ImageEncoder, method: MethodConfig) -> ImageEncoder:
    """EMP-SSL's evaluated feature, a layer behind the encoder, as a part of it."""
    if not method.feature:
        return encoder
    layer = mlp_head([encoder.width, method.feature], norm=method.norm, out_norm=method.norm)
    return ImageEncoder(nn.Sequential(encoder, layer, nn.ReLU(inplace=True)), width=method.feature)


def _projector(method: MethodConfig, width: int, *, seed: int) -> nn.Module | None:
    """No bias in the last layer, as in BYOL's and VICReg's code; SimSiam's ends with a norm without scale."""
    if method.name == "directclr":
        return None
    if method.name == "sie":
        return _split_projector(method, width)
    head = mlp_head(
        [width, *method.projector],
        norm=method.norm,
        out_norm=method.norm if method.name == "simsiam" else "none",
        out_affine=False,
        out_bias=False,
    )
    if method.name != "shuffled-dbn":
        return head
    dbn = method.dbn
    white = DecorrelatedBatchNorm(
        method.projector[-1],
        group_size=dbn.group_size,
        shuffle=dbn.shuffle,
        steps=dbn.steps,
        eps=dbn.eps,
        seed=seed,
        gather=method.gather,
    )
    return nn.Sequential(head, white)


def _split_projector(method: MethodConfig, width: int) -> SplitProjector:
    """Two projectors, all widths shared out as the representation is."""
    widths = [width, *method.projector]
    first = [invariant_width(method, each) for each in widths]
    second = [each - part for each, part in zip(widths, first, strict=True)]
    heads = [mlp_head(part, norm=method.norm, out_bias=False) for part in (first, second)]
    return SplitProjector(first[0], *heads)


def invariant_width(method: MethodConfig, width: int) -> int:
    """SIE: how many of so many coordinates are invariant.

    Raises:
        ValueError: If that leaves a half empty.
    """
    first = round(method.sie.invariant * width)
    if not 0 < first < width:
        raise ValueError(f"method.sie.invariant={method.sie.invariant} of width {width} leaves a half empty")
    return first


def _predictor(method: MethodConfig, width: int) -> Predictor | None:
    if method.name in CLOSED_FORMS:
        return closed_form(method.closed, method.name, width)
    if method.name == "linear":
        return linear_predictor(width)
    if method.name == "sie":
        first = invariant_width(method, width)
        return GroupPredictor(Hypernetwork(2, width - first), invariant=first)
    if method.name in ("byol", "simsiam", *_PREDICTED) and method.predictor:
        return mlp_predictor(width, method.predictor_hidden, norm=method.norm, out_bias=method.name == "simsiam")
    return None


def _target(method: MethodConfig, branches: dict[str, Branch], *, steps: int) -> Target:
    return Target(
        branches, source=method.target_source, tau=ema_decay(method, steps=steps), mode="train", buffers="own"
    )


def _reads_target(terms: list[SetTerm]) -> bool:
    return any("target" in term.on for term in terms)


def _pair(method: MethodConfig) -> Callable[..., Tensor]:
    return negative_cosine if method.name == "simsiam" else normalized_mse


def _weight(method: MethodConfig) -> float:
    """Sum of the edges' weights: SimSiam averages over both directions, BYOL adds them."""
    return 1.0 if method.name == "simsiam" else 2.0


def _both_ends_learn(method: MethodConfig, src: str, dst: str, predictor: str | None, share: float) -> SetTerm:
    """An edge without stop-gradient, which :class:`~byol_ext.bootstrap.Edge` cannot be."""
    return SetTerm(
        f"{src}->{dst}",
        (src, dst),
        partial(_mean_pair, _pair(method)),
        weight=_weight(method) * share,
        keys=("q", "target"),
        on=("q", "z"),
        predictor=(predictor, None),
        couples=False,
    )


def _mean_pair(pair: Callable[..., Tensor], *, q: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return pair(q=q, target=target).mean(), {}
