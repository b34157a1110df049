"""The sources of noise that `envs.noise` puts into environments.

Legend: ``B`` sub-environments; pictures are views ``[B, F, H, W, L]`` with channels first (``F``) or last (``L``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium.error import InvalidProbability
from numpy.typing import NDArray

from envs import _noise_kernels as kernels
from envs._frame import BoolArray
from envs._rng import Streams

Box = tuple[int, int, int, int]
"""Top row, left column, height, width."""


class Shape(NamedTuple):
    """Pictures of a space, as ``[F, H, W, L]``: channels are first or last."""

    first: int
    height: int
    width: int
    last: int


@dataclass
class Rows:
    """Where the sub-environments of a noisy environment stand; ``[B]`` each.

    Attributes:
        streams: Their random streams.
        memory: What the noise keeps for each, zeros where an episode begins.
        actions: int64, the actions that go to the environment.
        on: The noise acted on this transition.
        asked: The action asked for it.
    """

    streams: Streams
    memory: np.ndarray
    actions: NDArray[np.int64]
    on: BoolArray
    asked: BoolArray


class Noise(ABC):
    """A source of noise. Frozen: all that changes is in `Rows`."""

    def check(self, shape: Shape, actions: int) -> None:  # noqa: B027  (most need none)
        """Raises ValueError if the noise does not fit pictures of this shape or this number of actions."""

    def memory(self, num_envs: int, shape: Shape) -> np.ndarray:
        """Zeros ``[B, ...]``: what the noise keeps for each sub-environment within an episode."""
        return np.zeros((num_envs, 0))

    def act(self, rows: Rows, live: BoolArray) -> None:  # noqa: B027  (most need none)
        """May change ``rows.actions`` of the ``live`` rows before the environment sees them."""

    @abstractmethod
    def show(self, rows: Rows, pictures: NDArray[np.uint8], live: BoolArray, begin: bool) -> None:
        """Draws into the pictures of the ``live`` rows; sets ``rows.on`` and ``rows.asked`` there.

        Args:
            rows: Their state.
            pictures: ``[B, F, H, W, L]``.
            live: ``[B]``.
            begin: The pictures are the first of an episode: there was no action.
        """


@dataclass(frozen=True)
class PersistiveNoise(Noise):
    """A layer over the whole picture that wanders: ``clip(obs + n, 0, 255)`` (Curiosity in Hindsight, section 5.5).

    ``n`` is 0 when an episode begins; after action ``a`` each pixel moves by ``step[a % 2]`` up or down with
    probability 1/2, modulo ``modulo``. All channels get the same layer, so put it below a frame stack.

    Args:
        step: Strides after even and odd actions; default (1, 11) (spec: second-hand; which parity is ours).
        modulo: Default 50 (spec: second-hand).

    Raises:
        ValueError: A modulo outside 1..256, or strides outside 0..modulo.
    """

    step: tuple[int, int] = (1, 11)
    modulo: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.modulo <= 256 or len(self.step) != 2 or not all(0 <= s <= self.modulo for s in self.step):
            raise ValueError(f"need modulo in 1..256 and two steps in 0..modulo, got {self}")

    def memory(self, num_envs: int, shape: Shape) -> np.ndarray:
        """The layer ``[B, H, W]``."""
        return np.zeros((num_envs, shape.height, shape.width), np.int16)

    def show(self, rows: Rows, pictures: NDArray[np.uint8], live: BoolArray, begin: bool) -> None:
        """Moves the layer and adds it."""
        if begin:
            return
        stride = np.asarray(self.step, np.int64)[rows.actions % 2]
        kernels.walk(pictures, rows.memory, stride, self.modulo, rows.streams, live)
        rows.on[live] = True


@dataclass(frozen=True)
class PixelNoise(Noise):
    """Random pixels instead of the picture, in each frame with probability ``p``, whatever the agent does.

    Args:
        p: Default 0.25 (Curiosity in Hindsight, section 5.1; spec: second-hand).
        box: The part of the picture that turns to noise; None is all of it.

    Raises:
        gymnasium.error.InvalidProbability: ``p`` outside [0, 1].
    """

    p: float = 0.25
    box: Box | None = None

    def __post_init__(self) -> None:
        _check_probability("p", self.p)

    def check(self, shape: Shape, actions: int) -> None:
        """The box must lie within the picture."""
        _inside(self.box, shape)

    def show(self, rows: Rows, pictures: NDArray[np.uint8], live: BoolArray, begin: bool) -> None:
        """Tosses a coin for each frame."""
        kernels.toss(rows.streams, self.p, live, rows.on)
        _fill(pictures, self.box, rows, rows.streams.step, live, rows.on)


@dataclass(frozen=True)
class OnDemandNoise(Noise):
    """Random pixels instead of the picture, exactly in the frames that follow an action.

    Args:
        action: The action that asks for noise; default 0, the no-op of Atari and of our mazes.
        box: The part of the picture that turns to noise; None is all of it.
    """

    action: int = 0
    box: Box | None = None

    def check(self, shape: Shape, actions: int) -> None:
        """The box must lie within the picture and the action exist."""
        _inside(self.box, shape)
        _check_action(self.action, actions)

    def show(self, rows: Rows, pictures: NDArray[np.uint8], live: BoolArray, begin: bool) -> None:
        """Fills the box after the action."""
        if not begin:
            rows.on[live] = rows.asked[live] = rows.actions[live] == self.action
            _fill(pictures, self.box, rows, rows.streams.step, live, rows.on)


@dataclass(frozen=True)
class NoisyTV(Noise):
    """A television in the picture: a still of random pixels that changes whenever an action is taken.

    ``noise_on`` says that it has just changed.

    Args:
        box: Where it is.
        action: The remote control; default 0.
    """

    box: Box
    action: int = 0

    def check(self, shape: Shape, actions: int) -> None:
        """The box must lie within the picture and the action exist."""
        _inside(self.box, shape)
        _check_action(self.action, actions)

    def memory(self, num_envs: int, shape: Shape) -> np.ndarray:
        """The step at which each television changed last."""
        return np.zeros(num_envs, np.int64)

    def show(self, rows: Rows, pictures: NDArray[np.uint8], live: BoolArray, begin: bool) -> None:
        """Draws the still, a new one after the action."""
        if not begin:
            rows.on[live] = rows.asked[live] = rows.actions[live] == self.action
            np.copyto(rows.memory, rows.streams.step, where=live & rows.on)
        _fill(pictures, self.box, rows, rows.memory, live, np.ones_like(live))


@dataclass(frozen=True)
class StickyAction(Noise):
    """With probability ``p`` the action carried out last is carried out again (Machado et al. 2018, section 5.2).

    ``noise_on`` says that this overruled another action. An episode's first action is always carried out.

    Args:
        p: Default 0.25 (Machado et al. 2018; Curiosity in Hindsight uses 0.1 on Montezuma, spec: second-hand).

    Raises:
        gymnasium.error.InvalidProbability: ``p`` outside [0, 1].
    """

    p: float = 0.25

    def __post_init__(self) -> None:
        _check_probability("p", self.p)

    def memory(self, num_envs: int, shape: Shape) -> np.ndarray:
        """The action carried out last, plus one."""
        return np.zeros(num_envs, np.int64)

    def act(self, rows: Rows, live: BoolArray) -> None:
        """Replaces actions."""
        kernels.repeat(rows.streams, self.p, live, rows.actions, rows.memory, rows.on)

    def show(self, rows: Rows, pictures: NDArray[np.uint8], live: BoolArray, begin: bool) -> None:
        """Leaves the pictures alone."""


def _fill(
    pictures: NDArray[np.uint8], box: Box | None, rows: Rows, steps: NDArray[np.int64], live: BoolArray, on: BoolArray
) -> None:
    where = box or (0, 0, *pictures.shape[2:4])
    kernels.random_pixels(pictures, where, rows.streams, steps, live, on)


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise InvalidProbability(f"{name} must be in [0, 1], got {p}")


def _check_action(action: int, actions: int) -> None:
    if not 0 <= action < actions:
        raise ValueError(f"action must be in 0..{actions - 1}, got {action}")


def _inside(box: Box | None, shape: Shape) -> None:
    if box is None:
        return
    top, left, height, width = box
    if min(top, left) < 0 or min(height, width) < 1 or top + height > shape.height or left + width > shape.width:
        raise ValueError(
            f"box (top, left, height, width) must lie within {shape.height} x {shape.width} pixels, got {box}"
        )


def picture_shape(space: gymnasium.Space) -> Shape:
    """How a space's pictures are laid out: channels are last if that dimension is 1, 3 or 4 and the first is not.

    Raises:
        ValueError: No uint8 pictures ``[H, W]``, ``[C, H, W]`` or ``[H, W, C]``.
    """
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        raise ValueError(f"noise needs uint8 pictures [H, W], [C, H, W] or [H, W, C], got {space}")
    if len(space.shape) == 2:
        return Shape(1, space.shape[0], space.shape[1], 1)
    a, b, c = space.shape
    return Shape(1, a, b, c) if c in (1, 3, 4) and a not in (1, 3, 4) else Shape(a, b, c, 1)
