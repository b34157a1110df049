"""The base of environments that step a whole batch in compiled kernels.

A subclass holds its state in arrays with one row a sub-environment and fills in two methods that each call one
``nogil`` kernel over a range of rows; the rest (autoreset, seeding, checks, threads, buffers, snapshots) is here.
Sketch of a corridor of ten cells with rewards at its end::

    class Corridor(BatchVectorEnv):
        def __init__(self, num_envs: int, **as_below):
            self._cell = np.zeros(num_envs, np.int64)  # state arrays first: super().__init__ does not call back
            super().__init__(num_envs, observation_space=Box(0, 9, (1,), np.uint8), action_space=Discrete(2),
                             infos={"cell": InfoSpec(np.int64)}, ...)

        def _reset_rows(self, frame, mask, lo, hi):
            _reset(self._cell, self.streams, frame.obs, frame.info["cell"], mask, lo, hi)

        def _step_rows(self, frame, actions, skip, lo, hi):
            _step(self._cell, self.streams, actions, skip, frame.obs, frame.reward, frame.terminated,
                  frame.truncated, frame.info["cell"], lo, hi)

        def _state_arrays(self):
            return {"cell": self._cell}

The kernels write *all* of row ``e`` of the frame (observation, every info; `_step_rows` also reward and flags), since
frames rotate. They draw from ``moment(streams.key[e], streams.episode[e], streams.step[e])`` of `envs._rng`; the base
advances ``episode`` and ``step`` before it calls them (``step`` is 0 in `_reset_rows`, 1 in the first `_step_rows`).

Legend: ``B`` sub-environments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs._frame import BoolArray, Frame, InfoSpec
from envs._rng import Streams, stream_key
from envs._rows import begin_episodes, mark_ended, take_step
from envs._threads import Partition

__all__ = ["BatchVectorEnv", "Frame", "InfoSpec", "Streams"]


class BatchVectorEnv(VectorEnv, ABC):
    """A `gymnasium.vector.VectorEnv` whose sub-environments are rows of arrays; see the module's docstring.

    The trajectory of sub-environment ``e`` depends on its seed and actions only: not on ``num_envs``, ``num_threads``
    or the other sub-environments. ``reset(seed=s)`` keys sub-environment ``e`` with ``(s, e)``; ``reset(seed=[...])``
    keys each with ``(seed[e], 0)``, the stream of a single environment with that seed, and ``None`` entries keep their
    stream. Without a seed, the first reset takes one from the system; later ones go on with the next episode.

    Infos are arrays ``[B, ...]`` with their masks ``_key``, the same keys at every reset and step. Actions of rows that
    only auto-reset (NEXT_STEP, after an end) are not looked at.

    Args:
        num_envs: ``B``, at least 1.
        observation_space: Space of one sub-environment, a ``Box`` or a ``Dict`` of ``Box``.
        action_space: Space of one sub-environment, starting at 0.
        infos: The infos by key.
        autoreset_mode: A mode or its value, "NextStep" (default), "SameStep" or "Disabled".
        copy: Return copies (default). Otherwise what a call returns is overwritten ``buffers`` calls later, and no
            array is allocated in NEXT_STEP and DISABLED mode.
        buffers: Frames that rotate, at least 2 if not ``copy``.
        num_threads: Threads that step a static partition of the rows; 0 means one a core. Default 1.
        render_mode: One of ``metadata["render_modes"]``, or None.

    Raises:
        ValueError: A count that is too small, an unknown autoreset or render mode.
    """

    streams: Streams
    single_action_space: gymnasium.spaces.Discrete

    def __init__(
        self,
        num_envs: int,
        *,
        observation_space: gymnasium.Space,
        action_space: gymnasium.spaces.Discrete,
        infos: Mapping[str, InfoSpec],
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        buffers: int = 2,
        num_threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_envs", num_envs, 1),
            ("num_threads", num_threads, 0),
            ("buffers", buffers, 1 if copy else 2),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}{'' if copy else ' with copy=False'}, got {value}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.num_envs, self.render_mode, self._copy = num_envs, render_mode, copy
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self._mode}

        zeros = np.zeros(num_envs, np.int64)
        self.streams = Streams(np.zeros(num_envs, np.uint64), zeros - 1, zeros.copy())
        self._keyed = self._begun = self._some_ended = False
        self._ended = np.zeros(num_envs, np.bool_)
        self._none = np.zeros(num_envs, np.bool_)
        self._actions = zeros.copy()
        self._frames = [Frame.empty(observation_space, infos, num_envs) for _ in range(1 if copy else buffers)]
        self._current = 0
        self._threads = Partition(num_envs, num_threads, name=type(self).__name__)

    @abstractmethod
    def _reset_rows(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        """Begins an episode in every row ``lo <= e < hi`` with ``mask[e]``; writes its observation and infos."""

    @abstractmethod
    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        """Steps every row ``lo <= e < hi`` without ``skip[e]``; writes all of the frame's row."""

    @abstractmethod
    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays that make up the state, not copied: `set_state` writes into them."""

    def _set_options(self, options: Mapping[str, Any], mask: BoolArray) -> None:
        """Takes the options of `reset`, all but ``reset_mask``, for the rows in ``mask``; none by default."""
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; known: ['reset_mask']")

    def _finish_infos(self, infos: dict[str, Any]) -> None:
        """May add to or alter the info dictionary (also ``final_info``) just before it is returned."""

    def _render_row(self, e: int) -> Any:
        """Sub-environment ``e`` as ``render_mode`` asks."""
        raise NotImplementedError(f"{type(self).__name__} does not render")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes.

        Args:
            seed: One seed for all, or one a sub-environment; see the class.
            options: ``reset_mask`` (bool array ``[B]``: the others go on and return what they returned last) and those
                of the environment.

        Raises:
            ClosedEnvironmentError: After `close`.
            TypeError: ``reset_mask`` is no bool array.
            ValueError: ``reset_mask`` has another shape or no true entry, unknown options, a negative seed or a wrong
                number of seeds.
        """
        self._check_open()
        rest = dict(options or {})
        mask = self._checked_mask(rest.pop("reset_mask")) if "reset_mask" in rest else ~self._none
        self._set_options(rest, mask)
        self._seed_rows(seed, mask)
        previous, frame = self.frame, self._next_frame()
        if previous is not frame and not mask.all():
            frame.copy_from(previous)
        self._threads.run(lambda lo, hi: self._begin(frame, mask, lo, hi))
        self._clear(frame, mask)
        self._ended[mask] = False
        frame.last[mask] = False
        self._remember()
        return self._observation(frame), self._infos(frame)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every sub-environment.

        Args:
            actions: ``[B]`` integers.

        Returns:
            ``(obs, reward, terminated, truncated, infos)``, arrays ``[B, ...]``.

        Raises:
            ClosedEnvironmentError: After `close`.
            ResetNeeded: Before the first reset; in DISABLED mode, on an ended sub-environment.
            InvalidAction: Not integers, another shape, or an action outside the space.
        """
        self._check_open()
        self._check_begun()
        self._check_going()
        resets = self._some_ended and self._mode is AutoresetMode.NEXT_STEP
        skip = self._ended if resets else self._none
        self._take_actions(actions, skip)
        frame = self._next_frame()
        if resets:
            self._threads.run(lambda lo, hi: self._step_and_begin(frame, skip, lo, hi))
            self._clear(frame, skip)
        else:
            self._threads.run(lambda lo, hi: self._step_rows(frame, self._actions, skip, lo, hi))
        self._some_ended = mark_ended(frame.terminated, frame.truncated, self._ended, frame.last)
        final = self._reset_ended(frame) if self._some_ended and self._mode is AutoresetMode.SAME_STEP else {}
        scalars = (frame.reward, frame.terminated, frame.truncated)
        reward, terminated, truncated = (x.copy() for x in scalars) if self._copy else scalars
        return self._observation(frame), reward, terminated, truncated, self._infos(frame) | final

    def render(self) -> tuple[Any, ...] | None:
        """One picture or text a sub-environment, or None without a ``render_mode``.

        Raises:
            ClosedEnvironmentError: After `close`.
            ResetNeeded: Before the first reset.
        """
        self._check_open()
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render_mode; give one to the constructor, such as 'rgb_array'")
            return None
        self._check_begun()
        return tuple(self._render_row(e) for e in range(self.num_envs))

    def state(self) -> dict[str, Any]:
        """An exact snapshot, random streams included: a dictionary of copied arrays and integers.

        Raises:
            ClosedEnvironmentError: After `close`.
        """
        self._check_open()
        arrays = {name: array.copy() for name, array in self._all_arrays().items()}
        return {"num_envs": self.num_envs, "keyed": int(self._keyed), **arrays}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a snapshot of `state`, taken from an environment with the same arguments.

        Raises:
            ClosedEnvironmentError: After `close`.
            ValueError: Other names, shapes or dtypes than this environment's.
        """
        self._check_open()
        arrays = self._all_arrays()
        if odd := set(state) ^ {"num_envs", "keyed", *arrays}:
            raise ValueError(f"not a state of {self!r}: missing or unexpected {sorted(odd)}")
        for name, array in arrays.items():
            given = np.asarray(state[name])
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(
                    f"state[{name!r}] must be {array.dtype} of shape {array.shape}, got {given.dtype} of {given.shape}"
                )
        self._next_frame()
        for name, array in self._all_arrays().items():
            np.copyto(array, state[name])
        self._keyed = bool(state["keyed"])
        self._remember()

    @property
    def bytes_per_env(self) -> float:
        """Memory of the state and the frames, in bytes a sub-environment."""
        arrays = [*self._all_arrays().values(), self._actions, self._none]
        others = [array for frame in self._frames if frame is not self.frame for array in frame.arrays().values()]
        return sum(array.nbytes for array in (*arrays, *others)) / self.num_envs

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the threads."""
        if hasattr(self, "_threads"):
            self._threads.close()

    @property
    def frame(self) -> Frame:
        """What the last call wrote; with ``copy=False`` also what it returned."""
        return self._frames[self._current]

    def _next_frame(self) -> Frame:
        self._current = (self._current + 1) % len(self._frames)
        return self.frame

    def _all_arrays(self) -> dict[str, np.ndarray]:
        """State, streams and the frame returned last, by name, not copied."""
        return {
            **{f"env/{name}": array for name, array in self._state_arrays().items()},
            **{f"stream/{name}": array for name, array in self.streams._asdict().items()},
            **{f"frame/{name}": array for name, array in self.frame.arrays().items()},
            "ended": self._ended,
        }

    def _begin(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        begin_episodes(self.streams, mask, lo, hi)
        self._reset_rows(frame, mask, lo, hi)

    def _step_and_begin(self, frame: Frame, skip: BoolArray, lo: int, hi: int) -> None:
        self._step_rows(frame, self._actions, skip, lo, hi)
        self._begin(frame, skip, lo, hi)

    def _clear(self, frame: Frame, mask: BoolArray) -> None:
        """No reward and no end in the rows that were reset."""
        for array in (frame.reward, frame.terminated, frame.truncated):
            np.copyto(array, 0, where=mask, casting="unsafe")

    def _reset_ended(self, frame: Frame) -> dict[str, Any]:
        """SAME_STEP: resets the rows that have just ended; returns their last observations and infos."""
        final = frame.final_infos(self._ended)
        self._finish_infos(final["final_info"])
        self._threads.run(lambda lo, hi: self._begin(frame, self._ended, lo, hi))
        frame.last[:] = False
        self._ended[:] = False
        self._some_ended = False
        return final

    def _observation(self, frame: Frame) -> Any:
        if not self._copy:
            return frame.obs
        if isinstance(frame.obs, dict):
            return {key: array.copy() for key, array in frame.obs.items()}
        return frame.obs.copy()

    def _infos(self, frame: Frame) -> dict[str, Any]:
        infos = {key: array.copy() for key, array in frame.infos.items()} if self._copy else dict(frame.infos)
        self._finish_infos(infos)
        return infos

    def _checked_mask(self, mask: Any) -> BoolArray:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            given = f"{mask.dtype} array" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"options['reset_mask'] must be a bool numpy array, got {given}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and a true entry, "
                f"got shape {mask.shape} with {mask.sum()} true"
            )
        return mask

    def _seed_rows(self, seed: int | Sequence[int | None] | None, mask: BoolArray) -> None:
        if seed is None or isinstance(seed, int | np.integer):
            if seed is None and self._keyed:
                return
            super().reset(seed=None if seed is None else int(seed))
            one = int(self.np_random_seed or 0)
            pairs: list[tuple[int | None, int]] = [(one, e) for e in range(self.num_envs)]
        else:
            if len(seed) != self.num_envs:
                raise ValueError(f"expected one seed for each of {self.num_envs} sub-environments, got {len(seed)}")
            if not self._keyed and any(s is None for s in seed):
                self._seed_rows(None, ~self._none)
            pairs = [(s, 0) for s in seed]
        keys = [None if s is None else stream_key(s, e) for s, e in pairs]
        for e in range(self.num_envs):
            key = keys[e]
            if key is not None and (mask[e] or not self._keyed):
                self.streams.key[e], self.streams.episode[e] = key, -1
        self._keyed = True

    def _take_actions(self, actions: Any, skip: BoolArray) -> None:
        given, n = np.asarray(actions), int(self.single_action_space.n)
        if given.dtype.kind not in "iu":
            raise InvalidAction(f"actions must be integers, got dtype {given.dtype}")
        if given.shape != (self.num_envs,):
            raise InvalidAction(f"actions must have shape ({self.num_envs},), got {given.shape}")
        np.copyto(self._actions, given, casting="same_kind")
        bad = take_step(self._actions, n, skip, self.streams.step)
        if bad >= 0:
            raise InvalidAction(f"actions[{bad}] must be in 0..{n - 1}, got {given[bad]}")

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{type(self).__name__} was closed; make a new one")

    def _remember(self) -> None:
        """Two facts about the arrays that every step asks for."""
        self._begun = bool((self.streams.episode >= 0).all())
        self._some_ended = bool(self._ended.any())

    def _check_begun(self) -> None:
        if not self._begun:
            e = int(self.streams.episode.argmin())
            raise ResetNeeded(f"sub-environment {e} has not begun an episode: call reset() first")

    def _check_going(self) -> None:
        if self._some_ended and self._mode is AutoresetMode.DISABLED:
            e = int(self._ended.argmax())
            raise ResetNeeded(f"the episode of sub-environment {e} is over: call reset(), with a reset_mask for some")
