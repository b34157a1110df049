"""Any environment that an explorer can be trained in, by name.

>>> from envs.make import make
>>> maze = make("StochasticMaze", 4, seed=0, noise="brownian")
>>> obs, infos = maze.reset()
>>> obs.shape, infos["cell"].shape
((4, 5, 5, 5), (4,))
>>> maze.close()

Legend: ``B`` environments.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import VectorEnv

import envs  # noqa: F401  (registers our ids)
from envs._noise_sources import Noise, picture_shape
from envs._resize import AreaResize
from envs.atari import AtariSingle, AtariVector
from envs.pool import CheckedPool
from envs.protocols import PROTOCOLS, Protocol, games, rom_name, squash
from envs.stack import FrameStack

OURS = "byol_ext/"
_MINIGRID = ("MiniGrid-", "BabyAI-")
_MAZE = "byol_ext/StochasticMaze-v0"
Backend = Literal["auto", "envpool", "ale", "single"]


def make(
    id: str,  # noqa: A002
    num_envs: int,
    *,
    seed: int | Sequence[int],
    protocol: str | Protocol = "rnd2018",
    backend: Backend = "auto",
    num_threads: int = 0,
    noise: str | Noise = "none",
    size: int | None = None,
    grey: bool = False,
    allow_vectors: bool = False,
    options: Mapping[str, object] | None = None,
) -> VectorEnv:
    """A vector environment with NEXT_STEP autoreset, discrete actions from 0, and uint8 pictures as observations.

    ``id`` is an Atari game (``"MontezumaRevenge"``, ``"montezuma_revenge"``, ``"ALE/MontezumaRevenge-v5"``:
    `AtariVector`), an environment of ours with or without namespace and version (``"StochasticMaze"``), or any id that
    Gymnasium knows, ``"module:Id-v0"`` included (`CheckedPool`; of a ``Dict`` observation its ``image``).

    Args:
        id: See above.
        num_envs: ``B``.
        seed: One for all, or one for each. The environment was reset with it: a first ``reset()`` goes on from there,
            ``reset(seed=seed)`` begins again.
        protocol: Atari only: a name in `envs.protocols.PROTOCOLS`, or a protocol.
        backend: Atari only: see `AtariVector`; ``"single"`` is one `AtariSingle`, for recordings and evaluation.
        num_threads: Atari and ours; 0 is the environment's own default.
        noise: Of `StochasticMaze`: one of its own. Elsewhere a noise of `envs.noise` or its name: ``"pixel"``,
            ``"on_demand"`` (both on the whole picture), ``"noop_patch"``, ``"tv"`` (both in a ninth of it, at the lower
            right) or ``"persistive"``. It acts below the frame stack, and ``cell`` is of the picture without it.
        size: Other pictures larger than this are shrunk to ``size`` by ``size``.
        grey: Other colour pictures are turned grey.
        allow_vectors: Observations may also be vectors ``[B, F]``.
        options: Atari: fields of the protocol to change. Else: keyword arguments of the environment's constructor.

    Raises:
        ValueError: An unknown id, protocol, noise or option (names the nearest); observations that are no pictures or
            actions that are not discrete (says what was found).
        ImportError: A package is missing; says what to install.
    """
    given = dict(options or {})
    ours, atari = _our_id(id), _game(id)
    if ours is not None:
        pool = _ours(ours, num_envs, num_threads, noise, given)
    elif atari is not None:
        pool = _atari(atari, num_envs, _protocol(protocol, given), backend, num_threads, noise)
    else:
        pool = _noisy(_third_party(id, num_envs, size, grey, allow_vectors, given), noise)
    _check_spaces(id, pool.single_observation_space, pool.single_action_space, allow_vectors)
    pool.reset(seed=seed)  # type: ignore[arg-type]  # all of ours take one seed each as well
    return pool


def _protocol(protocol: str | Protocol, changes: dict[str, Any]) -> Protocol:
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; {_nearest(protocol, list(PROTOCOLS))}")
        protocol = PROTOCOLS[protocol]
    fields = [field.name for field in dataclasses.fields(Protocol)]
    for key in changes:
        if key not in fields:
            raise ValueError(f"unknown option {key!r} of an Atari protocol; {_nearest(key, fields)}")
    return dataclasses.replace(protocol, **changes)


def _atari(
    rom: str, num_envs: int, protocol: Protocol, backend: Backend, num_threads: int, noise: str | Noise
) -> VectorEnv:
    # Noise is seen by every frame once, so it goes below the stack.
    inner = protocol if noise == "none" else dataclasses.replace(protocol, stack=1)
    if backend == "single":
        if num_envs != 1:
            raise ValueError(f"backend='single' plays one game, got num_envs={num_envs}")
        pool: VectorEnv = AtariSingle(rom, protocol=inner)
    else:
        pool = AtariVector(rom, num_envs, protocol=inner, backend=backend, num_threads=num_threads)
    pool = _noisy(pool, noise)
    return pool if inner.stack == protocol.stack else FrameStack(pool, protocol.stack)


def _ours(
    id: str,  # noqa: A002
    num_envs: int,
    num_threads: int,
    noise: str | Noise,
    options: dict[str, Any],
) -> VectorEnv:
    if num_threads:
        options["num_threads"] = num_threads
    if id == _MAZE and isinstance(noise, str) and noise != "none":
        options["noise"], noise = noise, "none"
    try:
        pool = gymnasium.make_vec(id, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)
    except TypeError as error:
        raise ValueError(f"{id} does not take the options {sorted(options)}: {error}") from error
    space = pool.single_observation_space
    if isinstance(space, Dict) and "image" in space.spaces:
        pool = gymnasium.wrappers.vector.TransformObservation(
            pool, lambda obs: obs["image"], single_observation_space=space["image"]
        )
    return _noisy(pool, noise)


def _noisy(pool: VectorEnv, noise: str | Noise) -> VectorEnv:
    if noise == "none":
        return pool
    from envs.noise import NoisyTV, NoisyVectorEnv, OnDemandNoise, PersistiveNoise, PixelNoise

    if isinstance(noise, str):
        shape = picture_shape(pool.single_observation_space)
        height, width = shape.height // 3, shape.width // 3
        corner = (shape.height - height, shape.width - width, height, width)
        named = {
            "pixel": PixelNoise(),
            "on_demand": OnDemandNoise(),
            "noop_patch": OnDemandNoise(box=corner),
            "persistive": PersistiveNoise(),
            "tv": NoisyTV(box=corner),
        }
        if noise not in named:
            raise ValueError(f"unknown noise {noise!r}; there are none, {', '.join(named)}")
        noise = named[noise]
    return NoisyVectorEnv(pool, noise)


def _third_party(
    id: str,  # noqa: A002
    num_envs: int,
    size: int | None,
    grey: bool,
    allow_vectors: bool,
    options: dict[str, Any],
) -> VectorEnv:
    if id.startswith(_MINIGRID):
        try:
            import minigrid  # noqa: F401  (registers its ids)
        except ImportError as error:
            raise ImportError(f"{id} needs MiniGrid: pip install minigrid", name="minigrid") from error
    made = [_single(id, options) for _ in range(num_envs)]
    _check_spaces(id, made[0].observation_space, made[0].action_space, allow_vectors)
    return CheckedPool([_shaped(env, size, grey) for env in made], name=id)


def _single(id: str, options: dict[str, Any]) -> gymnasium.Env:  # noqa: A002
    """One environment of Gymnasium's, of its observations the image."""
    try:
        env = gymnasium.make(id, disable_env_checker=True, **options)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise ValueError(f"unknown environment {id!r}; {_nearest(id, _known())}") from error
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(f"{id} cannot be made: {error}") from error
    except TypeError as error:
        raise ValueError(f"{id} does not take the options {sorted(options)}: {error}") from error
    space = env.observation_space
    if isinstance(space, Dict) and "image" in space.spaces:
        env = gymnasium.wrappers.TransformObservation(env, lambda obs: obs["image"], space["image"])
    return env


