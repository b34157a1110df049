"""Zipf's Labyrinth on the original engine: DMLab-30 levels drawn by a Zipf law, where `deepmind_lab` is installed.

DeepMind Lab has no wheel: it is built from source (github.com/google-deepmind/lab). Without it, making the environment
raises `DependencyNotInstalled`; `envs.zipf.labyrinth` has simplified forms of the same tasks that need nothing.

Legend: ``H`` rows and ``W`` columns of a picture, ``L`` tokens of an instruction.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, DependencyNotInstalled, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from envs.zipf.labyrinth.levels import STEPS_PER_SECOND, Level
from envs.zipf.labyrinth.settings import Order, Settings, checked_tasks
from envs.zipf.law import SPLITS, Split, check_choice

LENGTH, VOCABULARY = 32, 1 << 15
"""``L``, and the range of the hashed words."""
_FOLDER = "contributed/dmlab30/"
_IMAGE, _TEXT = "RGB_INTERLEAVED", "INSTR"
_LOOK, _STRAFE, _MOVE, _FIRE = "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", "STRAFE_LEFT_RIGHT", "MOVE_BACK_FORWARD", "FIRE"
_PIXELS = 20
"""Speed of a turn, as is usual for this engine (spec: from memory)."""
_FRAMES = 4
"""Frames of the engine for each action (spec: from memory)."""
_COMMANDS: tuple[dict[str, int], ...] = (
    {_MOVE: 1},
    {_MOVE: -1},
    {_STRAFE: -1},
    {_STRAFE: 1},
    {_LOOK: -_PIXELS},
    {_LOOK: _PIXELS},
    {_MOVE: 1, _LOOK: -_PIXELS},
    {_MOVE: 1, _LOOK: _PIXELS},
    {_FIRE: 1},
)
"""By action, in the order of `envs.zipf.labyrinth.ACTIONS`."""


class ZipfDMLab(gymnasium.Env):
    """The original levels, with the spaces, infos and options of `envs.zipf.labyrinth.ZipfLabyrinth`.

    Observation: ``image`` ``[H, W, 3]`` uint8 and ``instruction`` ``[L]`` int32, a hash in 1..32767 of each word,
    padded with 0; its words are in ``info["instruction"]``. An episode that ends before the level's published length
    terminates, otherwise it is truncated. Engines are opened when first needed.

    Args:
        split: ``zipf``, ``uniform`` or ``rare``.
        exponent: Of the Zipf law; default 1, the original's.
        rare: Share or count of the rare ranks; default a fifth, the original's.
        levels: ``lab30``, ``lab12``, or names of levels.
        order: ``forward``, ``reversed`` or ``permuted``.
        rank_seed: Seed of the permutation.
        law: ``n -> probabilities by rank``; replaces the law of every split.
        size: ``(H, W)``; default (72, 96).
        max_open: Engines kept open at once; the one that was not used for longest closes. The original opens all 30.
        renderer: ``software`` (default) or ``hardware``.
        render_mode: ``"rgb_array"``, the last view, or None.

    Raises:
        gymnasium.error.DependencyNotInstalled: Without `deepmind_lab`.
        ValueError: On any value out of range or unknown name.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": STEPS_PER_SECOND}  # noqa: RUF012

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
        max_open: int = 4,
        renderer: str = "software",
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self._settings = Settings(split, exponent, rare, levels, order, rank_seed, law, size)
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1, got {max_open}")
        check_choice("renderer", renderer, ("software", "hardware"))
        self._lab = _import_lab()
        self._law, self._split, self._max_open, self._renderer = self._settings.make_law(), split, max_open, renderer
        self._engines: OrderedDict[int, Any] = OrderedDict()
        self.observation_space = Dict(
            {
                "image": Box(0, 255, (*size, 3), np.uint8),
                "instruction": Box(0, VOCABULARY - 1, (LENGTH,), np.int32),
            }
        )
        self.action_space = Discrete(len(_COMMANDS))
        self._task, self._steps, self._score, self._running, self._closed = -1, 0, 0.0, False, False
        self._seen: dict[str, Any] = {}

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels by task."""
        return self._settings.chosen

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode of a level drawn by the law.

        Args:
            seed: Of the draws and of the engine.
            options: ``task`` forces the level, ``split`` changes the split from now on.

        Raises:
            ClosedEnvironmentError: After `close`.
            ValueError: Unknown options or values.
        """
        super().reset(seed=seed)
        if self._closed:
            raise ClosedEnvironmentError("ZipfDMLab was closed; make a new one")
        options = options or {}
        if unknown := set(options) - {"task", "split"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known: ['split', 'task']")
        if "split" in options:
            check_choice("split", options["split"], SPLITS)
            self._split = options["split"]
        law = self._law.probability[SPLITS.index(self._split)]
        drawn, engine_seed = int(self.np_random.choice(len(law), p=law)), int(self.np_random.integers(1 << 31))
        self._task = int(checked_tasks(options["task"], len(law), 1)) if "task" in options else drawn
        self._engine(self._task).reset(seed=engine_seed)
        self._steps, self._score, self._running = 0, 0.0, True
        self._see()
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One action, for four frames of the engine.

        Raises:
            ClosedEnvironmentError: After `close`.
            ResetNeeded: Before the first reset and after the end of an episode.
            InvalidAction: Outside the action space.
        """
        if self._closed:
            raise ClosedEnvironmentError("ZipfDMLab was closed; make a new one")
        if not self._running:
            raise ResetNeeded("no episode is under way: call reset() first")
        if not self.action_space.contains(action):
            raise InvalidAction(f"action must be an integer in 0..{len(_COMMANDS) - 1}, got {action!r}")
        engine = self._engine(self._task)
        names = [spec["name"] for spec in engine.action_spec()]
        command = np.array([_COMMANDS[int(action)].get(name, 0) for name in names], np.intc)
        reward = float(engine.step(command, num_steps=_FRAMES))
        self._steps, self._score, self._running = self._steps + 1, self._score + reward, bool(engine.is_running())
        if self._running:
            self._see()
        # The engine does not say why it stopped; within a second of the published length, it was the time.
        full = self._steps >= self.levels[self._task].steps - STEPS_PER_SECOND
        terminated, truncated = not self._running and not full, not self._running and full
        return self._observation(), reward, terminated, truncated, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """The last view ``[H, W, 3]``; None without a render mode.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self.render_mode is None:
            return None
        if not self._seen:
            raise ResetNeeded("no episode is under way: call reset() first")
        return self._seen["image"].copy()

    def close(self) -> None:
        """Closes the engines; closing twice is fine."""
        self._closed = True
        while self._engines:
            self._engines.popitem()[1].close()

    def _engine(self, task: int) -> Any:
        if task not in self._engines:
            if len(self._engines) >= self._max_open:
                self._engines.popitem(last=False)[1].close()
            rows, columns = self._settings.size
            self._engines[task] = self._lab.Lab(
                _FOLDER + self.levels[task].name,
                [_IMAGE, _TEXT],
                config={"height": str(rows), "width": str(columns)},
                renderer=self._renderer,
            )
        self._engines.move_to_end(task)
        return self._engines[task]

    def _see(self) -> None:
        seen = self._engine(self._task).observations()
        self._seen = {"image": np.array(seen[_IMAGE], np.uint8), "text": str(seen[_TEXT])}

    def _observation(self) -> dict[str, NDArray[Any]]:
        return {"image": self._seen["image"].copy(), "instruction": hashed(self._seen["text"])}

    def _info(self) -> dict[str, Any]:
        task = self._task
        return {
            "task_id": task,
            "ranks": self._law.rank[task : task + 1].copy(),
            "task_prob": float(self._law.probability[SPLITS.index(self._split), task]),
            "is_rare": bool(self._law.rare[task]),
            "score": self._score,
            "instruction": self._seen["text"],
        }


def hashed(sentence: str) -> NDArray[np.int32]:
    """A number in 1..32767 for each of the first ``L`` words, the same on every machine; padded with 0.

    Example:
        >>> hashed("pick the red hat")[:5].tolist()
        [17208, 26226, 21590, 20579, 0]
    """
    tokens = np.zeros(LENGTH, np.int32)
    for k, word in enumerate(sentence.split()[:LENGTH]):
        tokens[k] = 1 + zlib.crc32(word.encode()) % (VOCABULARY - 1)
    return tokens


def _import_lab() -> Any:
    try:
        import deepmind_lab
    except ImportError as error:
        raise DependencyNotInstalled(
            "ZipfDMLab needs deepmind_lab, which has no wheel: build it from github.com/google-deepmind/lab and "
            "install its Python package; byol_ext/ZipfLabyrinth-v0 has simplified forms of its levels"
        ) from error
    return deepmind_lab
