"""Gather rows across ranks with gradient, for losses that mix samples.

Every rank computes the loss of its own rows against all rows. The backward of the gather sums the gradient that all
ranks have for a row, and the mean that data parallelism takes over ranks makes the result the gradient of the mean loss
over the global batch. Averaging the gathered gradient once more is a known defect of public code
(arXiv 2206.02574, 5).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) when no process group is up."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _GatherRows(torch.autograd.Function):
    """All ranks' rows in rank order; the backward returns the sum over ranks of this rank's rows' gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all ranks, ``[B, ...] -> [W * B, ...]``, in rank order and with gradient; ``x`` itself on one process.

    Args:
        x: Local rows; every rank must hold equally many.

    Returns:
        Global rows.

    Raises:
        ValueError: If the ranks hold different numbers of rows.

    Example:
        >>> gather_rows(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    _, size = world()
    if size == 1:
        return x
    rows = torch.tensor([x.shape[0], -x.shape[0]], device=x.device)
    dist.all_reduce(rows, op=dist.ReduceOp.MAX)
    if rows[0] != -rows[1]:
        raise ValueError(
            f"ranks hold between {-rows[1].item()} and {rows[0].item()} rows; losses that gather need equal local "
            "batches: set drop_last=True on the sampler"
        )
    return _GatherRows.apply(x)


def own_columns(x: Tensor, *, gather: bool = True) -> Tensor:
    """Where each local row stands among the gathered ones, int64 ``[B]``.

    Args:
        x: Local rows ``[B, ...]``.
        gather: Whether rows are gathered at all.

    Example:
        >>> own_columns(torch.zeros(3, 2)).tolist()
        [0, 1, 2]
    """
    rank = world()[0] if gather else 0
    return torch.arange(len(x), device=x.device) + rank * len(x)
