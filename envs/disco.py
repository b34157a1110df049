"""Random Disco Maze (after "Never Give Up", arXiv 2002.06038, section 4.1): ever new mazes with walls that flicker.

Nothing is rewarded and the colours cannot be predicted, so an explorer of raw novelty stays where it is. The number of
colours is second-hand (spec: zipfian-envs.md, section 6.1).

Legend: ``B`` sub-environments, ``S`` cells of the board's edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs import _disco_kernels as kernels
from envs._compile import announce
from envs._draw import SCALE, disc, enlarge, outline
from envs._frame import BoolArray, Frame, InfoSpec
from envs._single import SingleEnv
from envs._vector import BatchVectorEnv

_FLOOR, _WALL, _SEEN, _AGENT, _VIEW = (15, 15, 20), (110, 110, 125), (35, 55, 45), (255, 255, 255), (230, 60, 60)


class RandomDiscoMazeVector(BatchVectorEnv):
    """The disco maze, a batch at a time: ``gymnasium.make_vec("byol_ext/RandomDiscoMaze-v0", num_envs=B)``.

    A depth-first maze is carved and a start drawn for each episode. Actions: 0 noop, 1 north, 2 east, 3 south, 4 west.
    Observation: ``[B, S, S, 3]`` uint8, one pixel a cell: floor black, agent white, each wall tile in one of five
    colours redrawn every step. The reward is 0 and no episode terminates: it is truncated after ``max_steps``.

    Infos, ``[B]`` each: ``noise_on`` (true on every step: the walls have changed), ``noise_asked`` (false),
    ``noise_events`` (steps this episode), ``cell`` (row times ``S`` plus column), ``coverage`` (share of the floor
    visited this episode).

    Args:
        num_envs: ``B``.
        size: ``S``, odd, at least 5; default 21 (Never Give Up, section 4.1; spec: second-hand).
        window: Show only so many cells around the agent, odd (beyond the board is black); None shows the board.
        max_steps: Default 500 (ours).
        autoreset_mode: See `BatchVectorEnv`, like the arguments below.
        copy: Return copies.
        buffers: Frames that rotate without ``copy``.
        num_threads: 0 means one a core.
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.

    Raises:
        ValueError: A size or window that is even or too small, or ``max_steps`` below 1.

    Example:
        >>> env = RandomDiscoMazeVector(2, window=5)
        >>> obs, infos = env.reset(seed=0)
        >>> obs.shape, obs[:, 2, 2].tolist()
        ((2, 5, 5, 3), [[255, 255, 255], [255, 255, 255]])
        >>> env.close()
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = 21,
        window: int | None = None,
        max_steps: int = 500,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        buffers: int = 2,
        num_threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if size < 5 or size % 2 == 0:
            raise ValueError(f"size must be odd and at least 5, got {size}")
        if window is not None and (window < 3 or window % 2 == 0 or window > size):
            raise ValueError(f"window must be None or odd and in 3..size={size}, got {window}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        edge = size if window is None else window
        self.window, self._edge, self._max_steps = window, edge, max_steps
        super().__init__(
            num_envs,
            observation_space=Box(0, 255, (edge, edge, 3), np.uint8),
            action_space=Discrete(kernels.ACTIONS),
            infos={
                "noise_on": InfoSpec(np.bool_),
                "noise_asked": InfoSpec(np.bool_),
                "noise_events": InfoSpec(np.int32),
                "cell": InfoSpec(np.int64),
                "coverage": InfoSpec(np.float64),
            },
            autoreset_mode=autoreset_mode,
            copy=copy,
            buffers=buffers,
            num_threads=num_threads,
            render_mode=render_mode,
        )
        self._disco = kernels.Disco(
            wall=np.zeros((num_envs, size, size), np.bool_),
            agent=np.zeros((num_envs, 2), np.int32),
            visited=np.zeros((num_envs, size, size), np.bool_),
            visits=np.zeros(num_envs, np.int32),
            lit=np.zeros((num_envs, 3 * edge * edge), np.uint8),
        )
        self._path = np.zeros((num_envs, (size // 2) ** 2), np.int32)
        self._outs = {id(frame): _out(frame) for frame in self._frames}
        self._tables = (tuple(self._disco), tuple(self.streams))
        announce("RandomDiscoMaze", kernels.reset_rows, kernels.step_rows)

    def _reset_rows(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        out = self._outs[id(frame)]
        kernels.reset_rows(self._tables[0], self._path, self._tables[1], mask, self._edge, out, lo, hi)

    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        out = self._outs[id(frame)]
        kernels.step_rows(*self._tables, actions, skip, self._max_steps, self._edge, out, lo, hi)

    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        return self._disco._asdict()

    def _render_row(self, e: int) -> Any:
        wall, (r, c) = self._disco.wall[e], self._disco.agent[e]
        if self.render_mode == "ansi":
            text = np.where(wall, "#", ".")
            text[r, c] = "A"
            return "\n".join("".join(row) for row in text) + "\n"
        cells = np.empty((*wall.shape, 3), np.uint8)
        cells[:], cells[self._disco.visited[e]], cells[wall] = _FLOOR, _SEEN, _WALL
        obs = self._observation(self.frame)[e]
        top, left = (0, 0) if self.window is None else (r - self.window // 2, c - self.window // 2)
        for y, x in np.ndindex(obs.shape[:2]):
            if 0 <= top + y < len(wall) and 0 <= left + x < len(wall) and wall[top + y, left + x]:
                cells[top + y, left + x] = obs[y, x]
        picture = enlarge(cells)
        disc(picture, r, c, _AGENT)
        if self.window is not None:
            outline(picture, top, left, self.window, self.window, _VIEW, scale=SCALE)
        return picture


def _out(frame: Frame) -> tuple[np.ndarray, ...]:
    assert isinstance(frame.obs, np.ndarray)
    return tuple(kernels.Out(frame.obs.reshape(len(frame.obs), -1), frame.truncated, **frame.info))


class RandomDiscoMaze(SingleEnv):
    """The disco maze as one environment: ``gymnasium.make("byol_ext/RandomDiscoMaze-v0")``.

    Everything is as in `RandomDiscoMazeVector`, for one sub-environment; observation ``[S, S, 3]``.

    Args:
        size: Edge of the board.
        window: Show only so many cells around the agent.
        max_steps: Steps of an episode.
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.
    """

    metadata = RandomDiscoMazeVector.metadata

    def __init__(
        self, *, size: int = 21, window: int | None = None, max_steps: int = 500, render_mode: str | None = None
    ) -> None:
        super().__init__(
            RandomDiscoMazeVector(
                1,
                size=size,
                window=window,
                max_steps=max_steps,
                autoreset_mode=AutoresetMode.DISABLED,
                copy=False,
                render_mode=render_mode,
            )
        )
