"""A maze with sources of noise that an explorer should not fall for (after "Curiosity in Hindsight", section 5.1).

Rooms in a row are joined by doorways in which blocks oscillate; trackers record who comes by. The paper's board is not
public: this one, its planes and its actions are ours (spec: zipfian-envs.md, section 6.2).

Legend: ``B`` sub-environments, ``R`` trackers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import InvalidProbability
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs import _maze_kernels as kernels
from envs._compile import announce
from envs._draw import SCALE, disc, enlarge, outline
from envs._frame import BoolArray, Frame, InfoSpec
from envs._maze_board import BLOCK, BOARD, NOISE_PLANE, PLANES, RADIUS, VIEW, read_board
from envs._single import SingleEnv
from envs._vector import BatchVectorEnv

NOISES = ("none", "brownian", "pixel", "on_demand", "tv", "wind", "slip", "swap")
_COLORS = {
    "#": (60, 60, 70),
    ".": (15, 15, 20),
    "o": (35, 35, 45),
    "B": (200, 120, 40),
    "S": (40, 90, 160),
    "T": (120, 40, 120),
    "tracker": (50, 160, 70),
    "hit": (150, 230, 120),
}
_AGENT, _CALM, _NOISY = (250, 240, 90), (220, 220, 220), (230, 60, 60)


class StochasticMazeVector(BatchVectorEnv):
    """The stochastic maze, a batch at a time: ``gymnasium.make_vec("byol_ext/StochasticMaze-v0", num_envs=B)``.

    Actions: 0 noop, 1 north, 2 east, 3 south, 4 west. Observation: ``[B, 5, 5, 5]`` uint8 in {0, 255}, five planes
    (wall, block, tracker, start, noise) of the 5 by 5 cells around the agent. The reward is 0 and no episode
    terminates: it is truncated after ``max_steps``. After the agent, each block moves by a cell, unless onto the agent.

    ``noise``:

    - ``"none"``: the blocks sweep down and up, predictably.
    - ``"brownian"``: each block goes up or down by the toss of a coin, and back at the ends of its doorway.
    - ``"pixel"``: with probability ``pixel_p`` a frame's noise plane is random, each cell on with probability 1/2.
    - ``"on_demand"``: the noise plane is random whenever the action carried out was noop.
    - ``"tv"``: the noise plane is random wherever the cell marked ``T`` is in view.
    - ``"wind"``: each column pushes the agent north, with a probability of its own up to ``wind_p``.
    - ``"slip"``: with probability ``slip_p`` a uniformly random action is carried out instead.
    - ``"swap"``: after noop the frame is that of another, uniformly random cell.

    ``sticky`` comes on top of any of them: with this probability the last action is carried out again.

    Infos, ``[B]`` each: ``noise_on`` (the noise acted on this transition: a plane or frame was random, a push or a
    replacement happened, a coin was tossed for a block in view, a repetition overruled another action), ``noise_asked``
    (noop in ``on_demand`` and ``swap``; the TV in view), ``noise_events`` and ``sticky_events`` (how often so far this
    episode), ``cell`` (row times columns plus column), ``coverage`` (share of the reachable cells visited this
    episode), ``tracker_hits`` and ``tracker_first_step`` ``[B, R]`` (arrivals this episode; step of the first one, or
    -1). The default board has four trackers.

    Args:
        num_envs: ``B``.
        noise: One of ``NOISES``; default "none".
        pixel_p: Default 0.25 (Curiosity in Hindsight, section 5.1; spec: second-hand).
        wind_p: Push of the windiest columns; default 0.5 (ours).
        slip_p: Default 0.25 (ours).
        sticky: Default 0.
        max_steps: Default 500 (Curiosity in Hindsight, section 5.1; spec: second-hand).
        layout: Lines of another board; see `envs._maze_board.read_board`.
        autoreset_mode: See `BatchVectorEnv`, like the arguments below.
        copy: Return copies.
        buffers: Frames that rotate without ``copy``.
        num_threads: 0 means one a core.
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.

    Raises:
        ValueError: An unknown noise, ``max_steps`` below 1, a bad layout, or "tv" without a cell ``T``.
        gymnasium.error.InvalidProbability: A probability outside [0, 1].

    Example:
        >>> env = StochasticMazeVector(2, noise="on_demand")
        >>> obs, infos = env.reset(seed=0)
        >>> obs, reward, terminated, truncated, infos = env.step([0, 2])
        >>> infos["noise_on"].tolist()
        [True, False]
        >>> env.close()
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        *,
        noise: str = "none",
        pixel_p: float = 0.25,
        wind_p: float = 0.5,
        slip_p: float = 0.25,
        sticky: float = 0.0,
        max_steps: int = 500,
        layout: Sequence[str] = BOARD,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        buffers: int = 2,
        num_threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if noise not in NOISES:
            raise ValueError(f"noise must be one of {list(NOISES)}, got {noise!r}")
        for name, p in (("pixel_p", pixel_p), ("wind_p", wind_p), ("slip_p", slip_p), ("sticky", sticky)):
            if not 0 <= p <= 1:
                raise InvalidProbability(f"{name} must be in [0, 1], got {p}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.board = read_board(layout)
        if noise == "tv" and self.board.tv < 0:
            raise ValueError("noise='tv' needs a layout with one cell marked 'T'")
        if noise == "swap" and len(self.board.reachable) < 2:
            raise ValueError("noise='swap' needs a layout with at least two reachable cells")
        self.layout = tuple(layout)
        self._floor = [line.replace(" ", ".").replace("T", "T" if noise == "tv" else ".") for line in layout]
        code = NOISES.index(noise)
        self._rules = kernels.Rules(code, float(pixel_p), float(wind_p), float(slip_p), float(sticky), int(max_steps))
        trackers = int(self.board.tracker.max()) + 1
        super().__init__(
            num_envs,
            observation_space=Box(0, 255, (len(PLANES), VIEW, VIEW), np.uint8),
            action_space=Discrete(kernels.ACTIONS),
            infos={
                "noise_on": InfoSpec(np.bool_),
                "noise_asked": InfoSpec(np.bool_),
                "noise_events": InfoSpec(np.int32),
                "sticky_events": InfoSpec(np.int32),
                "cell": InfoSpec(np.int64),
                "coverage": InfoSpec(np.float64),
                "tracker_hits": InfoSpec(np.int32, (trackers,)),
                "tracker_first_step": InfoSpec(np.int32, (trackers,)),
            },
            autoreset_mode=autoreset_mode,
            copy=copy,
            buffers=buffers,
            num_threads=num_threads,
            render_mode=render_mode,
        )
        self._maze = _empty_maze(num_envs, len(self.board.door_span), trackers, len(self.board.reachable))
        self._outs = {id(frame): _out(frame) for frame in self._frames}
        self._tables = (tuple(self._maze), tuple(self.board), tuple(self._rules), tuple(self.streams))
        announce("StochasticMaze", kernels.reset_rows, kernels.step_rows)

    def _reset_rows(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        kernels.reset_rows(*self._tables, mask, self._outs[id(frame)], lo, hi)

    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        kernels.step_rows(*self._tables, actions, skip, self._outs[id(frame)], lo, hi)

    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        return self._maze._asdict()

    def _render_row(self, e: int) -> Any:
        rows = self._characters(e)
        if self.render_mode == "ansi":
            return "\n".join("".join(row) for row in rows) + "\n"
        return self._picture(e, rows)

    def _characters(self, e: int) -> list[list[str]]:
        """The board with its blocks ``B`` and the agent ``A``."""
        rows = [list(line) for line in self._floor]
        doors = zip(self.board.door_top, self.board.door_column, self.board.door_span, self._maze.phase[e], strict=True)
        for top, column, span, phase in doors:
            first = top + kernels.position(phase, span)
            for row in range(first, first + BLOCK):
                rows[row][column] = "B"
        r, c = self._agent(e)
        rows[r][c] = "A"
        return rows

    def _agent(self, e: int) -> tuple[int, int]:
        cell = self._maze.cell[e]
        return int(self.board.row[cell]), int(self.board.column[cell])

    def _picture(self, e: int, rows: list[list[str]]) -> NDArray[np.uint8]:
        """The board with the agent's view outlined, red while the noise acts; the noise plane is drawn into it."""
        r, c = self._agent(e)
        rows[r][c] = self._floor[r][c]
        cells = np.array([[_COLORS.get(x, _COLORS["tracker"]) for x in row] for row in rows], np.uint8)
        for n in np.flatnonzero(self._maze.hits[e]):
            cells.reshape(-1, 3)[self.board.tracker == n] = _COLORS["hit"]
        for y, x in np.argwhere(self._observation(self.frame)[e, NOISE_PLANE]):
            row, column = r - RADIUS + y, c - RADIUS + x
            if 0 <= row < len(cells) and 0 <= column < cells.shape[1]:
                cells[row, column] = cells[row, column] // 2 + 110
        picture = enlarge(cells)
        disc(picture, r, c, _AGENT)
        color = _NOISY if self.frame.info["noise_on"][e] else _CALM
        outline(picture, r - RADIUS, c - RADIUS, VIEW, VIEW, color, scale=SCALE)
        return picture


class StochasticMaze(SingleEnv):
    """The stochastic maze as one environment: ``gymnasium.make("byol_ext/StochasticMaze-v0")``.

    Everything is as in `StochasticMazeVector`, for one sub-environment; observation ``[5, 5, 5]``.

    Args:
        noise: See `StochasticMazeVector`, like the arguments below.
        pixel_p: Of "pixel".
        wind_p: Of "wind".
        slip_p: Of "slip".
        sticky: Probability that the last action is carried out again.
        max_steps: Steps of an episode.
        layout: Lines of another board.
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.
    """

    metadata = StochasticMazeVector.metadata

    def __init__(
        self,
        *,
        noise: str = "none",
        pixel_p: float = 0.25,
        wind_p: float = 0.5,
        slip_p: float = 0.25,
        sticky: float = 0.0,
        max_steps: int = 500,
        layout: Sequence[str] = BOARD,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            StochasticMazeVector(
                1,
                noise=noise,
                pixel_p=pixel_p,
                wind_p=wind_p,
                slip_p=slip_p,
                sticky=sticky,
                max_steps=max_steps,
                layout=layout,
                autoreset_mode=AutoresetMode.DISABLED,
                copy=False,
                render_mode=render_mode,
            )
        )


def _out(frame: Frame) -> tuple[np.ndarray, ...]:
    assert isinstance(frame.obs, np.ndarray)
    return tuple(kernels.Out(frame.obs.reshape(len(frame.obs), -1), frame.truncated, **frame.info))


def _empty_maze(num_envs: int, doors: int, trackers: int, cells: int) -> kernels.Maze:
    def zeros(*shape: int) -> NDArray[np.int32]:
        return np.zeros((num_envs, *shape), np.int32)

    return kernels.Maze(
        cell=zeros(),
        phase=zeros(doors),
        action=np.zeros(num_envs, np.int64),
        visited=np.zeros((num_envs, cells), np.bool_),
        visits=zeros(),
        hits=zeros(trackers),
        first=zeros(trackers),
        noise_events=zeros(),
        sticky_events=zeros(),
    )
