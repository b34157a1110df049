"""Branches, and the target network that follows them without gradient.

Legend: ``B`` batch, ``D`` width; ``y`` representation, ``z`` projection.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from byol_ext.ema import EMA, Buffers
from byol_ext.graph import Latent
from byol_ext.schedules import Schedule


class Branch(nn.Module):
    """What a target copies: encoder and projector.

    Args:
        encoder: ``x -> y``; a mapping input is passed as keyword arguments.
        projector: ``y -> z``; identity by default.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector if projector is not None else nn.Identity()

    def encode(self, x: Any) -> Tensor:
        """Representation ``y`` of an input."""
        return self.encoder(**x) if isinstance(x, Mapping) else self.encoder(x)

    def forward(self, x: Any) -> Latent:
        """Representation and projection of an input."""
        y = self.encode(x)
        return Latent(y, self.projector(y))


class Target(nn.Module):
    """Target latents, without gradient: the only stop-gradient of the package.

    Args:
        branches: The online branches by name; never registered here, so the optimiser sees them once.
        source: ``ema``, an exponential moving average of the branches; ``self``, the online latents themselves
            (SimSiam); ``frozen``, the copy taken at construction.
        tau: Decay of the average, a number or a schedule (``ema`` only; SLAP .95, BYOL .996 to 1).
        mode: ``train`` keeps dropout and batch statistics on in training, as BYOL's and SLAP's code do; ``eval`` not.
        buffers: Policy for BatchNorm statistics, see :class:`byol_ext.ema.EMA`.
        groups: Decays for parameters whose name starts with a prefix.

    Raises:
        ValueError: If ``mode="eval"`` goes with ``buffers="own"``: statistics would stay at their initial values.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        *,
        source: Literal["ema", "self", "frozen"] = "ema",
        tau: float | Schedule = 0.99,
        mode: Literal["train", "eval"] = "train",
        buffers: Buffers = "own",
        groups: Mapping[str, float | Schedule] | None = None,
    ) -> None:
        super().__init__()
        if source not in ("ema", "self", "frozen"):
            raise ValueError(f"source={source!r} is not one of 'ema', 'self', 'frozen'")
        self.source, self.mode = source, mode
        self.ema: EMA | None = None
        self.frozen: nn.Module | None = None
        online = nn.ModuleDict(branches)
        if source == "ema":
            if mode == "eval" and buffers == "own" and any(True for _ in online.buffers()):
                raise ValueError(
                    "mode='eval' with buffers='own' never updates BatchNorm statistics; use 'copy' or 'ema'"
                )
            self.ema = EMA(online, tau, buffers=buffers, groups=groups)
        elif source == "frozen":
            self.frozen = copy.deepcopy(online).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Target:
        """Set training mode; an ``eval`` target stays evaluated."""
        return super().train(mode and self.mode == "train")

    def branch(self, name: str) -> Branch | None:
        """The target's own copy of a branch; ``None`` when the source is ``self``."""
        copies = self.ema.module if self.ema is not None else self.frozen
        return None if copies is None else copies[name]  # type: ignore[index]

    def encode(self, name: str, x: Any, *, online_y: Tensor | None) -> Tensor:
        """Target representation of an input (the online one, detached, when the source is ``self``)."""
        own = self.branch(name)
        if own is None:
            assert online_y is not None
            return online_y.detach()
        with torch.no_grad():
            return own.encode(x)

    def project(self, name: str, y: Tensor, *, online_z: Tensor | None) -> Latent:
        """Target latent from a target representation."""
        own = self.branch(name)
        if own is None:
            assert online_z is not None
            return Latent(y, online_z.detach())
        with torch.no_grad():
            return Latent(y, own.projector(y))

    def update(self, step: int) -> float | None:
        """Move the average; returns the decay used, ``None`` without an average."""
        return None if self.ema is None else self.ema.update(step)
