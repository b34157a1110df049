"""The set terms of the image recipe's methods: losses that mix samples, or read more than a pair of latents.

Legend: ``V`` views, ``B`` images, ``D`` width of the projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from byol_ext.bootstrap import SetTerm
from byol_ext.graph import On
from byol_ext.losses.coding_rate import emp_ssl
from byol_ext.losses.contrastive import Similarity, directclr, nt_xent
from byol_ext.losses.decoupled import dcl
from byol_ext.losses.dual import standardize_dimensions, vicreg_ctr, vicreg_exp
from byol_ext.losses.msb import brownian, centroid_distance, singular_value_spread
from byol_ext.losses.pair import as_float, full_precision, normalized_mse
from byol_ext.losses.sets import vicreg
from byol_ext.losses.sie import sie
from byol_ext.losses.similarity_graph import graph_barlow, graph_info_nce, label_graph, spectral_contrastive, vic2
from byol_ext.losses.soft_targets import soft_byol, soft_info_nce
from byol_ext.queue import Queue, queued
from byol_ext.semantic_positives import semppl
from recipes.image_active import AskedPairs
from recipes.image_config import ImageConfig
from recipes.image_method_config import MethodConfig, pal_graph
from recipes.image_views import view_names

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]
SIMILARITIES: dict[str, Similarity] = {"sq": "square", "abs": "absolute"}
DIRECTCLR_SHARE = 360 / 2048


def set_terms(
    config: ImageConfig, pairs: Sequence[tuple[str, str]], *, predictor: str | None, samples: int | None
) -> list[SetTerm]:
    """The set terms of a method that is not on edges alone.

    Args:
        config: The recipe's configuration.
        pairs: Ordered pairs of views, the second a large one.
        predictor: Name of the predictor, where the method has one.
        samples: Training pictures; PAL's active loop needs to know.

    Raises:
        ValueError: If the active loop is not told how many pictures there are.
    """
    method, views = config.method, view_names(config.augment)
    match method.name:
        case "msb":
            return _msb_terms(method, views, predictor)
        case "ascl":
            return _ascl_terms(method, _one_way(pairs) if not method.ascl.symmetric else pairs, predictor)
        case "ascl-moco":
            return _moco_terms(method, _one_way(pairs) if not method.ascl.symmetric else pairs)
        case "semppl":
            return [_semppl_term(method, views, predictor)]
        case "sie":
            return [_sie_term(method, predictor)]
        case "tcr" | "emp-ssl":
            weight = method.rate.similarity_weight
            weight = (30.0 if method.name == "tcr" else 200.0) if weight is None else weight
            rate = partial(emp_ssl, eps=method.rate.eps, similarity_weight=weight, gather=method.gather)
            return [SetTerm(method.name, views, rate)]
        case "pal-spectral" | "pal-vic2" | "pal-infonce" | "pal-barlow":
            return [_pal_term(config, views, samples)]
    return _two_view_terms(method, pairs)


def _two_view_terms(method: MethodConfig, pairs: Sequence[tuple[str, str]]) -> list[SetTerm]:
    """The mean over unordered pairs of views."""
    both = dict.fromkeys(pair for src, dst in pairs if (pair := (min(src, dst), max(src, dst))))
    loss = _two_view_loss(method)
    on: On = "y" if method.name == "directclr" else "z"
    names = [method.name] if len(both) == 1 else [f"{method.name}/{a}-{b}" for a, b in both]
    return [SetTerm(name, pair, loss, weight=1 / len(both), on=on) for name, pair in zip(names, both, strict=True)]


def _two_view_loss(method: MethodConfig) -> Objective:
    contrast, gather = method.contrast, method.gather
    base, _, variant = method.name.partition("-")
    if base in ("simclr", "dcl", "dclw"):
        loss: Objective
        similarity = SIMILARITIES.get(variant, "cosine")
        if base == "simclr":
            loss = partial(nt_xent, temperature=contrast.temperature, similarity=similarity, gather=gather)
        else:
            loss = partial(
                dcl,
                temperature=contrast.temperature,
                similarity=similarity,
                weight_sigma=contrast.weight_sigma if base == "dclw" else None,
                detach_weights=not contrast.weight_gradient,
                gather=gather,
            )
        return partial(_standardised, loss, gather=gather, row_norm=False) if contrast.standardise else loss
    if base == "vicreg":
        return _vicreg_loss(method)
    if method.name == "directclr":
        return partial(_directclr, coordinates=contrast.coordinates, temperature=contrast.temperature, gather=gather)
    assert method.name == "shuffled-dbn", method.name
    return partial(_distance, kind=method.dbn.distance)


def _vicreg_loss(method: MethodConfig) -> Objective:
    options = method.vicreg
    invariance, variance, covariance = options.weights
    if method.name == "vicreg":
        return partial(
            vicreg,
            invariance_weight=invariance,
            variance_weight=variance,
            covariance_weight=covariance,
            variance_reduction=options.variance_reduction,
            invariance=options.invariance,
            gather=method.gather,
        )
    form = vicreg_exp if method.name == "vicreg-exp" else vicreg_ctr
    loss = partial(
        form,
        invariance_weight=invariance,
        variance_weight=variance,
        covariance_weight=covariance,
        temperature=options.temperature,
        gather=method.gather,
    )
    if method.name == "vicreg-ctr" and options.standardise:
        return partial(_standardised, loss, gather=method.gather, row_norm=True)
    return loss


def _standardised(loss: Objective, z: Tensor, *, gather: bool, row_norm: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss on standardised dimensions; with ``row_norm`` times ``sqrt(D)``, each coordinate then of order one."""
    scale = math.sqrt(z.shape[-1]) if row_norm else 1.0
    return loss(standardize_dimensions(z, gather=gather) * scale)


