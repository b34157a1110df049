"""Projector and predictor heads, their normalisation switch, and the learnable logit scale.

``norm="batch" | "gn_ws" | "layer" | "none"`` is one switch for every head: ``batch`` couples the samples of a batch,
the others do not, which decides whether gradient accumulation is exact (:attr:`Bootstrap.couples_samples`).

Legend: ``B`` batch, ``D`` width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.whitening import DecorrelatedBatchNorm

Norm = Literal["batch", "gn_ws", "layer", "none"]
WindowMode = Literal["batch", "window", "frozen"]


class WSLinear(nn.Linear):
    """Linear layer with standardised weights: zero mean and variance ``1 / fan_in`` over each output unit's inputs.

    Weight standardisation of "BYOL works even without batch statistics" (arXiv 2010.10241); recomputed each forward,
    with gradient, and a learned gain a unit.

    Args:
        in_features: Input width.
        out_features: Output width.
        bias: Whether to add a bias.
        eps: Added to the variance.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, eps: float = 1e-6) -> None:
        super().__init__(in_features, out_features, bias)
        self.gain = nn.Parameter(torch.ones(out_features, 1))
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """``[..., in] -> [..., out]``."""
        variance, mean = torch.var_mean(self.weight, dim=1, keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.in_features + self.eps)
        return F.linear(input, weight * self.gain, self.bias)


class RowBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all leading dims: ``[B, D]``, ``[B, T, D]`` and ``[T, B, D]`` alike."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """``[..., D] -> [..., D]``."""
        return super().forward(input.reshape(-1, input.shape[-1])).view_as(input)


class RowGroupNorm(nn.GroupNorm):
    """GroupNorm of each row by itself, whatever the leading dims."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """``[..., D] -> [..., D]``."""
        return super().forward(input.reshape(-1, input.shape[-1])).view_as(input)


def norm_1d(norm: Norm, width: int, *, groups: int = 16, affine: bool = True) -> nn.Module:
    """Normalisation layer of a head for features ``[..., width]``.

    Args:
        norm: Kind; ``gn_ws`` gives GroupNorm here and goes with :class:`WSLinear`.
        width: Feature width.
        groups: Groups of GroupNorm (16 in arXiv 2010.10241, recalled); lowered to a divisor of ``width``.
        affine: Whether it has a learned scale and shift.

    Raises:
        ValueError: If ``norm`` is unknown.
    """
    if norm == "batch":
        return RowBatchNorm(width, affine=affine)
    if norm == "layer":
        return nn.LayerNorm(width, elementwise_affine=affine)
    if norm == "gn_ws":
        return RowGroupNorm(math.gcd(groups, width), width, affine=affine)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm={norm!r} is not one of 'batch', 'gn_ws', 'layer', 'none'")


def mlp_head(
    widths: Sequence[int],
    *,
    norm: Norm = "batch",
    out_norm: Norm = "none",
    out_affine: bool = True,
    out_bias: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """MLP ``Linear - norm - ReLU [- dropout] - ... - Linear [- out_norm]``.

    BYOL's projector is ``mlp_head([2048, 4096, 256], out_bias=False)``; SLAP's is
    ``mlp_head([1024, 512, 512], norm="none")``. A linear layer that feeds BatchNorm has no bias, since the norm
    removes it.

    Args:
        widths: Input, hidden and output widths; two numbers make a linear head.
        norm: Normalisation after each hidden linear layer.
        out_norm: Normalisation of the output; SimSiam's projector has ``batch``.
        out_affine: Whether that one has a learned scale and shift; SimSiam's has not.
        out_bias: Whether the last linear layer has a bias.
        dropout: Dropout after each hidden ReLU.

    Raises:
        ValueError: If fewer than two widths are given.

    Example:
        >>> mlp_head([8, 32, 4])(torch.randn(6, 8)).shape
        torch.Size([6, 4])
    """
    if len(widths) < 2:
        raise ValueError(f"widths={list(widths)} must hold at least an input and an output width")

    def linear(i: int, o: int, bias: bool) -> nn.Linear:
        return WSLinear(i, o, bias) if norm == "gn_ws" else nn.Linear(i, o, bias=bias)

    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(widths[:-1]):
        layers += [linear(i, o, norm != "batch"), norm_1d(norm, o), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(linear(widths[-2], widths[-1], out_bias and out_norm != "batch"))
    if out_norm != "none":
        layers.append(norm_1d(out_norm, widths[-1], affine=out_affine))
    return nn.Sequential(*[layer for layer in layers if not isinstance(layer, nn.Identity)])


class LogitScale(nn.Module):
    """Learnable inverse temperature ``exp(s)`` and optional bias of a contrastive loss; no weight decay.

    Args:
        init: Initial ``exp(s)``: 1 / 0.07 for CLIP and CLAP, 10 for the sigmoid loss.
        maximum: Upper clamp of ``exp(s)`` (CLIP: 100); the lower clamp is 1.
        bias: Initial bias (sigmoid loss: -10, recalled); ``None`` for no bias.
    """

    def __init__(self, init: float = 1 / 0.07, *, maximum: float = 100.0, bias: float | None = None) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(init)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.log_maximum = math.log(maximum)

    def forward(self) -> dict[str, Tensor]:
        """``{"scale": ...}`` and, when there is one, ``{"bias": ...}``: keyword arguments of the loss."""
        out = {"scale": self.log_scale.float().exp()}
        if self.bias is not None:
            out["bias"] = self.bias.float()
        return out

    @torch.no_grad()
    def commit(self) -> None:
        """Clamp the parameter after the optimiser step, as LAION-CLAP does; it can move back from a bound."""
        self.log_scale.clamp_(0.0, self.log_maximum)


class WindowBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm of an encoder's *input*, whose statistics can be those of a whole accumulation window.

    No trainable layer comes before it, so its statistics carry no gradient and may be computed in a pre-pass
    (spec slap 8, condition 2). Modes: ``batch``, ordinary BatchNorm; ``window``, the statistics of all micro-batches
    and ranks of the window, set by :meth:`begin_window` (a batch outside a window counts as one); ``frozen``, running
    statistics also in training.

    Args:
        num_features: Channels.
        mode: See above.
    """

    def __init__(self, num_features: int, *, mode: WindowMode = "batch") -> None:
        super().__init__(num_features)
        if mode not in ("batch", "window", "frozen"):
            raise ValueError(f"mode={mode!r} is not one of 'batch', 'window', 'frozen'")
        self.mode: WindowMode = mode
        self._windows: dict[str, tuple[Tensor, Tensor]] = {}
        self._selected: str | None = None

    @torch.no_grad()
    def begin_window(self, inputs: Sequence[Tensor], *, view: str) -> None:
        """Set the statistics of a view for the whole window and fold them into the running ones once.

        Args:
            inputs: The view's micro-batches, each ``[b, C, H, W]``.
            view: Name of the view.
        """
        if self.mode != "window" or not self.training:
            return
        sums = torch.zeros(2, self.num_features, dtype=torch.float64, device=inputs[0].device)
        count = torch.zeros(1, dtype=torch.float64, device=inputs[0].device)
        for x in inputs:
            sums += torch.stack([x.double().sum((0, 2, 3)), x.double().square().sum((0, 2, 3))])
            count += x.numel() / self.num_features
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(count)
        mean, square = sums / count
        variance = (square - mean.square()).clamp_min(0)
        self._windows[view] = (mean.float(), variance.float())
        if self.running_mean is not None and self.running_var is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_var.lerp_(unbiased.to(self.running_var), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1

    def select_window(self, view: str | None) -> None:
        """Use the window statistics of this view in the following forwards."""
        self._selected = view

    def end_window(self) -> None:
        """Forget the window's statistics."""
        self._windows.clear()
        self._selected = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """``[B, C, H, W] -> [B, C, H, W]``, in float32."""
        x = input.float()
        if self.mode == "frozen" and self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        window = self._windows.get(self._selected) if self._selected is not None else None
        if window is not None and self.training:
            return F.batch_norm(x, window[0], window[1], self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def batch_norms(module: nn.Module) -> list[str]:
    """Names of the layers whose training statistics couple the samples of a batch.

    A :class:`WindowBatchNorm2d` that is frozen or takes its statistics over the whole window does not.

    Args:
        module: Any module; evaluated layers (``.eval()``) do not count.
    """
    names = []
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm | DecorrelatedBatchNorm) or not layer.training:
            continue
        if isinstance(layer, WindowBatchNorm2d) and layer.mode != "batch":
            continue
        names.append(name or type(layer).__name__)
    return names
