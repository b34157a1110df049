"""Zipf's Labyrinth (Chan et al. 2022), rebuilt: thirty first-person tasks whose frequencies follow a Zipf law.

The original draws each episode from the 30 levels of DMLab-30. Here a batched ray-caster shows simplified forms of the
same 30 tasks, with the published rewards and lengths where they are known; `envs.zipf.dmlab` is for the original.

Legend: ``B`` sub-environments, ``H`` rows and ``W`` columns of a picture, ``L`` tokens of an instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs._compile import announce
from envs._frame import BoolArray, Frame
from envs._single import SingleEnv
from envs._vector import BatchVectorEnv
from envs.raycast import RaycastRenderer
from envs.zipf.labyrinth import _sim
from envs.zipf.labyrinth.levels import STEPS_PER_SECOND, Level, level_table
from envs.zipf.labyrinth.looks import SKIES, labyrinth_atlas
from envs.zipf.labyrinth.render import Picture
from envs.zipf.labyrinth.settings import INFOS, Order, Settings, checked_tasks, out_of
from envs.zipf.labyrinth.state import Work, empty_state, make_work, scene_of
from envs.zipf.labyrinth.text import detokenize
from envs.zipf.law import SPLITS, Split, check_choice

ACTIONS = (
    "forward",
    "back",
    "strafe left",
    "strafe right",
    "turn left",
    "turn right",
    "forward and turn left",
    "forward and turn right",
    "act",
)
"""Meaning of each action; "act" fires in laser tag and does nothing elsewhere."""


class ZipfLabyrinthVector(BatchVectorEnv):
    """The labyrinth, a batch at a time: ``gymnasium.make_vec("byol_ext/ZipfLabyrinth-v0", num_envs=B)``.

    Observation: a dictionary of ``image`` ``[B, H, W, 3]`` uint8, the view ahead, and ``instruction`` ``[B, L]`` int32,
    zeros where the level has none (`detokenize` gives its words); with ``flat=True`` the image alone. Nine actions, see
    `ACTIONS`; a turn is 15 degrees, a step 1/15 s. Rewards are the levels' own, from -10 to 100.

    An episode is one level, drawn from the split's law, and is truncated at the level's length; it terminates where a
    level has an end of its own (the goal of the key puzzle and of the sky mazes, the 60th trial).

    Infos, ``[B]`` each: ``task_id`` (index into `levels`), ``level`` (index into the published 30), ``ranks``
    ``[B, 1]`` (0 is the most frequent), ``task_prob`` (under the active split), ``is_rare``, ``cell`` (one number for
    each level and cell), ``score`` (sum of the rewards so far). On the last step also ``outcome`` ("goal" or "timeout")
    and ``success``: more rounds were right than wrong, where a round is a goal reached, the last good object taken, an
    answer, a trial, or a tag against being tagged.

    Options of `reset`: ``task`` (an index, or one a sub-environment) forces the next episode's level; ``split`` changes
    the split from now on.

    Args:
        num_envs: ``B``.
        split: ``zipf``, ``uniform`` or ``rare``.
        exponent: Of the Zipf law; default 1, the original's.
        rare: Share or count of the rare ranks; default a fifth, the original's.
        levels: ``lab30`` (default), ``lab12``, or names of levels.
        order: ``forward`` (default), ``reversed`` or ``permuted``: which level has which rank.
        rank_seed: Seed of the permutation.
        law: ``n -> probabilities by rank``; replaces the law of every split.
        size: ``(H, W)``; default (72, 96) (spec: zipfian-envs.md, section 3.2).
        flat: Observe the picture itself.
        autoreset_mode: See `BatchVectorEnv`, like the arguments below.
        copy: Return copies.
        buffers: Frames that rotate without ``copy``.
        num_threads: 0 means one a core.
        render_mode: ``"rgb_array"`` (a larger view with a map from above) or None.

    Raises:
        ValueError: On any value out of range or unknown name.

    Example:
        >>> env = ZipfLabyrinthVector(2, levels="lab12")
        >>> obs, infos = env.reset(seed=0, options={"task": 4})
        >>> obs["image"].shape, env.detokenize(obs["instruction"][0])
        ((2, 72, 96, 3), 'pick the gem')
        >>> env.close()
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": STEPS_PER_SECOND}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        *,
        split: Split = "zipf",
        exponent: float = 1.0,
        rare: float | int = 0.2,
        levels: str | Sequence[str] = "lab30",
        order: Order = "forward",
        rank_seed: int | None = None,
        law: Callable[[int], object] | None = None,
        size: tuple[int, int] = (72, 96),
        flat: bool = False,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        buffers: int = 2,
        num_threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        self.settings = Settings(split, exponent, rare, levels, order, rank_seed, law, size, flat)
        self._levels, self._law = level_table(self.settings.chosen), self.settings.make_law()
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
        self._state = empty_state(num_envs)
        self._state.split[0] = SPLITS.index(split)
        self._scene = scene_of(self._state)
        self._works: dict[int, Work] = {}
        atlas = labyrinth_atlas()
        self._renderer = RaycastRenderer(atlas, SKIES, size=self.settings.size)
        self._picture = None if render_mode is None else Picture(atlas)
        self._outs = {id(frame): out_of(frame) for frame in self._frames}
        announce("ZipfLabyrinth", _sim.reset_rows, _sim.step_rows)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels by task."""
        return self.settings.chosen

    def detokenize(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The sentence of an instruction's tokens ``[L]``; raises ValueError on a token outside the vocabulary."""
        return detokenize(tokens)

    def _set_options(self, options: Mapping[str, Any], mask: BoolArray) -> None:
        if unknown := set(options) - {"task", "split"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: ['reset_mask', 'split', 'task']")
        if "split" in options:
            check_choice("split", options["split"], SPLITS)
        if "task" in options:
            tasks = checked_tasks(options["task"], len(self.levels), self.num_envs)
            np.copyto(self._state.forced, tasks, where=mask)
        if "split" in options:
            self._state.split[0] = SPLITS.index(options["split"])

    def _reset_rows(self, frame: Frame, mask: BoolArray, lo: int, hi: int) -> None:
        out, work = self._outs[id(frame)], self._work(lo)
        _sim.reset_rows(self._levels, self._law, self._state, self.streams, work, out, mask, lo, hi)
        self._renderer.render_rows(self._scene, _image(frame), mask, True, lo, hi)

    def _step_rows(self, frame: Frame, actions: NDArray[np.int64], skip: BoolArray, lo: int, hi: int) -> None:
        out, work = self._outs[id(frame)], self._work(lo)
        _sim.step_rows(self._levels, self._law, self._state, self.streams, work, out, actions, skip, lo, hi)
        self._renderer.render_rows(self._scene, _image(frame), skip, False, lo, hi)

    def _work(self, lo: int) -> Work:
        """Memory of the thread that steps the rows from ``lo`` on."""
        if lo not in self._works:
            self._works[lo] = make_work()
        return self._works[lo]

    def _state_arrays(self) -> Mapping[str, np.ndarray]:
        return self._state._asdict()

    def _render_row(self, e: int) -> Any:
        assert self._picture is not None, "made with the render mode"
        level = self.levels[self._state.agents[e].level]
        return self._picture.draw(self._state, e, level, probability=float(self.frame.info["task_prob"][e]))


class ZipfLabyrinth(SingleEnv):
    """The labyrinth as one environment: ``gymnasium.make("byol_ext/ZipfLabyrinth-v0")``.

    Everything is as in `ZipfLabyrinthVector`, for one sub-environment; infos also have ``instruction``, a string.

    Args:
        split: See `ZipfLabyrinthVector`, like the arguments below.
        exponent: Of the Zipf law.
        rare: Share or count of the rare ranks.
        levels: ``lab30``, ``lab12``, or names of levels.
        order: ``forward``, ``reversed`` or ``permuted``.
        rank_seed: Seed of the permutation.
        law: ``n -> probabilities by rank``.
        size: Rows and columns of a picture.
        flat: Observe the picture itself.
        render_mode: ``"rgb_array"`` or None.
    """

    metadata = ZipfLabyrinthVector.metadata

    def __init__(
        self,
        *,
        split: Split = "zipf",
        exponent: float = 1.0,
        rare: float | int = 0.2,
        levels: str | Sequence[str] = "lab30",
        order: Order = "forward",
        rank_seed: int | None = None,
        law: Callable[[int], object] | None = None,
        size: tuple[int, int] = (72, 96),
        flat: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._labyrinth = ZipfLabyrinthVector(
            1,
            split=split,
            exponent=exponent,
            rare=rare,
            levels=levels,
            order=order,
            rank_seed=rank_seed,
            law=law,
            size=size,
            flat=flat,
            autoreset_mode=AutoresetMode.DISABLED,
            copy=False,
            render_mode=render_mode,
        )
        super().__init__(self._labyrinth)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels by task."""
        return self._labyrinth.levels

    def detokenize(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The sentence of an instruction's tokens ``[L]``; raises ValueError on a token outside the vocabulary."""
        return detokenize(tokens)

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {**super()._info(infos), "instruction": detokenize(self._labyrinth._state.tokens[0])}


def _image(frame: Frame) -> NDArray[np.uint8]:
    return frame.obs["image"] if isinstance(frame.obs, dict) else frame.obs
