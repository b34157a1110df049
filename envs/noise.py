"""Noise for any environment with pictures: distractions that an explorer should not fall for.

A noise is a description; `NoisyEnv` and `NoisyVectorEnv` put it into an environment, the latter in place on the batch
of uint8 pictures after the environment has stepped:

>>> import gymnasium, envs
>>> from envs.noise import NoisyVectorEnv, OnDemandNoise
>>> maze = gymnasium.make_vec("byol_ext/StochasticMaze-v0", num_envs=2)
>>> env = NoisyVectorEnv(maze, OnDemandNoise(action=0))
>>> obs, infos = env.reset(seed=0)
>>> obs, reward, terminated, truncated, infos = env.step([0, 1])
>>> infos["noise_on"].tolist(), infos["noise_events"].tolist()
([True, False], [1, 0])
>>> env.close()

Names elsewhere (spec: exploration.md, section 7.3): NoopNoisePatch is `OnDemandNoise` with a ``box``, PersistentNoise
is `PersistiveNoise`, StickyActions is `StickyAction`.

Legend: ``B`` sub-environments; pictures are views ``[B, F, H, W, L]`` with channels first (``F``) or last (``L``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from envs._frame import BoolArray
from envs._noise_sources import (
    Noise,
    NoisyTV,
    OnDemandNoise,
    PersistiveNoise,
    PixelNoise,
    Rows,
    Shape,
    StickyAction,
    picture_shape,
)
from envs._rng import Streams, stream_key
from envs._rows import begin_episodes, take_step

__all__ = [
    "Noise",
    "NoisyEnv",
    "NoisyTV",
    "NoisyVectorEnv",
    "OnDemandNoise",
    "PersistiveNoise",
    "PixelNoise",
    "StickyAction",
]


class NoisyVectorEnv(VectorWrapper):
    """A vector environment with a noise; wrappers can be stacked.

    Infos, ``[B]`` each at every reset and step: ``noise_on`` (the noise acted on this transition), ``noise_asked`` (the
    action asked for it), ``noise_events`` (how often it acted this episode); where the environment has them already,
    either's and the sum. What the noise of sub-environment ``e`` draws depends on ``(seed, e)`` and the noises below it
    only (a list of seeds keys each with ``(seed[e], 0)``, the noise of a `NoisyEnv` with that seed).

    Pictures are altered in place where they can be written, so give it what the environment hands over; they are copied
    otherwise. All three autoreset modes work; with SAME_STEP ``final_obs`` and ``final_info`` have the noise as well.

    Args:
        env: Observations are uint8 pictures ``[C, H, W]``, ``[H, W, C]`` or ``[H, W]``, actions ``Discrete`` from 0.
        noise: What to put in.

    Raises:
        ValueError: Other spaces, an environment that does not tell its autoreset mode, or a noise that does not fit.
    """

    def __init__(self, env: VectorEnv, noise: Noise) -> None:
        super().__init__(env)
        self.noise = noise
        self._run = _Run(noise, env.single_observation_space, env.single_action_space, env.num_envs, _level(env))
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(f"{env} does not tell its autoreset mode in metadata['autoreset_mode']: {mode!r}")
        self._mode = mode
        self._none, self._ended = np.zeros((2, env.num_envs), np.bool_)
        self._obs: NDArray[np.uint8] | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment and, in the rows that begin an episode, the noise."""
        mask: BoolArray = (options or {}).get("reset_mask", ~self._none)
        previous = None if mask.all() else self._obs
        obs, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        obs = _writable(obs)
        if previous is not None:
            obs[~mask] = previous[~mask]
        self._run.seed(seed, mask)
        self._run.begin(obs, mask)
        self._ended[mask] = False
        self._obs = obs
        return obs, self._run.infos(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps the environment, with the noise before it (actions) and after it (pictures).

        Raises:
            gymnasium.error.InvalidAction: No integers ``[B]``, or an action outside the space.
        """
        begins = self._ended if self._mode is AutoresetMode.NEXT_STEP else self._none
        live = ~begins
        asked = self._run.act(actions, live)
        obs, reward, terminated, truncated, infos = self.env.step(asked)
        obs = _writable(obs)
        ended = np.logical_or(terminated, truncated)
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            infos = self._show_final(infos, ended)
            live, begins, ended = ~ended, ended, self._none
        self._run.show(obs, live)
        if begins.any():
            self._run.begin(obs, begins)
        self._ended = np.array(ended)
        self._obs = obs
        return obs, reward, terminated, truncated, self._run.infos(infos)

    def state(self) -> dict[str, Any]:
        """An exact snapshot of the environment (which needs a ``state`` as well) and the noise."""
        inner = {f"env/{key}": value for key, value in self.env.state().items()}  # type: ignore[attr-defined]
        obs = np.zeros(0, np.uint8) if self._obs is None else self._obs.copy()
        return {**inner, **self._run.state(), "noise/ended": self._ended.copy(), "noise/obs": obs}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a snapshot."""
        inner = {key.removeprefix("env/"): value for key, value in state.items() if key.startswith("env/")}
        self.env.set_state(inner)  # type: ignore[attr-defined]
        self._run.set_state(state)
        self._ended = state["noise/ended"].copy()
        self._obs = state["noise/obs"].copy() if state["noise/obs"].size else None

    def _show_final(self, infos: dict[str, Any], ended: BoolArray) -> dict[str, Any]:
        """SAME_STEP: the noise of the last observations and infos."""
        infos = dict(infos)
        last = np.zeros(self.observation_space.shape or (), np.uint8)
        if "final_obs" in infos:
            for e in np.flatnonzero(ended):
                last[e] = infos["final_obs"][e]
        self._run.show(last, ended)
        if "final_obs" in infos:
            infos["final_obs"] = np.array(infos["final_obs"], dtype=object)
            for e in np.flatnonzero(ended):
                infos["final_obs"][e] = last[e].copy()
        infos["final_info"] = self._run.infos(infos.get("final_info", {}), ended)
        infos["_final_info"] = ended.copy()
        return infos


class NoisyEnv(gymnasium.Wrapper):
    """A single environment with a noise, drawn from a stream of the environment's own seed.

    Infos: ``noise_on``, ``noise_asked`` and ``noise_events``, as in `NoisyVectorEnv` for one sub-environment.

    Args:
        env: See `NoisyVectorEnv`.
        noise: What to put in.

    Raises:
        ValueError: Other spaces, or a noise that does not fit.

    Example:
        >>> import envs
        >>> env = NoisyEnv(gymnasium.make("byol_ext/RandomDiscoMaze-v0"), PixelNoise(p=1.0))
        >>> obs, info = env.reset(seed=0)
        >>> info["noise_events"]
        1
        >>> env.close()
    """

    def __init__(self, env: gymnasium.Env, noise: Noise) -> None:
        super().__init__(env)
        self.noise = noise
        self._run = _Run(noise, env.observation_space, env.action_space, 1, _level(env))
        self._all = np.ones(1, np.bool_)
        self._keyed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment and the noise; the noise's stream begins anew with a seed."""
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is None and not self._keyed:
            own = self.unwrapped.np_random_seed
            seed = own if own is not None and own >= 0 else int(self.unwrapped.np_random.integers(2**63))
        self._keyed = True
        self._run.seed(seed, self._all)
        obs = np.array(obs)
        self._run.begin(obs[None], self._all)
        return obs, self._info(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, with the noise before it (action) and after it (picture).

        Raises:
            gymnasium.error.InvalidAction: No integer, or outside the space.
        """
        carried = self._run.act(np.asarray(action)[None], self._all)
        obs, reward, terminated, truncated, info = self.env.step(carried.item())
        obs = np.array(obs)
        self._run.show(obs[None], self._all)
        return obs, reward, terminated, truncated, self._info(info)

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        before = {key: np.array([value]) for key, value in info.items() if key in _KEYS}
        merged = self._run.infos(before)
        return {**info, **{key: merged[key].item() for key in _KEYS}}


_KEYS = ("noise_on", "noise_asked", "noise_events")


class _Run:
    """The rows of a noisy environment, and what both wrappers do with them."""

    def __init__(
        self, noise: Noise, space: gymnasium.Space, actions: gymnasium.Space, num_envs: int, level: int
    ) -> None:
        if not isinstance(actions, gymnasium.spaces.Discrete) or actions.start != 0:
            raise ValueError(f"noise needs Discrete actions from 0, got {actions}")
        self._shape: Shape = picture_shape(space)
        self._num_actions = int(actions.n)
        noise.check(self._shape, self._num_actions)
        self._noise, self._level = noise, level
        zeros = np.zeros(num_envs, np.int64)
        off = np.zeros(num_envs, np.bool_)
        streams = Streams(np.zeros(num_envs, np.uint64), zeros - 1, zeros.copy())
        memory = noise.memory(num_envs, self._shape)
        self._rows = Rows(streams, memory, zeros.copy(), off, off.copy())
        self._events = np.zeros(num_envs, np.int32)
        self._keyed = False

    def seed(self, seed: int | Sequence[int | None] | None, mask: BoolArray) -> None:
        """Keys the rows in ``mask``; without a seed the first time only, from the system."""
        if seed is None and self._keyed:
            return
        if seed is None:
            seed = int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
        one = isinstance(seed, int | np.integer)
        seeds = [(seed, e) if one else (seed[e], 0) for e in range(len(mask))]  # type: ignore[index]
        streams = self._rows.streams
        for e, (value, index) in enumerate(seeds):
            if value is not None and (mask[e] or not self._keyed):
                streams.key[e] = stream_key(stream_key(value, index), 1 + self._level)  # type: ignore[arg-type]
                streams.episode[e] = -1
        self._keyed = True

    def begin(self, obs: NDArray[np.uint8], mask: BoolArray) -> None:
        """Begins episodes in the rows of ``mask``, whose first pictures these are."""
        rows = self._rows
        begin_episodes(rows.streams, mask, 0, len(mask))
        for array in (rows.memory, self._events, rows.on, rows.asked):
            array[mask] = 0
        self._noise.show(rows, self._pictures(obs), mask, True)
        self._events += rows.on & mask

    def act(self, actions: Any, live: BoolArray) -> NDArray[np.int64]:
        """The actions for the environment; counts a step."""
        given, rows = np.asarray(actions), self._rows
        if given.dtype.kind not in "iu" or given.shape != rows.actions.shape:
            raise InvalidAction(
                f"actions must be integers of shape {rows.actions.shape}, got {given.dtype} of {given.shape}"
            )
        np.copyto(rows.actions, given, casting="same_kind")
        bad = take_step(rows.actions, self._num_actions, ~live, rows.streams.step)
        if bad >= 0:
            raise InvalidAction(f"actions[{bad}] must be in 0..{self._num_actions - 1}, got {given[bad]}")
        rows.on[:] = rows.asked[:] = False
        self._noise.act(rows, live)
        return rows.actions.copy()

    def show(self, obs: NDArray[np.uint8], live: BoolArray) -> None:
        """Draws into the pictures of the ``live`` rows after a step."""
        self._noise.show(self._rows, self._pictures(obs), live, False)
        self._events += self._rows.on & live

    def infos(self, infos: dict[str, Any], mask: BoolArray | None = None) -> dict[str, Any]:
        """The infos joined with this noise's."""
        rows = self._rows
        mine: dict[str, Any] = {
            "noise_on": rows.on | infos.get("noise_on", False),
            "noise_asked": rows.asked | infos.get("noise_asked", False),
            "noise_events": self._events + infos.get("noise_events", np.int32(0)),
        }
        masks = {f"_{key}": np.ones_like(rows.on) if mask is None else mask.copy() for key in mine}
        return {**infos, **mine, **masks}

    def state(self) -> dict[str, Any]:
        """Copies of all arrays."""
        return {"noise/keyed": int(self._keyed), **{key: array.copy() for key, array in self._arrays().items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to such copies."""
        for key, array in self._arrays().items():
            np.copyto(array, state[key])
        self._keyed = bool(state["noise/keyed"])

    def _arrays(self) -> dict[str, np.ndarray]:
        rows = self._rows
        named = {**rows.streams._asdict(), "memory": rows.memory, "on": rows.on, "asked": rows.asked}
        return {f"noise/{key}": array for key, array in {**named, "events": self._events}.items()}

    def _pictures(self, obs: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return obs.reshape(len(obs), *self._shape)


def _writable(obs: Any) -> NDArray[np.uint8]:
    given = np.asarray(obs)
    return given if given.flags.writeable and given.flags.c_contiguous else given.copy(order="C")


def _level(env: gymnasium.Env | VectorEnv) -> int:
    """How many noises are below."""
    level = 0
    while isinstance(env, gymnasium.Wrapper | VectorWrapper):
        level += isinstance(env, NoisyEnv | NoisyVectorEnv)
        env = env.env
    return level