def _directclr(
    z: Tensor, *, coordinates: int | None, temperature: float, gather: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    seen = max(round(DIRECTCLR_SHARE * z.shape[-1]), 1) if coordinates is None else coordinates
    return directclr(z, coordinates=seen, temperature=temperature, gather=gather)


@full_precision
def _distance(z: Tensor, *, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    if kind == "cosine":
        return normalized_mse(q=z[0], target=z[1]).mean(), {}
    return (as_float(z[0]) - as_float(z[1])).square().mean(), {}


def _msb_terms(method: MethodConfig, views: Sequence[str], predictor: str | None) -> list[SetTerm]:
    count = len(views)
    return [
        SetTerm(
            "centroid",
            [*views, *views],
            centroid_distance,
            on=_both(count),
            predictor=[predictor] * count + [None] * count,
            couples=False,
        ),
        SetTerm(
            "singular", views, partial(singular_value_spread, gather=method.gather), weight=method.msb.singular_weight
        ),
        SetTerm("brownian", views, brownian, weight=method.msb.brownian_weight, data=("noise",), couples=False),
    ]


def _both(count: int) -> list[On]:
    """Predictions of the views, then the target latents of the same views."""
    online, target = list[On](["q"]), list[On](["target"])
    return online * count + target * count


def _one_way(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those from the first view."""
    first = min(src for src, _ in pairs)
    return [(src, dst) for src, dst in pairs if src == first]


def _ascl_terms(method: MethodConfig, pairs: Sequence[tuple[str, str]], predictor: str | None) -> list[SetTerm]:
    options = method.ascl
    loss = partial(
        soft_byol,
        temperature=options.temperature,
        neighbours=options.neighbours,
        kind=options.kind,
        gather=method.gather,
    )
    return [
        SetTerm(
            f"{src}->{dst}",
            (src, dst),
            loss,
            weight=2 / len(pairs),
            keys=("q", "target"),
            on=("q", "target"),
            predictor=(predictor, None),
        )
        for src, dst in pairs
    ]


def _moco_terms(method: MethodConfig, pairs: Sequence[tuple[str, str]]) -> list[SetTerm]:
    """A queue for each direction: it holds the targets of the second view."""
    options = method.ascl
    loss = partial(
        soft_info_nce,
        student_temperature=method.contrast.temperature,
        temperature=options.temperature,
        neighbours=options.neighbours,
        kind=options.kind,
    )
    return [
        SetTerm(
            f"{src}->{dst}",
            (src, dst),
            queued(loss),
            weight=1 / len(pairs),
            keys=("q", "target"),
            on=("z", "target"),
            scale=Queue(options.queue, method.projector[-1]),
        )
        for src, dst in pairs
    ]


def _semppl_term(method: MethodConfig, views: Sequence[str], predictor: str | None) -> SetTerm:
    count = len(views)
    loss = partial(
        semppl,
        semantic_weight=method.semppl.weight,
        temperature=method.contrast.temperature,
        neighbours=method.semppl.neighbours,
        gather=method.gather,
    )
    return SetTerm(
        "semppl",
        [*views, *views],
        loss,
        on=_both(count),
        predictor=[predictor] * count + [None] * count,
        data=("label", "draw"),
        scale=Queue(method.semppl.queue, method.projector[-1]),
    )


def _sie_term(method: MethodConfig, predictor: str | None) -> SetTerm:
    options = method.sie
    loss = partial(
        sie,
        invariant=round(options.invariant * method.projector[-1]),
        similarity_weight=options.similarity_weight,
        equivariant_factor=options.equivariant_factor,
        variance_weight=options.variance_weight,
        covariance_weight=options.covariance_weight,
        moved_variance=options.moved_variance,
        gather=method.gather,
    )
    return SetTerm(
        "sie",
        ("a", "b", "a"),
        loss,
        keys=("a", "b", "moved"),
        on=("z", "z", "q"),
        predictor=(None, None, predictor),
    )


def _pal_term(config: ImageConfig, views: Sequence[str], samples: int | None) -> SetTerm:
    loss, options = _pal_loss(config.method), config.method.pal
    graph = pal_graph(config.method)
    if graph == "views":
        return SetTerm(config.method.name, views, loss)
    if graph == "labels":
        return SetTerm(config.method.name, views, partial(_with_labels, loss), data=("label",))
    if samples is None:
        raise ValueError("PAL's active loop needs to know how many pictures there are: build_method(..., samples=)")
    asked = AskedPairs(
        samples,
        budget=options.budget,
        questions=options.questions,
        every=options.every,
        score=options.score,
        seed=config.seed,
    )
    return SetTerm(config.method.name, views, partial(_with_answers, loss), data=("ids", "truth"), scale=asked)


def _pal_loss(method: MethodConfig) -> Objective:
    options, gather = method.pal, method.gather
    match method.name:
        case "pal-spectral":
            return partial(spectral_contrastive, gather=gather)
        case "pal-vic2":
            return partial(vic2, invariance_weight=options.invariance_weight, gather=gather)
        case "pal-barlow":
            return partial(graph_barlow, off_diagonal_weight=options.off_diagonal_weight, gather=gather)
    temperature = method.contrast.temperature
    return partial(graph_info_nce, temperature=temperature, reduction=options.reduction, gather=gather)


def _with_labels(loss: Objective, z: Tensor, *, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return loss(z, graph=label_graph(label))


def _with_answers(
    loss: Objective, z: Tensor, *, ids: Tensor, truth: Tensor, asked: AskedPairs
) -> tuple[Tensor, dict[str, Tensor]]:
    value, parts = loss(z, graph=asked.graph(ids))
    asked.stage(z, ids, truth)
    return value, parts | {"questions": asked.used.float()}
