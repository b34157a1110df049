"""The original playroom: a Unity program in a Docker image, spoken to over dm_env_rpc.

Needs Docker itself, an x86-64 machine with SSE4.2, and ``pip install dm-env-rpc docker``. What the program holds is not
published, so its instructions stay strings. The connection follows the facts of the published loader
(``playroom/load_environment.py`` of google-deepmind/zipfian_environments). It has not been run against the image.

Legend: ``H`` rows and ``W`` columns of a picture.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, DependencyNotInstalled, InvalidAction, ResetNeeded
from gymnasium.spaces import Box, MultiDiscrete
from numpy.typing import NDArray

from envs.zipf.law import check_choice
from envs.zipf.playroom.levels import LEVELS

IMAGE = (
    "gcr.io/google.com/deepmind-environments-staging/"
    "dm_zipfian_distributions:dm_zipfian_distributions_staging_gcr_20220629_RC00"
)
"""The published Docker image."""
ACTIONS = ("MOVE_BACK_FORWARD", "STRAFE_LEFT_RIGHT", "LOOK_LEFT_RIGHT", "LOOK_DOWN_UP", "HAND_GRIP")
"""The original's actions: -1, 0 or 1 each, and 0 or 1 for the grip."""
_PORT = 10000
_PATIENCE = 60.0


class Connection(Protocol):
    """What `DockerPlayroom` asks of a running world: a `dm_env.Environment` with a `close`."""

    def reset(self) -> Any:
        """Begins an episode; a `dm_env.TimeStep`."""

    def step(self, action: dict[str, Any]) -> Any:
        """One step; a `dm_env.TimeStep`."""

    def close(self) -> None:
        """Ends the world."""


class DockerPlayroom(gymnasium.Env):
    """The original playroom as a `gymnasium.Env`.

    Observation: the picture ``[H, W, 3]`` uint8. Actions: ``MultiDiscrete([3, 3, 3, 3, 2])``, see `ACTIONS`; 0, 1, 2
    stand for -1, 0, 1. ``info["instruction"]`` is the original's text.

    A world has one seed, so ``reset(seed=...)`` makes a new one in the running container; a plain reset goes on with
    the world's next episode.

    Args:
        level: One of the 18 names in `envs.zipf.playroom.LEVELS`.
        size: ``(H, W)``; default (72, 96), the original's.
        episode_seconds: Length of an episode; default 120, the original's.
        action_repeats: Times that every action is done; default 1, the original's.
        image: Docker image.
        connect: Opens a world with a seed; None (default) does so in a Docker container.

    Raises:
        DependencyNotInstalled: dm_env_rpc or docker is missing; names what is, and what to install.
        ValueError: An unknown level, or a number that is not positive.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        level: str = "lift/lift_shape_zipf2",
        *,
        size: tuple[int, int] = (72, 96),
        episode_seconds: float = 120.0,
        action_repeats: int = 1,
        image: str = IMAGE,
        connect: Callable[[int], Connection] | None = None,
    ) -> None:
        check_choice("level", level, tuple(LEVELS))
        for name, value in (("size", min(size)), ("episode_seconds", episode_seconds), ("repeats", action_repeats)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.observation_space = Box(0, 255, (*size, 3), np.uint8)
        self.action_space = MultiDiscrete([3, 3, 3, 3, 2])
        self._repeats, self._closed = action_repeats, False
        self._container: _Container | None = None
        if connect is None:
            require_dependencies()
            self._container = _Container(image, level, size, episode_seconds)
            connect = self._container.open_world
        self._connect = connect
        self._world: Connection | None = None
        self._going = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: Of a new world; None goes on with the present one.
            options: None are known.

        Raises:
            ClosedEnvironmentError: After `close`.
            ValueError: Options.
        """
        self._check_open()
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; there are none")
        super().reset(seed=seed)
        if seed is not None or self._world is None:
            if self._world is not None:
                self._world.close()
            self._world = self._connect(int(self.np_random.integers(1 << 31)) if seed is None else seed)
        self._going = True
        return _told(self._world.reset())

    def step(self, action: NDArray[np.integer]) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """One step, or several of the original's.

        Raises:
            ClosedEnvironmentError: After `close`.
            ResetNeeded: Before the first reset and after the end of an episode.
            InvalidAction: Outside the action space.
        """
        self._check_open()
        if not self._going or self._world is None:
            raise ResetNeeded("call reset(): no episode has begun, or it is over")
        given = np.asarray(action)
        if given.dtype.kind not in "iu" or not self.action_space.contains(given.astype(np.int64)):
            raise InvalidAction(f"action must be five integers in {self.action_space}, got {action!r}")
        shift = np.array([1, 1, 1, 1, 0])
        words = dict(zip(ACTIONS, (given - shift).tolist(), strict=True))
        total = 0.0
        for _ in range(self._repeats):
            now = self._world.step(words)
            total += float(now.reward or 0.0)
            if now.last():
                break
        self._going = not now.last()
        terminated = bool(now.last() and now.discount == 0)
        return _told(now)[0], total, terminated, bool(now.last() and not terminated), _told(now)[1]

    def close(self) -> None:
        """Ends the world and the container; closing twice is fine."""
        if not self._closed:
            if self._world is not None:
                self._world.close()
            if self._container is not None:
                self._container.close()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("DockerPlayroom was closed; make a new one")


