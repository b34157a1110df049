"""What the objectives of CDCD and of simplex diffusion share.

Legend: ``B`` sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from byol_ext.diffusion.draws import Stream, keyed_coin
from byol_ext.diffusion.warp import Warp
from byol_ext.diffusion.warp_fit import FittedWarp


class SeenLosses:
    """Noise levels and cross-entropies of the present step, all micro-batches: what a warp is fitted to.

    Example:
        >>> from byol_ext.diffusion.warp import PiecewiseLinearWarp
        >>> seen, warp = SeenLosses(), FittedWarp(PiecewiseLinearWarp(1.0, 10.0))
        >>> for t_B, ce_B in ((torch.tensor([2.0]), torch.tensor([0.5])), (torch.tensor([6.0]), torch.tensor([1.5]))):
        ...     seen.add(0, t_B=t_B, cross_entropy_B=ce_B)
        >>> sorted(seen.fit(warp, 0)), seen.fit(warp, 1)
        (['warp/loss', 'warp/plateau'], {})
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._step = -1

    @torch.compiler.disable  # the step would be a constant of the compiled code, which each step would compile anew
    def add(self, step: int, *, t_B: Tensor, cross_entropy_B: Tensor) -> None:
        """Keep a micro-batch; what a skipped step has left is forgotten.

        Args:
            step: Index of the optimiser step.
            t_B: Noise levels.
            cross_entropy_B: Mean cross-entropy over each sequence's noised positions, in nats.
        """
        if step != self._step:
            self._parts, self._step = [], step
        self._parts.append((t_B.detach(), cross_entropy_B.detach()))

    def fit(self, warp: Warp, step: int) -> dict[str, float]:
        """Fit a learning warp to what this step has seen, then forget it.

        Args:
            warp: The warp; any but a :class:`FittedWarp` stays as it is.
            step: Index of the optimiser step.

        Returns:
            Values to log, of :meth:`FittedWarp.fit`; none if nothing was fitted.
        """
        parts, self._parts = self._parts, []
        if not isinstance(warp, FittedWarp) or not parts or self._step != step:
            return {}
        t_B, ce_B = (torch.cat(values) for values in zip(*parts, strict=True))
        return warp.fit(step, t_B=t_B, cross_entropy_B=ce_B)


def self_conditioned_rows(keys_B: Tensor) -> Tensor:
    """Rows that are shown a first prediction, int64: one of each pair of neighbours (CDCD 4.3: half of the batch).

    Neighbours have neighbouring times, so both halves see the whole range.

    Args:
        keys_B: Keys of the sequences.
    """
    first_P = keyed_coin(keys_B[::2], 0.5, stream=Stream.SELF_CONDITIONING)
    rows_B = torch.arange(len(keys_B), device=keys_B.device)
    return (rows_B % 2 == first_P.repeat_interleave(2)[: len(keys_B)]).nonzero()[:, 0]
