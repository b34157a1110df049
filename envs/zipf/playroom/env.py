"""Zipf's Playroom (Chan et al. 2022), rebuilt: lift, put and find named objects; which ones follows a Zipf law.

The original is a Unity program whose contents are not published. Here a batched ray-caster shows one room of 10 by 10
metres with a bed, a tray and objects, and an instruction such as "put a zup on the bed" names one of them. All 18 level
names of the original are settings of ours; `envs.zipf.playroom.docker` is for the original itself.

Legend: ``B`` sub-environments, ``H`` rows and ``W`` columns of a picture, ``L`` tokens of an instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs._frame import BoolArray, Frame
from envs._single import SingleEnv
from envs._vector import BatchVectorEnv
from envs.raycast import RaycastRenderer
from envs.zipf.law import Split
from envs.zipf.playroom.game import Game
from envs.zipf.playroom.levels import Subset
from envs.zipf.playroom.lexicon import LEXICON, Naming
from envs.zipf.playroom.looks import SKY, playroom_atlas
from envs.zipf.playroom.render import Painter, write_room
from envs.zipf.playroom.settings import INFOS, INSTRUCTION_SPACE, WALKER, Distractors, Settings
from envs.zipf.playroom.state import ACTIONS, scene_of
from envs.zipf.playroom.text import Task, detokenize

_METADATA: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 15}


class ZipfPlayroomVector(BatchVectorEnv):
    """The playroom, a batch at a time: ``gymnasium.make_vec("byol_ext/ZipfPlayroom-v0", num_envs=B)``.

    Observation: ``image`` ``[B, H, W, 3]`` uint8, the view ahead, with the object in the hand in its lower right
    corner, and ``instruction`` ``[B, L]`` int32 (`detokenize` gives its words). Actions: ten, see
    `envs.zipf.playroom.state.ACTIONS`; a turn is 15 degrees, a step 0.25 m.

    *Grip* takes the nearest object within 1 m and 15 degrees of the line of sight. *Lift*: +1 for the object asked for,
    0 for another; both end the episode. *Put on*, *put near*: carry the object and *release* it, 0.7 m ahead, on the
    furniture asked for, or within 1 m of it: +1; another object or the other furniture: 0; all end the episode, but
    what is put down away from furniture can be gripped again. *Find*: grip points, without taking anything, at an
    object: the nearest within reach as above, else the one closest to the line of sight, within 15 degrees of it, at
    any distance: +1 or 0, and the end. Nothing happens where there is nothing to grip or no room to put down. After
    ``max_steps`` the episode is truncated.

    Memory of a sub-environment, with two frames: 43 kB (`bytes_per_env`).

    Furniture, the agent and the objects are placed anew in every episode; the furniture asked for is either with even
    odds.

    Infos, ``[B]`` each: ``task_id`` (the object asked for, index into `envs.zipf.playroom.LEXICON`), ``ranks``
    ``[B, 1]`` (0 is the most frequent), ``task_prob`` (under the active split), ``is_rare``, ``furniture`` (asked for:
    0 bed, 1 tray, -1 none), ``held`` (object in the hand, or -1), ``cell`` (the agent's), ``instruction`` (in words);
    on the last step ``success`` and ``outcome`` ("goal", "wrong" or "timeout").

    Options of `reset`: ``task`` (an object, or one a sub-environment) forces what the next episode asks for; ``split``
    changes the split from now on.

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
        size: ``(H, W)``; default (72, 96), the original's.
        autoreset_mode: See `BatchVectorEnv`, like the arguments below.
        copy: Return copies.
        buffers: Frames that rotate without ``copy``.
        num_threads: 0 means one a core.
        render_mode: ``"rgb_array"`` (a larger view, and the room from above), ``"ansi"`` or None.

    Raises:
        ValueError: On any value out of range or unknown name.

    Example:
        >>> env = ZipfPlayroomVector(2, task="put_on")
        >>> obs, infos = env.reset(seed=0, options={"task": [0, 49]})
        >>> obs["image"].shape, infos["is_rare"].tolist(), env.detokenize(obs["instruction"][1])
        ((2, 72, 96, 3), [False, True], 'put a pilk on the bed')
        >>> env.close()
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
        size: tuple[int, int] = (72, 96),
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
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (rows, columns) of at least 1, got {size}")
        image = Box(0, 255, (*size, 3), np.uint8)
        super().__init__(
            num_envs,
            observation_space=Dict({"image": image, "instruction": INSTRUCTION_SPACE}),
            action_space=Discrete(len(ACTIONS)),
            infos=INFOS,
            autoreset_mode=autoreset_mode,
            copy=copy,
            buffers=buffers,
            num_threads=num_threads,
            render_mode=render_mode,
        )
        self.game = Game(settings, WALKER, num_envs)
        self.game.take_frames(self._frames)
        self._scene = scene_of(self.game.state)
        atlas = playroom_atlas()
        self._renderer = RaycastRenderer(atlas, [SKY], size=(size[0], size[1]))
        self._painter = Painter(atlas) if render_mode == "rgb_array" else None

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
        self._renderer.render_rows(self._scene, _image(frame), mask, True, lo, hi)

    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        self.game.step_rows(frame, self.streams, actions, skip, lo, hi)
        self._renderer.render_rows(self._scene, _image(frame), skip, False, lo, hi)

    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        return self.game.state._asdict()

    def _render_row(self, e: int) -> np.ndarray | str:
        if self._painter is None:
            return write_room(self.game, self.frame, e)
        return self._painter.draw_view(self.game, self.frame, e)


class ZipfPlayroom(SingleEnv):
    """The playroom as one environment: ``gymnasium.make("byol_ext/ZipfPlayroom-v0")``.

    Everything is as in `ZipfPlayroomVector`, for one sub-environment.

    Args:
        task: See `ZipfPlayroomVector`, like all arguments.
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
        size: Rows and columns of a picture.
        render_mode: ``"rgb_array"``, ``"ansi"`` or None.

    Example:
        >>> env = ZipfPlayroom(level="put/put_near_bed_tray_frequent")
        >>> _, info = env.reset(seed=0, options={"task": 0})
        >>> info["instruction"], round(info["task_prob"], 3)
        ('put a zup near the bed', 0.025)
    """

    metadata = _METADATA
    batch: ZipfPlayroomVector

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
        size: tuple[int, int] = (72, 96),
        render_mode: str | None = None,
    ) -> None:
        batch = ZipfPlayroomVector(
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
            size=size,
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


def _image(frame: Frame) -> NDArray[np.uint8]:
    assert isinstance(frame.obs, dict), "playrooms observe dictionaries"
    return frame.obs["image"]
