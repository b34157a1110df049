"""A ring buffer of target latents and labels: negatives, soft targets and semantic positives come from it.

The rows of a step enter after its optimiser step, so that a skipped step leaves no trace. A queue is state, not a loss:
give it to :class:`~byol_ext.graph.SetTerm` as ``scale``, which saves it, commits it and passes it on as ``queue=``.

Legend: ``B`` local rows, ``N`` slots, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from byol_ext.losses.gather import gather_rows

UNLABELLED = -1
BankLoss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class Queue(nn.Module):
    """The newest ``size`` rows; contents, labels and position are buffers and so in the ``state_dict``.

    A queue belongs to one term: what a forward stages replaces what the last one has left uncommitted.

    Args:
        size: Slots (ASCL: 4096; SemPPL: 20 times the batch, spec: second-hand).
        width: Width of a row.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> queue = Queue(size=2, width=1)
        >>> queue.push(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([7, 8, 9]))
        >>> [x.flatten().tolist() for x in queue.rows()]
        [[2.0, 3.0], [8, 9]]
    """

    latents: Tensor
    labels: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise ValueError(f"a queue needs a positive size and width, got size={size}, width={width}")
        self.register_buffer("latents", torch.zeros(size, width))
        self.register_buffer("labels", torch.full((size,), UNLABELLED))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        self._staged: tuple[Tensor, Tensor] | None = None

    @property
    def valid(self) -> Tensor:
        """Which slots hold a row, bool ``[N]``."""
        return torch.arange(len(self.latents), device=self.pushed.device) < self.pushed

    def rows(self) -> tuple[Tensor, Tensor]:
        """Latents ``[n, D]`` and labels ``[n]`` of the filled slots, oldest first: for k-NN and RankMe on the way."""
        size, pushed = len(self.latents), int(self.pushed)
        kept = min(size, pushed)
        slot = (torch.arange(kept, device=self.pushed.device) + pushed - kept) % size
        return self.latents[slot], self.labels[slot]

    @torch.no_grad()
    def push(self, latents: Tensor, labels: Tensor | None = None) -> None:
        """Write rows over the oldest ones.

        Args:
            latents: Rows ``[B, D]``; of more than ``size`` rows the last ones stay.
            labels: Class numbers ``[B]``, -1 where unknown; default: all unknown.

        Raises:
            ValueError: If the shapes do not fit.
        """
        labels = _labels_of(latents, labels)
        if latents.ndim != 2 or latents.shape[1] != self.latents.shape[1]:
            raise ValueError(f"the queue takes rows [B, {self.latents.shape[1]}], got {tuple(latents.shape)}")
        size, rows = len(self.latents), len(latents)
        slot = ((torch.arange(rows, device=self.pushed.device) + self.pushed) % size)[-size:]
        self.latents[slot] = latents[-size:].to(self.latents.dtype)
        self.labels[slot] = labels[-size:]
        self.pushed += rows

    @torch.no_grad()
    def stage(
        self, latents: Tensor, labels: Tensor | None = None, *, labelled_only: bool = False, gather: bool = True
    ) -> None:
        """Keep rows for :meth:`commit`; in evaluation mode nothing happens.

        Args:
            latents: Rows ``[B, D]``.
            labels: Class numbers ``[B]``, -1 where unknown; default: all unknown.
            labelled_only: Whether to drop rows without a label.
            gather: Whether to take the rows of all ranks, which keeps their queues equal.
        """
        if not self.training:
            return
        latents, labels = latents.detach(), _labels_of(latents, labels)
        if gather:
            latents, labels = gather_rows(latents), gather_rows(labels)
        if labelled_only:
            known = labels >= 0
            latents, labels = latents[known], labels[known]
        self._staged = latents, labels

    def commit(self) -> None:
        """Push what was staged; called after the optimiser step."""
        if self._staged is not None:
            self.push(*self._staged)
            self._staged = None

    def forward(self) -> dict[str, Queue]:
        """Itself as keyword argument of the loss, as :class:`~byol_ext.graph.SetTerm` asks of its ``scale``."""
        return {"queue": self}


def queued(loss: BankLoss) -> BankLoss:
    """A loss against a bank as a set term's function: it reads the queue and stages the targets for it.

    Args:
        loss: ``(q=, target=, bank=, candidates=) -> (scalar, parts)``, such as
            :func:`byol_ext.losses.soft_targets.soft_info_nce`.

    Returns:
        ``(q=, target=, queue=, label=None) -> (scalar, parts)``.

    Example:
        >>> from byol_ext.graph import SetTerm
        >>> from byol_ext.losses.soft_targets import soft_info_nce
        >>> term = SetTerm("ascl", ["a", "b"], queued(soft_info_nce), keys=["q", "target"], on=["z", "target"],
        ...                data=["label"], scale=Queue(4096, 128))
        >>> sorted(term.state_dict())
        ['scale.labels', 'scale.latents', 'scale.pushed']
    """

    def with_queue(
        *, q: Tensor, target: Tensor, queue: Queue, label: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        result = loss(q=q, target=target, bank=queue.latents, candidates=queue.valid)
        queue.stage(target, label)
        return result

    return with_queue


def _labels_of(latents: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        return torch.full((len(latents),), UNLABELLED, device=latents.device)
    if labels.shape != latents.shape[:1]:
        raise ValueError(f"{len(latents)} rows need as many labels, got {tuple(labels.shape)}")
    return labels
