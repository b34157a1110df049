"""Methods of the image recipe by name, with the variants and controls of its claims: what ``--methods`` lists.

A variant is a function from a preset to a configuration: the objective's name, and what goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from recipes.image_config import CLUTTER, ImageConfig
from recipes.image_method_config import METHOD_NAMES, MethodName, unknown_method

Variant = Callable[[ImageConfig], ImageConfig]


def with_method(config: ImageConfig, name: str) -> ImageConfig:
    """A preset with another method, or a named variant or control of one: what ``--methods`` lists.

    Args:
        config: A preset; heads, temperature and training stay as it has them unless the method says otherwise.
        name: One of :data:`METHODS`.

    Raises:
        ValueError: If there is no such method; the message names the nearest.

    Example:
        >>> from recipes.image_config import clutter
        >>> with_method(clutter(), "byol-gn-ws").encoder.norm
        'gn_ws'
    """
    if name not in METHODS:
        raise ValueError(unknown_method(name, tuple(METHODS)))
    return METHODS[name](config)


def _method(name: MethodName) -> Variant:
    return lambda config: replace(config, method=replace(config.method, name=name))


def _normed(name: MethodName, norm: Literal["gn_ws", "none"]) -> Variant:
    """Another norm in the encoder and in the heads."""
    return lambda config: replace(
        config,
        encoder=replace(config.encoder, norm=norm),
        method=replace(config.method, name=name, norm=norm),
    )


def _without_predictor(config: ImageConfig) -> ImageConfig:
    return replace(config, method=replace(config.method, name="byol", predictor=False))


def _with_target(source: Literal["self", "frozen"]) -> Variant:
    return lambda config: replace(
        config, method=replace(config.method, name="byol", target=replace(config.method.target, source=source))
    )


def _simsiam(config: ImageConfig) -> ImageConfig:
    """The predictor's learning rate is constant (C)."""
    return replace(_method("simsiam")(config), train=replace(config.train, predictor_lr_schedule="const"))


def _without_stop_gradient(config: ImageConfig) -> ImageConfig:
    config = _simsiam(config)
    return replace(config, method=replace(config.method, target=replace(config.method.target, stop_gradient=False)))


def _linear(config: ImageConfig) -> ImageConfig:
    """The predictor learns ten times as fast: at the common rate it collapses (section 15)."""
    return replace(_method("linear")(config), train=replace(config.train, predictor_lr_scale=10.0))


def _emp_ssl(config: ImageConfig) -> ImageConfig:
    """More views, of a fixed share of the picture where there are pictures."""
    preset = config.augment.preset if config.data.train == CLUTTER else "patches"
    return replace(_method("emp-ssl")(config), augment=replace(config.augment, preset=preset, views=8))


def _semppl(config: ImageConfig) -> ImageConfig:
    """A tenth of the labels."""
    data = replace(config.data, label_share=config.data.label_share or 0.1)
    return replace(config, data=data, method=replace(config.method, name="semppl"))


def _pal_infonce(graph: Literal["labels", "active"]) -> Variant:
    """All labels, or an oracle's answers."""

    def variant(config: ImageConfig) -> ImageConfig:
        method = replace(config.method, name="pal-infonce", pal=replace(config.method.pal, graph=graph))
        shown = (config.data.label_share or 1.0) if graph == "labels" else 0.0
        return replace(config, data=replace(config.data, label_share=shown), method=method)

    return variant


def _sie(config: ImageConfig) -> ImageConfig:
    return replace(config, augment=replace(config.augment, preset="rotate"), method=replace(config.method, name="sie"))


METHODS: dict[str, Variant] = {name: _method(name) for name in METHOD_NAMES} | {
    "byol-gn-ws": _normed("byol", "gn_ws"),
    "byol-no-norm": _normed("byol", "none"),
    "byol-no-predictor": _without_predictor,
    "byol-self-target": _with_target("self"),
    "byol-frozen-target": _with_target("frozen"),
    "simsiam": _simsiam,
    "simsiam-no-stop-gradient": _without_stop_gradient,
    "simclr-gn-ws": _normed("simclr", "gn_ws"),
    "linear": _linear,
    "emp-ssl": _emp_ssl,
    "semppl": _semppl,
    "pal-infonce-labels": _pal_infonce("labels"),
    "pal-infonce-active": _pal_infonce("active"),
    "sie": _sie,
}
"""Named configurations: every method, and the variants and controls that its claims need."""
