"""Where batches come from: a resumable sampler over a map-style dataset, and the loader that counts what was consumed.

The order of samples is a function of (seed, epoch) alone. The batch of all ranks together is cut from that order, and
each rank takes a contiguous slice of it, so two processes with batch ``b`` see what one process with ``2 b`` sees.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Any]


class Source(Protocol):
    """Anything that yields batches for ever and can say where it stands.

    Each rank has its own source. ``state_dict`` describes the position after the last *yielded* batch and holds only
    what ``torch.load(weights_only=True)`` reads: numbers, strings, tensors, and lists, tuples and dicts of these.
    The optional attribute ``fingerprint``, a string that names the data, goes into checkpoints: resuming on other data
    is an error.
    """

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current position on, without end; a generator is closed when the training ends."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...


@runtime_checkable
class EpochSource(Protocol):
    """A source with epochs; needed for limits given in epochs or samples."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each rank sees in an epoch."""
        ...

    @property
    def samples_per_epoch(self) -> int:
        """Samples that all ranks together see in an epoch."""
        ...


def rank_and_world() -> tuple[int, int]:
    """Rank and number of processes, from the process group or else from the launcher's environment.

    Example:
        >>> rank_and_world()
        (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class ResumableSampler:
    """An endless batch sampler that can start anywhere in constant time.

    It yields lists of ``(sample id, epoch)``; a dataset takes such a pair as its index, so that augmentation can be
    keyed by (seed, epoch, id).

    Args:
        n: Samples in the dataset.
        batch_size: Samples a rank takes each time.
        seed: Seed of the order.
        rank: This process; default: from the process group or the launcher.
        world_size: Number of processes; default likewise.
        drop_last: Whether to leave out the incomplete global batch at the end of an epoch (default: losses that gather
            and BatchNorm heads need full batches).
        shuffle: Whether to permute each epoch; without it the order is ``0 .. n-1``.

    Raises:
        ValueError: If no full batch exists, or the last batch of an epoch would leave a rank without samples.

    Example:
        >>> sampler = ResumableSampler(5, 2, shuffle=False, drop_last=False, rank=0, world_size=1)
        >>> batches = iter(sampler)
        >>> [next(batches) for _ in range(3)]
        [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0)]]
        >>> next(batches)
        [(0, 1), (1, 1)]
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = True,
        shuffle: bool = True,
    ) -> None:
        own_rank, own_world = rank_and_world()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world if world_size is None else world_size
        if batch_size < 1 or n < 1:
            raise ValueError(f"n={n} and batch_size={batch_size} must be positive")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank} must lie in [0, {self.world_size})")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.drop_last, self.shuffle = drop_last, shuffle
        self.global_batch = batch_size * self.world_size
        tail = n % self.global_batch
        if drop_last and n < self.global_batch:
            raise ValueError(
                f"{n} samples make no batch of {batch_size} x {self.world_size} processes; lower batch_size or set "
                "drop_last=False"
            )
        if not drop_last and 0 < tail < self.world_size:
            raise ValueError(
                f"the last batch of an epoch would hold {tail} samples for {self.world_size} processes; set "
                "drop_last=True or choose another batch_size"
            )
        self.position = 0
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch."""
        full, tail = divmod(self.n, self.global_batch)
        return full if self.drop_last or not tail else full + 1

    @property
    def samples_per_epoch(self) -> int:
        """Samples that all ranks together see in an epoch."""
        return self.batches_per_epoch * self.global_batch if self.drop_last else self.n

    def order(self, epoch: int) -> np.ndarray:
        """Sample ids ``[n]`` in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.n)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.n)
        return self._order[1]

    def batch(self, index: int) -> list[tuple[int, int]]:
        """This rank's part of the ``index``-th global batch, counted from the start of epoch 0."""
        epoch, step = divmod(index, self.batches_per_epoch)
        ids = self.order(epoch)[step * self.global_batch : (step + 1) * self.global_batch]
        return [(int(i), epoch) for i in np.array_split(ids, self.world_size)[self.rank]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        index = self.position
        while True:
            yield self.batch(index)
            index += 1

    def state_dict(self) -> dict[str, Any]:
        """The position and what it counts in."""
        return {
            "position": self.position,
            "n": self.n,
            "global_batch": self.global_batch,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; the number of processes may differ as long as the global batch does not.

        Raises:
            ValueError: If the order differs from the saved one; the message names the setting.
        """
        for key, now in self.state_dict().items():
            if key != "position" and state[key] != now:
                raise ValueError(
                    f"the sampler was saved with {key}={state[key]}, but now has {key}={now}; resume with the settings "
                    "of the run, or start a new run"
                )
        self.position = state["position"]


class LoaderSource:
    """Batches of a map-style dataset through a ``DataLoader``, resumable to the batch.

    What is counted is what was handed out, not what workers have prefetched.

    Args:
        dataset: Indexed by ``(sample id, epoch)``. Whatever is random in it must be keyed by that pair
            (:func:`byol_ext.rng.sample_generator`); the workers' global generators are not resumed.
        sampler: Which samples, in which order; it must not be shared with another source.
        collate: List of items to a batch dict; default: PyTorch's.
        num_workers: Worker processes; 0 loads in this process.
        prefetch: Batches each worker prepares ahead.
        pin_memory: Whether batches land in pinned memory; default: where CUDA is available.
        fingerprint: Names the data; default: the dataset's own ``fingerprint`` or its class and length.

    Example:
        >>> items = [{"id": i} for i in range(4)]
        >>> class Items(torch.utils.data.Dataset):
        ...     def __len__(self):
        ...         return len(items)
        ...     def __getitem__(self, index):
        ...         return items[index[0]]
        >>> source = LoaderSource(Items(), ResumableSampler(4, 2, shuffle=False, rank=0, world_size=1))
        >>> next(iter(source))
        {'id': tensor([0, 1])}
        >>> source.state_dict()["position"]
        1
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: ResumableSampler,
        *,
        collate: Callable[[list[Any]], Batch] | None = None,
        num_workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.sampler = sampler
        self.fingerprint = fingerprint if fingerprint is not None else _fingerprint(dataset)
        self.wait_seconds = 0.0
        self._started: float | None = None
        self._generator = torch.Generator()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
            worker_init_fn=_shield_worker if num_workers else None,
            generator=self._generator,
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each rank sees in an epoch."""
        return self.sampler.batches_per_epoch

    @property
    def samples_per_epoch(self) -> int:
        """Samples that all ranks together see in an epoch."""
        return self.sampler.samples_per_epoch

    @property
    def wait_fraction(self) -> float:
        """Share of the time since the first batch (or :meth:`reset_wait`) that was spent waiting for batches."""
        if self._started is None:
            return 0.0
        return self.wait_seconds / max(time.perf_counter() - self._started, 1e-9)

    def reset_wait(self) -> None:
        """Start measuring :attr:`wait_fraction` anew, for example after warm-up."""
        self.wait_seconds, self._started = 0.0, time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current position on; closing the iterator, or leaving the program, stops the workers."""
        batches = self._batches()
        if self._loader.num_workers:
            close = partial(_close, weakref.ref(batches))
            # Handlers run last in, first out: before multiprocessing's, which would wait for workers for ever.
            atexit.register(close)
            weakref.finalize(batches, atexit.unregister, close).atexit = False
        return batches

    def _batches(self) -> Generator[Batch, None, None]:
        # An own generator: the loader draws its workers' base seed from it, not from the global state.
        self._generator.manual_seed(hash((self.sampler.seed, self.sampler.rank, self.sampler.position)) & 0xFFFFFFFF)
        loader = iter(self._loader)
        while True:
            start = time.perf_counter()
            batch = next(loader)
            if self._started is None:
                self._started = time.perf_counter()
            else:
                self.wait_seconds += time.perf_counter() - start
            self.sampler.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was handed out."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; iterators opened before keep their old one."""
        self.sampler.load_state_dict(state)


def _fingerprint(dataset: Dataset[Any]) -> str:
    own = getattr(dataset, "fingerprint", None)
    if own is not None:
        return str(own() if callable(own) else own)
    return f"{type(dataset).__name__}[{len(dataset) if isinstance(dataset, Sized) else '?'}]"


def _close(batches: weakref.ref[Generator[Batch, None, None]]) -> None:
    """Close an iterator that is still there; its loader goes with it, and stops its workers."""
    alive = batches()
    if alive is not None:
        alive.close()


def _shield_worker(worker_id: int) -> None:
    """Let the trainer decide when to stop: Ctrl-C and a group-wide SIGTERM reach the workers too.

    A worker ignores Ctrl-C and the first SIGTERM; a second one ends it. It ends by itself when its loader goes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def concatenate(parts: Sequence[Any]) -> Any:
    """Join the values of micro-batches: tensors and lists along the batch, mappings and tuples item by item.

    Equal values without a batch dimension are kept.

    Raises:
        ValueError: If the parts differ in type or keys, or are values of another kind that are not equal.

    Example:
        >>> concatenate([{"x": torch.zeros(2), "k": 3}, {"x": torch.ones(1), "k": 3}])
        {'x': tensor([0., 0., 1.]), 'k': 3}
    """
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise ValueError(f"micro-batches hold values of types {sorted({type(p).__name__ for p in parts})}")
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts)) if first.ndim else _equal(parts)
    if isinstance(first, np.ndarray):
        return np.concatenate(list(parts))
    if isinstance(first, dict):
        if any(part.keys() != first.keys() for part in parts):
            raise ValueError(f"micro-batches hold different keys: {[sorted(part) for part in parts]}")
        return {key: concatenate([part[key] for part in parts]) for key in first}
    if isinstance(first, list):
        return [item for part in parts for item in part]
    if isinstance(first, tuple) and all(len(part) == len(first) for part in parts):
        return rebuilt(first, [concatenate(items) for items in zip(*parts, strict=True)])
    return _equal(parts)


def rebuilt(like: Any, items: Sequence[Any]) -> Any:
    """A list, tuple or named tuple of the type of another.

    Example:
        >>> rebuilt((1, 2), [3, 4])
        (3, 4)
    """
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def _equal(parts: Sequence[Any]) -> Any:
    if any(part != parts[0] for part in parts):
        raise ValueError(f"values without a batch dimension must be equal in all micro-batches, got {list(parts)}")
    return parts[0]
