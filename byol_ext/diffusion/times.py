"""Low-discrepancy quantiles: the times of a step are one to a stratum, over all processes and micro-batches.

``u_i = (u_0 + i/B) mod 1`` with one uniform ``u_0`` a step (CDCD 6.1); ``i`` counts the rows of the whole batch, so
that processes share one set of strata (spec 3). A warp turns quantiles into noise levels.

Legend: ``B`` sequences of this process' micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from byol_ext.bootstrap import Ctx
from byol_ext.rng import sample_generator, sample_keys
from byol_ext.training.source import Batch, rank_and_world
from byol_ext.training.trainable import Views

_OFFSET_STREAM = 0x43444344_00000000  # in place of an epoch, so that no sample of the data shares the offset's stream


def stratified_quantiles(offset: float, rows_B: Tensor, total: int) -> Tensor:
    """``(u_0 + i/B) mod 1``.

    Args:
        offset: ``u_0``.
        rows_B: Rows ``i`` in the whole batch; fractions of a row place further micro-batches between the strata.
        total: Rows of the whole batch.

    Returns:
        ``[B]`` float32 in [0, 1).

    Raises:
        ValueError: If ``total`` is not positive.

    Example:
        >>> stratified_quantiles(0.9, torch.arange(4), 4)
        tensor([0.9000, 0.1500, 0.4000, 0.6500])
    """
    if total < 1:
        raise ValueError(f"total={total} must be positive")
    u_B = torch.remainder(offset + rows_B.double() / total, 1.0).float()
    return torch.where(u_B < 1.0, u_B, 0.0)  # rounding to float32 can reach 1


class TokenContext:
    """From a batch of token sequences to what CDCD and its baselines train on; a ``prepare`` for ``fit``.

    The first micro-batch of a step has one quantile in each stratum; further ones (counted within the step) halve the
    gaps that are left, so that a window of ``2^k`` micro-batches is stratified as a whole.

    Args:
        seed: Seed of the run.
        rank: This process; default: from the process group or the launcher.
        world_size: Number of processes; default likewise.

    Example:
        >>> prepare = TokenContext(seed=0)
        >>> batch = {"tokens": torch.zeros(4, 8, dtype=torch.int64), "id": torch.arange(4), "epoch": 0}
        >>> views, ctx = prepare(batch, 0)
        >>> (ctx.data["u"] * 4).sort().values.floor().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, seed: int, *, rank: int | None = None, world_size: int | None = None) -> None:
        own_rank, own_world = rank_and_world()
        self.seed = seed
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world if world_size is None else world_size
        self._step, self._micro = -1, 0

    def __call__(self, batch: Batch, step: int) -> tuple[Views, Ctx]:
        """Views and context of a micro-batch.

        Args:
            batch: ``tokens`` ``[B, L]`` int64, ``id`` ``[B]``, and ``epoch``, ``[B]`` or one for all.
            step: Index of the optimiser step.

        Returns:
            ``{"tokens": [B, L]}``, and a context whose data hold ``keys`` ``[B]``, from which masks, noise and coins
            are drawn, and ``u`` ``[B]``, quantiles of the times.

        Raises:
            ValueError: If tokens and ids differ in number.
        """
        self._micro = self._micro + 1 if step == self._step else 0
        self._step = step
        tokens_BL, ids_B = batch["tokens"], batch["id"]
        count = len(tokens_BL)
        if tokens_BL.ndim != 2 or ids_B.shape != (count,):
            raise ValueError(f"expected tokens [B, L] and id [B], got {tuple(tokens_BL.shape)}, {tuple(ids_B.shape)}")
        rows_B = self.rank * count + torch.arange(count, device=tokens_BL.device) + radical_inverse(self._micro)
        offset = float(sample_generator(self.seed, _OFFSET_STREAM, step).random())
        u_B = stratified_quantiles(offset, rows_B, count * self.world_size)
        keys_B = sample_keys(self.seed, batch["epoch"], ids_B)
        return {"tokens": tokens_BL}, Ctx(data={"keys": keys_B, "u": u_B})


def radical_inverse(n: int) -> float:
    """The binary digits of ``n`` mirrored at the point: van der Corput's sequence, which fills [0, 1) evenly.

    Example:
        >>> [radical_inverse(n) for n in range(5)]
        [0.0, 0.5, 0.25, 0.75, 0.125]
    """
    value, digit = 0.0, 0.5
    while n:
        value += digit * (n & 1)
        n, digit = n >> 1, digit / 2
    return value
