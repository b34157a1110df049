"""Zipf's Gridworld (Chan et al. 2022): find the object shown in the corner; maps and goals follow a Zipf law.

The agent walks over 9 rooms in 8 directions and sees the 7 x 7 tiles around it. Stepping on the goal gives +1, on
another object 0, and either ends the episode; after 100 steps it is truncated. `ZipfGridworld` draws its tasks from the
published NumPy stream, `ZipfGridworldVector` steps a batch in compiled kernels with a random stream of its own for each
sub-environment.

Legend: ``B`` sub-environments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs._compile import announce
from envs._single import SingleEnv
from envs._vector import BatchVectorEnv, BoolArray, Frame
from envs.zipf._kernels import Canvas, Infos, State, reset_rows, step_rows
from envs.zipf.game import (
    INFOS,
    Observe,
    PixelType,
    Rare,
    Settings,
    checked_tasks,
    make_canvas,
    make_law,
    make_tables,
)
from envs.zipf.generator import Cell
from envs.zipf.law import SPLITS, Split, check_choice
from envs.zipf.render import Scene, draw_scene, write_scene
from envs.zipf.world import ACTIONS, World

_METADATA: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}


def _info_views(info: Mapping[str, np.ndarray]) -> Infos:
    """The frame's infos as the kernels write them: texts as words."""
    outcome = info["outcome"]
    return Infos(**{**info, "outcome": outcome.view(np.uint64).reshape(len(outcome), -1)})