def require_dependencies() -> None:
    """Raises DependencyNotInstalled unless dm_env_rpc and docker can be imported."""
    packages = {"dm_env_rpc": "dm-env-rpc", "docker": "docker"}
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyNotInstalled(
            f"the original playroom needs {' and '.join(missing)}: "
            f"pip install {' '.join(packages[name] for name in missing)} (and Docker itself); "
            "byol_ext/ZipfPlayroom-v0 needs neither"
        )


class _Container:
    """The running image, in which worlds are opened one after another."""

    def __init__(self, image: str, level: str, size: tuple[int, int], episode_seconds: float) -> None:
        self._level, self._size, self._seconds = level, size, episode_seconds
        client = importlib.import_module("docker").from_env()
        # Docker chooses a free port of this machine.
        self._container = client.containers.run(image, auto_remove=True, detach=True, ports={f"{_PORT}/tcp": None})

    def open_world(self, seed: int) -> Connection:
        """A world with this seed, joined."""
        grpc = importlib.import_module("grpc")
        rpc = {name: importlib.import_module(f"dm_env_rpc.v1.{name}") for name in _RPC_MODULES}
        messages, pack = rpc["dm_env_rpc_pb2"], rpc["tensor_utils"].pack_tensor
        channel = grpc.secure_channel(f"localhost:{self._port()}", grpc.local_channel_credentials())
        grpc.channel_ready_future(channel).result(timeout=_PATIENCE)
        connection = rpc["connection"].Connection(channel)
        self._await_program(connection, messages, rpc["error"].DmEnvRpcError, grpc.RpcError)
        world = {"seed": pack(seed), "episodeId": pack(0), "levelName": pack(self._level)}
        name = connection.send(messages.CreateWorldRequest(settings=world)).world_name
        height, width = self._size
        view = {
            "width": pack(width),
            "height": pack(height),
            "EpisodeLengthSeconds": pack(float(self._seconds)),
            "ShowReachabilityHUD": pack(False),
        }
        specs = connection.send(messages.JoinWorldRequest(world_name=name, settings=view)).specs
        observed = ["RGB_INTERLEAVED", "TEXT"]
        adaptor = rpc["dm_env_adaptor"].DmEnvAdaptor(connection, specs, observed)
        return _World(adaptor, connection, channel, messages, name)

    def _port(self) -> str:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            self._container.reload()
            if bound := self._container.ports.get(f"{_PORT}/tcp"):
                return str(bound[0]["HostPort"])
            time.sleep(0.2)
        raise TimeoutError(f"the container has not opened its port {_PORT} within {_PATIENCE:g} s")

    @staticmethod
    def _await_program(connection: Any, messages: Any, refused: type[Exception], broken: type[Exception]) -> None:
        """Waits until the program answers: it refuses a step without a world, but then it is there."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                connection.send(messages.StepRequest())
                return
            except refused:
                return
            except broken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def close(self) -> None:
        """Stops the program; the container removes itself."""
        self._container.kill()


_RPC_MODULES = ("connection", "dm_env_adaptor", "dm_env_rpc_pb2", "error", "tensor_utils")


class _World:
    """A joined world: steps it, and destroys it in the end."""

    def __init__(self, adaptor: Any, connection: Any, channel: Any, messages: Any, name: str) -> None:
        self._adaptor, self._connection, self._channel = adaptor, connection, channel
        self._messages, self._name = messages, name

    def reset(self) -> Any:
        """Begins an episode."""
        return self._adaptor.reset()

    def step(self, action: dict[str, Any]) -> Any:
        """One step, with every number in its spec's type."""
        specs = self._adaptor.action_spec()
        return self._adaptor.step({name: np.asarray(value, specs[name].dtype) for name, value in action.items()})

    def close(self) -> None:
        """Leaves and destroys the world."""
        self._connection.send(self._messages.LeaveWorldRequest())
        self._connection.send(self._messages.DestroyWorldRequest(world_name=self._name))
        self._connection.close()
        self._channel.close()


def _told(now: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Picture and infos of a `dm_env.TimeStep`."""
    return np.array(now.observation["RGB_INTERLEAVED"], np.uint8), {"instruction": str(now.observation["TEXT"])}
