"""Zipf's Playroom from above, on a grid: the same rooms, rules and words as `envs.zipf.playroom.env`, fast.

Legend: ``B`` sub-environments, ``V`` tiles along an edge of the view, ``s`` pixels a tile, ``L`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs._compile import announce
from envs._frame import BoolArray, Frame
from envs._single import SingleEnv
from envs._vector import BatchVectorEnv
from envs.zipf.law import Split, check_choice
from envs.zipf.playroom._tiles import Canvas, Pictures, show_rows
from envs.zipf.playroom.game import Game
from envs.zipf.playroom.levels import Subset
from envs.zipf.playroom.lexicon import LEXICON, Naming
from envs.zipf.playroom.looks import held_pictures, tile_pictures
from envs.zipf.playroom.render import Painter, write_room
from envs.zipf.playroom.settings import GRID_WALKER, INFOS, INSTRUCTION_SPACE, Distractors, Settings
from envs.zipf.playroom.state import ACTIONS
from envs.zipf.playroom.text import Task, detokenize

Observe = Literal["pixels", "tiles", "both"]
_METADATA: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 5}


class ZipfPlayroom2DVector(BatchVectorEnv):
    """The playroom on a grid, a batch at a time: ``gymnasium.make_vec("byol_ext/ZipfPlayroom2D-v0", num_envs=B)``.

    Rules, instructions, infos and options are those of `envs.zipf.playroom.env.ZipfPlayroomVector`, but a step is one
    cell, a turn a right angle, grip takes what is in the cell ahead, and release puts it there.

    Observation, by ``obs``, centred on the agent, north up: ``image`` ``[B, V * s, V * s, 3]`` uint8, with the object
    in the hand drawn over the lower right tile; ``tiles`` ``[B, V, V]`` uint8 with 0 floor, 1 wall, 2 pillow, 3 bed,
    4 tray, 5..8 the agent facing east, south, west and north, ``9 + k`` object ``k``, 255 the covered tile, and
    ``held`` ``[B]`` uint8, 0 or ``1 + k``; and in any case ``instruction`` ``[B, L]`` int32.

    Memory of a sub-environment, with two frames: 25 kB for pixels, 1.4 kB for tiles (`bytes_per_env`).

    Args:
        num_envs: ``B``.
        task: See `envs.zipf.playroom.settings.Settings`, like the following.
        split: Law of the object asked for.
        exponent: Of the Zipf law.
        rare: Share or count of the rare ranks.
        num_objects: Kinds of objects.
        objects_in_room: How many there are in the room.
        distractors: Law of the other objects.
        subset: Objects that may be asked for.
        naming: How objects are called.
        rank_seed: Permutes which object has which rank.
        law: ``n -> probabilities by rank``.
        max_steps: Steps after which an episode is truncated.
        level: One of the original's level names.
        view: ``V``, odd, at least 3; default 7, as in the gridworld. From 23 on, all of the room is always seen.
        tile: ``s``, at least 3; default 9, as in the gridworld.
        obs: ``pixels``, ``tiles`` or ``both``.
        autoreset_mode: See `BatchVectorEnv`, like the arguments below.
        copy: Return copies.
        buffers: Frames that rotate without ``copy``.
        num_threads: 0 means one a core.
        render_mode: ``"rgb_array"`` (the whole room), ``"ansi"`` or None.

    Raises:
        ValueError: On any value out of range or unknown name.

    Example:
        >>> env = ZipfPlayroom2DVector(2, obs="tiles", naming="compositional")
        >>> obs, infos = env.reset(seed=0, options={"task": [0, 1]})
        >>> obs["tiles"].shape, infos["instruction"].tolist()
        ((2, 7, 7), ['lift an orange star', 'lift a red ball'])
    """

    metadata = _METADATA

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: Task = "lift",
        split: Split = "zipf",
        exponent: float = 2.0,
        rare: float | int = 0.2,
        num_objects: int = len(LEXICON),
        objects_in_room: int = 3,
        distractors: Distractors = "same",
        subset: Subset = "all",
        naming: Naming = "atomic",
        rank_seed: int | None = None,
        law: Callable[[int], object] | None = None,
        max_steps: int = 300,
        level: str | None = None,
        view: int = 7,
        tile: int = 9,
        obs: Observe = "pixels",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        buffers: int = 2,
        num_threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        settings = Settings(
            task=task,
            split=split,
            exponent=exponent,
            rare=rare,
            num_objects=num_objects,
            objects_in_room=objects_in_room,
            distractors=distractors,
            subset=subset,
            naming=naming,
            rank_seed=rank_seed,
            law=law,
            max_steps=max_steps,
            level=level,
        )
        super().__init__(
            num_envs,
            observation_space=_space(view, tile, obs),
            action_space=Discrete(len(ACTIONS)),
            infos=INFOS,
            autoreset_mode=autoreset_mode,
            copy=copy,
            buffers=buffers,
            num_threads=num_threads,
            render_mode=render_mode,
        )
        self.game = Game(settings, GRID_WALKER, num_envs)
        self.game.take_frames(self._frames)
        self._pictures = Pictures(*(p.reshape(len(p), tile, -1) for p in (tile_pictures(tile), held_pictures(tile))))
        spare = np.zeros((num_envs, view, view), np.uint8), np.zeros(num_envs, np.uint8)
        self._canvases = {id(frame): _canvas(frame, *spare) for frame in self._frames}
        self._painter = Painter() if render_mode == "rgb_array" else None
        announce("ZipfPlayroom2D", show_rows)

    @property
    def settings(self) -> Settings:
        """The checked arguments, a level's taken in."""
        return self.game.settings

    def detokenize(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The sentence of an instruction's tokens ``[L]``; raises ValueError on a token outside the vocabulary."""
        return detokenize(tokens)

    def oracle_actions(self) -> NDArray[np.int64]:
        """Actions ``[B]`` of a scripted player that reads the true state and solves every task."""
        return self.game.oracle_actions()

    def _set_options(self, options: Mapping[str, Any], mask: BoolArray) -> None:
        self.game.set_options(options, mask)

    def _reset_rows(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        self.game.reset_rows(frame, self.streams, mask, lo, hi)
        show_rows(self._pictures, self.game.state, self._canvases[id(frame)], mask, True, lo, hi)

    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        self.game.step_rows(frame, self.streams, actions, skip, lo, hi)
        show_rows(self._pictures, self.game.state, self._canvases[id(frame)], skip, False, lo, hi)

    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        return self.game.state._asdict()

    def _render_row(self, e: int) -> np.ndarray | str:
        if self._painter is None:
            return write_room(self.game, self.frame, e)
        return self._painter.draw_board(self.game, self.frame, e)


class ZipfPlayroom2D(SingleEnv):
    """The playroom on a grid as one environment: ``gymnasium.make("byol_ext/ZipfPlayroom2D-v0")``.

    Everything is as in `ZipfPlayroom2DVector`, for one sub-environment.

    Args:
        task: See `ZipfPlayroom2DVector`, like all arguments.
        split: Law of the object asked for.
        exponent: Of the Zipf law.
        rare: Share or count of the rare ranks.
        num_objects: Kinds of objects.
        objects_in_room: How many there are in the room.
        distractors: Law of the other objects.
        subset: Objects that may be asked for.
        naming: How objects are called.
        rank_seed: Permutes which object has which rank.
        law: ``n -> probabilities by rank``.
        max_steps: Steps after which an episode is truncated.
        level: One of the original's level names.
        view: Tiles along an edge of the view.
        tile: Pixels along an edge of a tile.
        obs: ``pixels``, ``tiles`` or ``both``.
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.
    """

    metadata = _METADATA
    batch: ZipfPlayroom2DVector

    def __init__(
        self,
        *,
        task: Task = "lift",
        split: Split = "zipf",
        exponent: float = 2.0,
        rare: float | int = 0.2,
        num_objects: int = len(LEXICON),
        objects_in_room: int = 3,
        distractors: Distractors = "same",
        subset: Subset = "all",
        naming: Naming = "atomic",
        rank_seed: int | None = None,
        law: Callable[[int], object] | None = None,
        max_steps: int = 300,
        level: str | None = None,
        view: int = 7,
        tile: int = 9,
        obs: Observe = "pixels",
        render_mode: str | None = None,
    ) -> None:
        batch = ZipfPlayroom2DVector(
            1,
            task=task,
            split=split,
            exponent=exponent,
            rare=rare,
            num_objects=num_objects,
            objects_in_room=objects_in_room,
            distractors=distractors,
            subset=subset,
            naming=naming,
            rank_seed=rank_seed,
            law=law,
            max_steps=max_steps,
            level=level,
            view=view,
            tile=tile,
            obs=obs,
            autoreset_mode=AutoresetMode.DISABLED,
            copy=False,
            render_mode=render_mode,
        )
        super().__init__(batch)

    def detokenize(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The sentence of an instruction's tokens ``[L]``; raises ValueError on a token outside the vocabulary."""
        return detokenize(tokens)

    def oracle_action(self) -> int:
        """Action of a scripted player that reads the true state and solves every task."""
        return int(self.batch.oracle_actions()[0])


def _space(view: int, tile: int, obs: Observe) -> Dict:
    """The observation space; raises ValueError on sizes out of range or an unknown ``obs``."""
    check_choice("obs", obs, ("pixels", "tiles", "both"))
    if view < 3 or view % 2 == 0:
        raise ValueError(f"view must be odd, so that the agent is at its centre, and at least 3, got {view}")
    if tile < 3:
        raise ValueError(f"tile must be at least 3, got {tile}")
    pixels: dict[str, Space] = {"image": Box(0, 255, (view * tile, view * tile, 3), np.uint8)}
    symbols: dict[str, Space] = {
        "tiles": Box(0, 255, (view, view), np.uint8),
        "held": Box(0, len(LEXICON), (), np.uint8),
    }
    shown = {"pixels": pixels, "tiles": symbols, "both": {**pixels, **symbols}}[obs]
    return Dict({**shown, "instruction": INSTRUCTION_SPACE})


def _canvas(frame: Frame, tiles: NDArray[np.uint8], held: NDArray[np.uint8]) -> Canvas:
    """Where the kernels write; tiles that are not observed go to spare memory."""
    assert isinstance(frame.obs, dict), "playrooms observe dictionaries"
    image = frame.obs.get("image", np.zeros((0, 0, 0, 3), np.uint8))
    rows, columns = image.shape[1:3]
    return Canvas(
        tiles=frame.obs.get("tiles", tiles),
        held=frame.obs.get("held", held),
        image=image.reshape(len(image), rows, columns * 3),
    )