def _shaped(env: gymnasium.Env, size: int | None, grey: bool) -> gymnasium.Env:
    """Pictures grey and small, if asked, and always with a channel axis."""
    shape = env.observation_space.shape or ()
    if len(shape) == 1:
        return env
    if grey and shape[2:] == (3,):
        env, shape = gymnasium.wrappers.GrayscaleObservation(env, keep_dim=True), (*shape[:2], 1)
    if size is not None and min(shape[:2]) > size:
        env, shape = _pictures(env, AreaResize((shape[0], shape[1]), (size, size)), (size, size, *shape[2:]))
    if len(shape) == 2:
        env, shape = _pictures(env, lambda obs: obs[..., None], (*shape, 1))
    return env


def _pictures(
    env: gymnasium.Env, change: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]
) -> tuple[gymnasium.Env, tuple[int, ...]]:
    """The environment with changed pictures, and their new shape."""
    space = Box(low=0, high=255, shape=shape, dtype=np.uint8)
    return gymnasium.wrappers.TransformObservation(env, change, space), shape


def _check_spaces(id: str, obs: gymnasium.Space, actions: gymnasium.Space, allow_vectors: bool) -> None:  # noqa: A002
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise ValueError(f"{id} needs discrete actions, numbered from 0, to be explored; found {actions}")
    if isinstance(obs, Box) and obs.dtype == np.uint8 and len(obs.shape) in (2, 3):
        return
    if isinstance(obs, Box) and len(obs.shape) == 1:
        if allow_vectors:
            return
        raise ValueError(f"{id} shows vectors and not pictures ({obs}); allow_vectors=True takes them")
    raise ValueError(f"{id} needs uint8 pictures [H, W] or [H, W, C], or a Dict with an 'image'; found {obs}")


def _our_id(id: str) -> str | None:  # noqa: A002
    """The registered id of one of our environments, for its id or short name; None for others."""
    wanted = squash(id.removeprefix(OURS))
    for known in gymnasium.registry:
        if known.startswith(OURS):
            full = known.removeprefix(OURS)
            if wanted in (squash(full), squash(full.rpartition("-v")[0])):
                return known
    return None


def _game(id: str) -> str | None:  # noqa: A002
    """The ROM name of an Atari game, None for other environments."""
    if id.startswith(_MINIGRID) or ":" in id or (id in gymnasium.registry and not id.startswith("ALE/")):
        return None
    return rom_name(id)


def _known() -> list[str]:
    """All names that `make` takes, one form each."""
    atari = ["".join(word.capitalize() for word in rom.split("_")) for rom in games()]
    ours = [key.removeprefix(OURS).rpartition("-v")[0] for key in gymnasium.registry if key.startswith(OURS)]
    return [*atari, *ours, *(key for key in gymnasium.registry if not key.startswith(("ALE/", OURS)))]


def _nearest(name: str, known: list[str]) -> str:
    by_squashed = {squash(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(squash(name), list(by_squashed), n=3, cutoff=0.4)
    return f"the nearest are {', '.join(by_squashed[key] for key in near)}" if near else "nothing is called like it"
