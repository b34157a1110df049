"""BatchNorm with statistics of its own for each derivative order (``bn="per_order"``).

Raw clips and their differences have different means and variances, and the statistics that evaluation uses are those of
the order that it encodes. Scale and shift stay shared, as all weights do.

Legend: ``B`` clips, ``C`` channels, ``K`` orders.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class _Rows:
    """Rows of a batch by order.

    Attributes:
        batch: Rows in all.
        orders: Orders that occur.
        rows: Rows of each: a slice where the orders come in blocks, as with views put together.
        back_B: Puts the rows back in their places; None where they are.
    """

    batch: int
    orders: tuple[int, ...]
    rows: tuple[slice | Tensor, ...]
    back_B: Tensor | None = None


def _group(order_B: Tensor) -> _Rows:
    order_B = order_B.cpu()
    blocks, lengths = order_B.unique_consecutive(return_counts=True)
    orders = tuple(blocks.tolist())
    if len(set(orders)) == len(orders):
        ends = lengths.cumsum(0).tolist()
        return _Rows(len(order_B), orders, tuple(map(slice, [0, *ends[:-1]], ends)))
    orders = tuple(sorted(set(orders)))
    rows = tuple((order_B == order).nonzero().flatten() for order in orders)
    return _Rows(len(order_B), orders, rows, torch.cat(rows).argsort())


class OrderBatchNorm(nn.Module):
    """BatchNorm whose batch and running statistics are those of the sample's derivative order.

    Args:
        norm: The layer it stands for: its scale and shift (the same parameter objects), settings and statistics,
            which every order starts from.
        orders: Orders ``K``: 0 ... K - 1.
    """

    def __init__(self, norm: _BatchNorm, orders: int = 3) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        plain = copy.deepcopy(norm)
        plain.affine = False
        plain.register_parameter("weight", None)
        plain.register_parameter("bias", None)
        self.norms = nn.ModuleList(copy.deepcopy(plain) for _ in range(orders))
        self._rows: _Rows | None = None

    def select(self, rows: _Rows | None) -> None:
        """Set the orders of the coming batch; None for order 0."""
        if rows is not None and not 0 <= min(rows.orders) <= max(rows.orders) < len(self.norms):
            raise ValueError(f"derivative orders {rows.orders} lie outside 0 ... {len(self.norms) - 1}")
        self._rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, ...] -> [B, C, ...]``."""
        y = self._normalise(x)
        if self.weight is None:
            return y
        shape = (1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.bias.to(y.dtype).view(shape), y, self.weight.to(y.dtype).view(shape))

    def _normalise(self, x: Tensor) -> Tensor:
        rows = self._rows
        if rows is None:
            return self.norms[0](x)
        if rows.batch != len(x):
            raise ValueError(f"{rows.batch} derivative orders were given for a batch of {len(x)}")
        if len(rows.orders) == 1:
            return self.norms[rows.orders[0]](x)
        y = torch.cat([self.norms[order](x[of]) for order, of in zip(rows.orders, rows.rows, strict=True)])
        return y if rows.back_B is None else y[rows.back_B]


def separate_norms_by_order(module: nn.Module, orders: int = 3) -> nn.Module:
    """Replace every BatchNorm inside a module, in place, by an :class:`OrderBatchNorm`.

    Load pretrained weights before: the names of the statistics change, those of the parameters do not.

    Args:
        module: An encoder.
        orders: Orders from 0 that it will see; 3 for ViDiDi.

    Returns:
        The module.

    Raises:
        ValueError: If there is no BatchNorm in it, or it has been converted before.
    """
    if any(isinstance(layer, OrderBatchNorm) for layer in module.modules()):
        raise ValueError(f"{type(module).__name__} has statistics by derivative order already")
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm)
    ]
    if not found:
        raise ValueError(f"{type(module).__name__} has no BatchNorm: its statistics cannot be kept by derivative order")
    for parent, name, child in found:
        setattr(parent, name, OrderBatchNorm(child, orders))
    return module


@contextmanager
def norm_orders(module: nn.Module, order_B: Tensor | None) -> Iterator[None]:
    """Within the context, the norms of a module take the batch to have these derivative orders.

    Args:
        module: Any module; nothing happens where it has no :class:`OrderBatchNorm`.
        order_B: Order of each clip ``[B]``; None for order 0.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, OrderBatchNorm)]
    rows = _group(order_B) if norms and order_B is not None else None
    for norm in norms:
        norm.select(rows)
    try:
        yield
    finally:
        for norm in norms:
            norm.select(None)
