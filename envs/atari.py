"""Atari games as a vector environment: EnvPool or ale-py underneath, the same settings, observations and infos.

>>> from envs.atari import AtariVector
>>> from envs.protocols import RND2018
>>> pool = AtariVector("MontezumaRevenge", 2, protocol=RND2018, backend="ale")
>>> obs, infos = pool.reset(seed=0)
>>> obs.shape, sorted(key for key in infos if not key.startswith("_"))
((2, 4, 84, 84), ['cell', 'frame_number', 'lives'])
>>> obs, reward, terminated, truncated, infos = pool.step([0, 3])
>>> infos["frame_number"].tolist()
[4, 4]
>>> pool.close()

With the same seed and actions both back ends play the same game, sticky actions included: frames, rewards and ends are
equal, bit for bit, if both begin alike (`noop_max` 0 and `fire_reset`). What differs otherwise is in `AtariVector`.

Legend: ``B`` environments, ``S`` frames of the stack.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs._atari_engines import SIDE, AleEngine, Engine, EnvPoolEngine, Frames
from envs._coverage import frame_cells
from envs._emulator import Emulator
from envs._rng import row_seeds
from envs.protocols import RND2018, Protocol, games, rom_name
from envs.rooms import RAM_MAPS
from envs.stack import FrameHistory

_log = logging.getLogger(__name__)

Infos = dict[str, NDArray]


class AtariVector(VectorEnv):
    """``B`` copies of one game, preprocessed, with NEXT_STEP autoreset.

    Observations are ``[B, S, 84, 84]`` uint8 grey frames, the newest last, in memory of their own. Rewards
    are float32 and raw. A game that is over is ``terminated``; the protocol's frame limit is ``truncated``. Infos, the
    same at every reset and step, each with its mask ``_key``:

    * ``lives`` ``[B]`` int32;
    * ``frame_number`` ``[B]`` int64: emulator frames of the episode that the agent has acted in;
    * ``cell`` ``[B]`` int64: where the agent is. Of the RAM (level, room, x // 16, y // 16) where it is shown and
      `envs.rooms` has a map of it, else a hash of the newest frame (`envs._coverage`);
    * ``room`` ``[B]`` int32, and ``inventory`` ``[B]`` int32 where known: only of the RAM.

    Environment ``e`` of a seed plays the same whatever ``num_envs`` and ``num_threads`` are. The back ends differ in:
    EnvPool plays at least one no-op before an episode, ale-py may play none; ale-py shows no RAM; and ale-py's last
    observation of an episode repeats earlier frames.

    Args:
        game: As `envs.protocols.rom_name` takes it.
        num_envs: ``B``.
        protocol: How it is played, default `envs.protocols.RND2018`.
        backend: ``"envpool"``, ``"ale"``, or ``"auto"``: EnvPool where it is installed; or an engine that steps
            ``B`` games by this protocol.
        num_threads: Threads of the back end; 0, the default, means one a core.

    Raises:
        ValueError: An unknown game (names the nearest) or back end, no environments.
        ImportError: The back end is missing; says what to install.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        protocol: Protocol = RND2018,
        backend: Literal["auto", "envpool", "ale"] | Engine = "auto",
        num_threads: int = 0,
    ) -> None:
        if num_envs < 1 or num_threads < 0:
            raise ValueError(f"need num_envs >= 1 and num_threads >= 0, got {num_envs} and {num_threads}")
        self.game, self.protocol, self.num_envs = known_game(game), protocol, num_envs
        if isinstance(backend, Engine):
            self._engine = backend
        else:
            self._engine = _open(self.game, num_envs, protocol, backend, num_threads)
        self._map = RAM_MAPS.get(self.game)
        if self._map is not None and not self._engine.shows_ram:
            _log.warning("%s: ale-py's pool shows no RAM, so rooms are only measured in evaluation", self.game)
            self._map = None

        shape = (protocol.stack, SIDE, SIDE)
        self.single_observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(self._engine.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

        self._history = FrameHistory(protocol.stack)
        self._begun = False
        # Seeds and frames of a reset that nothing has followed: to seed alike once more need not load the games again.
        self._fresh: tuple[list[int], Frames] | None = None
        self._steps = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._always = np.ones(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray, Infos]:
        """Begins an episode everywhere.

        Args:
            seed: Keys environment ``e`` with ``(seed, e)``, or with ``(seed[e], 0)``, and forgets all that was. This
                loads the games again, which takes about 0.1 s of a core for each. None goes on with the random
                numbers, or at first takes a seed from the system.
            options: None or empty.

        Raises:
            ValueError: A negative seed, not one for each environment; options.
            ClosedEnvironmentError: Use after `close`.
        """
        self._check_open()
        if options:
            raise ValueError(f"AtariVector has no reset options, got {sorted(options)}")
        if seed is None and not self._begun:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        seeds = None if seed is None else row_seeds(seed, self.num_envs)
        if seeds is not None and self._fresh is not None and self._fresh[0] == seeds:
            frames = self._fresh[1]
            return frames.frame.copy() if self._engine.stacks else self._history.stacked(), self._infos(frames)
        frames = self._engine.reset(seeds)
        self._fresh = None if seeds is None else (seeds, frames)
        self._steps[:] = 0
        self._ended = np.zeros_like(self._ended)
        self._begun = True
        obs = frames.frame.copy() if self._engine.stacks else self._history.begin(frames.frame)
        return obs, self._infos(frames)

    def step(self, actions: ArrayLike) -> tuple[NDArray, NDArray, NDArray, NDArray, Infos]:
        """One agent step of every environment; where the last one ended an episode, the next one begins.

        Args:
            actions: ``[B]`` integers; not looked at where an episode begins.

        Returns:
            Observations, rewards, ``terminated``, ``truncated`` and infos, see the class.

        Raises:
            InvalidAction: Actions of another shape or type, or outside the action space.
            ResetNeeded: Step before reset.
            ClosedEnvironmentError: Use after `close`.
        """
        self._check_open()
        if not self._begun:
            raise ResetNeeded("call reset() before step()")
        begins = self._ended
        chosen = self._checked(actions, begins)
        self._fresh = None
        frames = self._engine.step(chosen)
        self._steps = np.where(begins, 0, self._steps + 1)
        self._ended = frames.terminated | frames.truncated
        obs = frames.frame if self._engine.stacks else self._history.push(frames.frame, begins)
        return obs, frames.reward, frames.terminated, frames.truncated, self._infos(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the back end's threads; `close` calls it once."""
        self._engine.close()

    def _infos(self, frames: Frames) -> Infos:
        infos: Infos = {"lives": frames.lives.copy(), "frame_number": self._steps * self.protocol.skip}
        if self._map is not None and frames.ram is not None:
            infos |= self._map.read(frames.ram)
        else:
            infos["cell"] = frame_cells(frames.frame)
        return infos | {f"_{key}": self._always.copy() for key in infos}

    def _checked(self, actions: ArrayLike, begins: NDArray[np.bool_]) -> NDArray[np.int64]:
        given, n = np.asarray(actions), self._engine.actions
        if given.dtype.kind not in "iu" or given.shape != (self.num_envs,):
            raise InvalidAction(
                f"actions must be integers of shape ({self.num_envs},), got {given.dtype} of shape {given.shape}"
            )
        given = np.where(begins, 0, given)
        if given.min() < 0 or given.max() >= n:
            bad = int(np.argmax((given < 0) | (given >= n)))
            raise InvalidAction(f"actions[{bad}] must be in 0..{n - 1}, got {given[bad]}")
        return given.astype(np.int64, copy=False)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this AtariVector was closed; make a new one")


class AtariSingle(AtariVector):
    """One game in Python that also shows its picture and RAM and can be saved: for recordings and evaluation.

    It plays as an `AtariVector` of one does, except for the numbers drawn for sticky actions and no-ops, and has every
    info, ``room`` included. About 2,000 agent steps a second.

    >>> game = AtariSingle("montezuma_revenge")
    >>> _, infos = game.reset(seed=0)
    >>> game.rgb().shape, int(infos["room"][0]), int(game.ram()[3])
    ((210, 160, 3), 1, 1)
    >>> saved = game.state()
    >>> first = game.step([4])[0]
    >>> game.set_state(saved)
    >>> bool((game.step([4])[0] == first).all())
    True

    Args:
        game: As `envs.protocols.rom_name` takes it.
        protocol: How it is played, default `envs.protocols.RND2018`.

    Raises:
        ValueError: An unknown game (names the nearest).
        ImportError: ale-py is missing.
    """

    def __init__(self, game: str, *, protocol: Protocol = RND2018) -> None:
        self._emulator = Emulator(known_game(game), protocol)
        super().__init__(game, 1, protocol=protocol, backend=self._emulator)
        self.render_mode = "rgb_array"

    def render(self) -> tuple[NDArray[np.uint8]]:
        """`rgb` of the one game."""
        return (self.rgb(),)

    def rgb(self) -> NDArray[np.uint8]:
        """The newest emulator frame, ``[210, 160, 3]``: one of the two whose maximum is observed."""
        return self._emulator.rgb()

    def ram(self) -> NDArray[np.uint8]:
        """``[128]`` uint8."""
        return self._emulator.ram()

    def state(self) -> dict[str, Any]:
        """All that decides what follows, random numbers included. It can be pickled.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if not self._begun:
            raise ResetNeeded("call reset() before state()")
        return {
            "game": self.game,
            "protocol": self.protocol,
            "emulator": self._emulator.state(),
            "obs": self._history.stacked(),
            "steps": self._steps.copy(),
            "ended": self._ended.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave: exact, also in another process.

        Raises:
            ValueError: A state of another game or protocol.
        """
        if (state["game"], state["protocol"]) != (self.game, self.protocol):
            raise ValueError(
                f"this is a state of {state['game']}, {state['protocol']}; "
                f"the environment plays {self.game}, {self.protocol}"
            )
        self._emulator.set_state(state["emulator"])
        self._fresh = None
        self._history.restore(state["obs"])
        self._begun = True
        self._steps, self._ended = state["steps"].copy(), state["ended"].copy()


def known_game(game: str) -> str:
    """The snake_case name of a game.

    Raises:
        ValueError: There is none of that name; the message has the nearest ones.
    """
    rom = rom_name(game)
    if rom is None:
        near = difflib.get_close_matches(game.lower(), games(), n=3, cutoff=0.4)
        raise ValueError(f"unknown Atari game {game!r}; the nearest are {', '.join(near) or 'none'}")
    return rom


def _open(rom: str, num_envs: int, protocol: Protocol, backend: str, num_threads: int) -> Engine:
    if backend not in ("auto", "envpool", "ale"):
        raise ValueError(f"backend must be 'auto', 'envpool' or 'ale', got {backend!r}")
    installed = importlib.util.find_spec("envpool") is not None
    if backend == "envpool" and not installed:
        raise ImportError(
            "the back end 'envpool' is missing: pip install 'byol_ext[explore]' (it exists for Linux; elsewhere use "
            "backend='ale')",
            name="envpool",
        )
    if backend == "ale" or not installed:
        return AleEngine(rom, num_envs, protocol, num_threads)
    return EnvPoolEngine(rom, num_envs, protocol, num_threads)