class ZipfGridworldVector(BatchVectorEnv):
    """Many gridworlds, stepped together by compiled kernels.

    Observations, by ``obs`` (see `Settings` for every argument not listed here): ``image`` ``[B, 63, 63, 3]``;
    ``tiles`` ``[B, 7, 7]`` uint8 with 0 floor, 1 wall, 2 agent, ``3 + look`` an object, 255 the covered corner, and
    ``cue`` ``[B]`` uint8, the look of the goal, ``15 * shape + colour``. Actions: 0..7 = N, NE, E, SE, S, SW, W, NW.

    Infos, ``[B]`` at every reset and step: ``task_id`` (``map * num_objects + object``), ``ranks`` ``[B, 2]`` (map and
    goal, 0 the most frequent), ``task_prob`` under the split in use, ``is_rare`` (map and goal both), ``cell`` (map and
    place in one number); at an episode's last step ``success`` and ``outcome`` ("goal", "wrong" or "timeout").

    Options of `reset`: ``task`` (map, object), one for all or ``[B, 2]``, for the episodes that begin now; ``split``,
    from now on; ``reset_mask``.

    Memory of a sub-environment, with two frames: 24.0 kB for pixels, 0.33 kB for tiles (`bytes_per_env`); the tables of
    all maps and pictures take 0.3 MB.

    Args:
        num_envs: ``B``.
        settings: As in `Settings`, with its defaults, which are the published environment.
        autoreset_mode, copy, buffers, num_threads, render_mode: See `envs._vector.BatchVectorEnv`; renders
            "rgb_array" and "ansi".

    Example:
        >>> env = ZipfGridworldVector(2, obs="tiles")
        >>> obs, infos = env.reset(seed=0, options={"task": [(0, 3), (11, 0)]})
        >>> obs["tiles"].shape, obs["cue"].tolist(), infos["ranks"].tolist()
        ((2, 7, 7), [7, 220], [[0, 3], [11, 0]])
    """

    metadata = _METADATA

    def __init__(
        self,
        num_envs: int = 1,
        *,
        split: Split = "zipf",
        exponent: float = 2.0,
        rare: Rare = 0.2,
        num_maps: int = 20,
        num_objects: int = 20,
        num_rooms: Cell = (3, 3),
        room_size: Cell = (3, 3),
        max_steps: int = 100,
        view: int = 7,
        tile: int = 9,
        map_seed: int = 1234,
        rank_seed: int | None = None,
        obs: Observe = "pixels",
        dtype: PixelType = "uint8",
        flat: bool = False,
        law: Callable[[int], object] | None = None,
        level: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        buffers: int = 2,
        num_threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        self.settings = Settings(
            split=split,
            exponent=exponent,
            rare=rare,
            num_maps=num_maps,
            num_objects=num_objects,
            num_rooms=num_rooms,
            room_size=room_size,
            max_steps=max_steps,
            view=view,
            tile=tile,
            map_seed=map_seed,
            rank_seed=rank_seed,
            obs=obs,
            dtype=dtype,
            flat=flat,
            law=law,
            level=level,
        )
        super().__init__(
            num_envs,
            observation_space=self.settings.observation_space,
            action_space=Discrete(len(ACTIONS)),
            infos=INFOS,
            autoreset_mode=autoreset_mode,
            copy=copy,
            buffers=buffers,
            num_threads=num_threads,
            render_mode=render_mode,
        )
        announce("ZipfGridworld", reset_rows, step_rows)
        self.world = self.settings.world()
        self._tables, self._law = make_tables(self.settings, self.world), make_law(self.settings)
        self._state = State(
            split=np.array([SPLITS.index(self.settings.split)]),
            map=np.zeros(num_envs, np.int32),
            object=np.zeros(num_envs, np.int32),
            position=np.zeros(num_envs, np.int32),
            outcome=np.zeros(num_envs, np.uint8),
            forced=np.full((num_envs, 2), -1, np.int32),
        )
        self._targets: dict[int, tuple[Canvas, Infos]] = {
            id(frame): (make_canvas(frame.obs), _info_views(frame.info)) for frame in self._frames
        }

    @property
    def split(self) -> Split:
        """The split in use."""
        return SPLITS[self._state.split[0]]

    def draw_task(self, rng: np.random.Generator, split: Split) -> tuple[int, int]:
        """A task (map, object) with the draws of the published environment: the map, then the object.

        Raises:
            ValueError: On an unknown split.
        """
        check_choice("split", split, SPLITS)
        row = SPLITS.index(split)
        laws = self._law.map_cumulative[row], self._law.object_cumulative[row]
        m, o = (int(law.searchsorted(rng.random(), side="right")) for law in laws)
        return m, o

    def _reset_rows(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        canvas, infos = self._targets[id(frame)]
        reset_rows(self._tables, self._law, self._state, self.streams, canvas, infos, mask, lo, hi)

    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        canvas, infos = self._targets[id(frame)]
        step_rows(
            self._tables,
            self._law,
            self._state,
            self.streams,
            canvas,
            infos,
            frame.reward,
            frame.terminated,
            frame.truncated,
            actions,
            skip,
            lo,
            hi,
        )

    def _set_options(self, options: Mapping[str, Any], mask: BoolArray) -> None:
        if unknown := set(options) - {"task", "split"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: task, split, reset_mask")
        split = options.get("split", self.split)
        check_choice("split", split, SPLITS)
        tasks = checked_tasks(options["task"], self._law, self.num_envs) if "task" in options else np.int32(-1)
        self._state.forced[:] = np.where(mask[:, None], tasks, -1)
        self._state.split[0] = SPLITS.index(split)

    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        return self._state._asdict()

    def _render_row(self, e: int) -> np.ndarray | str:
        scene = Scene(
            world=self.world,
            settings=self.settings,
            law=self._law,
            split=self.split,
            map=int(self._state.map[e]),
            object=int(self._state.object[e]),
            position=int(self._state.position[e]),
            step=int(self.streams.step[e]),
        )
        return draw_scene(scene) if self.render_mode == "rgb_array" else write_scene(scene)


class ZipfGridworld(SingleEnv):
    """One gridworld; ``reset(seed=s)`` and plain resets then give the published sequence of tasks for the seed.

    Observations, actions, infos and options (all but ``reset_mask``) are those of one row of `ZipfGridworldVector`.
    With ``obs="pixels", dtype="float32", flat=True`` the observation is the original's array.

    Args:
        settings: As in `envs.zipf.game.Settings`, with its defaults, which are the published environment.
        render_mode: "rgb_array", "ansi" or None.

    Example:
        >>> env = ZipfGridworld(split="rare")
        >>> [env.reset(seed=seed)[1]["task_id"] for seed in (1234, None, None)]  # 20 * map + object
        [397, 397, 356]
    """

    metadata = _METADATA
    batch: ZipfGridworldVector

    def __init__(
        self,
        *,
        split: Split = "zipf",
        exponent: float = 2.0,
        rare: Rare = 0.2,
        num_maps: int = 20,
        num_objects: int = 20,
        num_rooms: Cell = (3, 3),
        room_size: Cell = (3, 3),
        max_steps: int = 100,
        view: int = 7,
        tile: int = 9,
        map_seed: int = 1234,
        rank_seed: int | None = None,
        obs: Observe = "pixels",
        dtype: PixelType = "uint8",
        flat: bool = False,
        law: Callable[[int], object] | None = None,
        level: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        batch = ZipfGridworldVector(
            split=split,
            exponent=exponent,
            rare=rare,
            num_maps=num_maps,
            num_objects=num_objects,
            num_rooms=num_rooms,
            room_size=room_size,
            max_steps=max_steps,
            view=view,
            tile=tile,
            map_seed=map_seed,
            rank_seed=rank_seed,
            obs=obs,
            dtype=dtype,
            flat=flat,
            law=law,
            level=level,
            autoreset_mode=AutoresetMode.DISABLED,
            copy=False,
            render_mode=render_mode,
        )
        super().__init__(batch)

    @property
    def world(self) -> World:
        """The maps and their tables."""
        return self.batch.world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; with a seed, the first of the published sequence for it.

        Args:
            seed: Seeds the stream of tasks; None goes on with it.
            options: ``task`` (map, object) for this episode, which then draws nothing; ``split`` from now on.

        Raises:
            gymnasium.error.ClosedEnvironmentError: After `close`.
            ValueError: On an unknown option or split, or a task out of range.
        """
        gymnasium.Env.reset(self, seed=seed)
        given = dict(options or {})
        if "task" not in given:
            given["task"] = self.batch.draw_task(self.np_random, given.get("split", self.batch.split))
        return super().reset(options=given)

    def state(self) -> dict[str, Any]:
        """An exact snapshot, the stream of tasks included."""
        return {**super().state(), "np_random": self.np_random.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a snapshot; raises ValueError if it is not one of this environment."""
        if "np_random" not in state:
            raise ValueError("not a state of ZipfGridworld: np_random is missing")
        super().set_state({key: value for key, value in state.items() if key != "np_random"})
        self.np_random.bit_generator.state = state["np_random"]
