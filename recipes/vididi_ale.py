"""Two sets of Atari play in which time alone tells the classes apart (spec vididi 10), recorded with ale-py.

ALE-Playback: windows of play, each shown forward and backwards, at one and two times the speed. All four classes show
each frame of a window exactly once, so a single frame says nothing. ALE-Action: from one state, each of four directions
is held; a game is kept only if probes of single frames stay near chance.

Frames are ``uint8 [84, 84]`` grey, and each has its 128 bytes of RAM. Playback is recorded at 30 frames a second, each
the maximum of two of the emulator, because figures that flicker would give the double speed away; actions at 60.

Legend: ``S`` states, ``A`` actions, ``T`` frames, ``H, W`` height and width.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from byol_ext._extras import require
from recipes.vididi_ale_player import EMULATOR_FPS, RandomPlayer, Take, record_states, record_windows
from recipes.vididi_ale_probes import motion_probe, single_frame_probe
from recipes.vididi_recorded import RecordedVideo, begin, finish, read_videos, save_array, save_json

_log = logging.getLogger(__name__)

PLAYBACK_CLASSES = ("forward 1x", "forward 2x", "reverse 1x", "reverse 2x")
ACTION_CLASSES = ("up", "right", "left", "down")
_ACTIONS = (2, 3, 4, 5)
"""Of all 18 actions; their numbers in the emulator."""
_SPLITS = {"train": 0, "test": 1}
_SKIP = 2
"""Emulator frames for one of ALE-Playback."""


@dataclass(frozen=True)
class Playback:
    """ALE-Playback.

    Attributes:
        games: Games, as `envs.protocols.rom_name` takes them.
        train: Episodes a game for training.
        test: Episodes a game for testing; others than those for training.
        windows: Windows of an episode (spec: 600 frames; 5 windows of 2 x 60).
        length: Frames of a video; a window has twice as many.
        hold: Mean frames for which the random player keeps an action.
        warm_up: Frames of a game before it is recorded.
        seed: Another seed, other games.
    """

    games: tuple[str, ...] = ("freeway", "demon_attack", "phoenix", "seaquest", "space_invaders", "riverraid")
    train: int = 8
    test: int = 3
    windows: int = 5
    length: int = 60
    hold: float = 8.0
    warm_up: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "train", "test", "windows", "length", "hold")


@dataclass(frozen=True)
class Action:
    """ALE-Action.

    Attributes:
        candidates: Games to try, in this order; all know the four directions.
        games: How many to keep at most.
        train: States a game for training.
        test: States a game for testing, of other games than those for training.
        length: Emulator frames for which an action is held (spec: 24).
        hold: Mean frames for which the random player before keeps an action.
        warm_up: Frames before the first state of a game, and the most between two states.
        tolerance: How far above chance a probe of single frames may be (spec: 5 points).
        seed: Another seed, other states.
    """

    candidates: tuple[str, ...] = (
        "battle_zone",
        "robotank",
        "star_gunner",
        "chopper_command",
        "zaxxon",
        "seaquest",
        "solaris",
        "yars_revenge",
    )
    games: int = 4
    train: int = 80
    test: int = 40
    length: int = 24
    hold: float = 16.0
    warm_up: int = 120
    tolerance: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "games", "train", "test", "length", "hold", "warm_up")


def _at_least_one(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")


def record_playback(out: Path, settings: Playback, *, progress: bool = False) -> None:
    """Record ALE-Playback into a folder; a stopped recording goes on where it was.

    Args:
        out: Folder of a :class:`recipes.vididi_recorded.RecordedVideos`.
        settings: What to record.
        progress: Show a bar.

    Raises:
        ValueError: For an unknown game, or a folder that holds something else.
        RuntimeError: If hardly anything moves in a game.
        ImportError: If ale-py is missing; says what to install.
    """
    names = _known(settings.games)
    begin(out, {"kind": "ale-playback", **asdict(settings)})
    rows: list[RecordedVideo] = []
    episodes = [
        (game, split, number)
        for game in names
        for split, many in (("train", settings.train), ("test", settings.test))
        for number in range(many)
    ]
    for game, split, number in track(episodes, "recording episodes", disable=not progress):
        shard = f"{game}-{split}-{number:03d}"
        if not (out / f"{shard}.npy").is_file():
            key = [settings.seed, _SPLITS[split], number]
            player = RandomPlayer(game, hold=settings.hold, key=key, sticky=0.25, skip=_SKIP)
            take = record_windows(player, settings.windows, length=2 * settings.length, warm_up=settings.warm_up)
            _save_take(out / shard, take)
        for window in range(settings.windows):
            rows += playback_rows(shard, window, length=settings.length, facts={"game": names.index(game)})
    controls = {}
    for game in names:
        of_game = {split: [row for row in rows if row.shard.startswith(f"{game}-{split}-")] for split in _SPLITS}
        controls[game] = probe_game(out, of_game["train"], of_game["test"], seed=settings.seed)
    finish(
        out,
        rows,
        classes=PLAYBACK_CLASSES,
        invariances=frozenset({"hflip", "crop", "colour", "grey", "blur"}),
        fingerprint=f"ale-playback-{_digest(settings)}",
        fps=EMULATOR_FPS / _SKIP,
        report={"games": names, "controls": controls},
    )


def playback_rows(shard: str, window: int, *, length: int, facts: dict[str, Any]) -> list[RecordedVideo]:
    """The eight videos of a window of ``2 * length`` frames: two of each class.

    At normal speed they are its halves, at double speed its even and its odd frames. So all classes show each frame of
    the window once, and videos of all classes are equally long.

    Args:
        shard: Name of the shard, ``GAME-SPLIT-NUMBER``.
        window: Which window of the shard.
        length: Frames of a video.
        facts: Facts of these videos.
    """
    rows = []
    first = 2 * length * window
    for half in range(2):
        for speed, begins in ((1, first + half * length), (2, first + half)):
            ends = begins + speed * (length - 1)
            for backwards, start in ((False, begins), (True, ends)):
                label = 2 * backwards + speed - 1
                group = f"{shard}-{window}"
                rows.append(
                    RecordedVideo(
                        key=f"{group}-{PLAYBACK_CLASSES[label].replace(' ', '-')}-{half}",
                        split=shard.split("-")[1],
                        shard=shard,
                        start=start,
                        step=-speed if backwards else speed,
                        length=length,
                        label=label,
                        group=group,
                        facts=facts,
                    )
                )
    return rows


def record_action(out: Path, settings: Action, *, progress: bool = False) -> None:
    """Record ALE-Action into a folder; a stopped recording goes on where it was.

    Args:
        out: Folder of a :class:`recipes.vididi_recorded.RecordedVideos`; ``report`` in its index has the accuracy of
            the probes for each game that was tried.
        settings: What to record.
        progress: Show a bar.

    Raises:
        ValueError: For an unknown game, or a folder that holds something else.
        RuntimeError: If no game is left; lists what the probes found.
        ImportError: If ale-py is missing; says what to install.
    """
    names = _known(settings.candidates)
    begin(out, {"kind": "ale-action", **asdict(settings)})
    kept: list[str] = []
    found: dict[str, dict[str, float]] = {}
    for game in track(names, "recording games", disable=not progress):
        if len(kept) == settings.games:
            break
        found[game] = _try_game(out, game, settings)
        if found[game]["single_frame"] <= 1 / len(_ACTIONS) + settings.tolerance:
            kept.append(game)
        else:
            for split in _SPLITS:
                (out / f"{game}-{split}.npy").unlink(missing_ok=True)
                (out / f"{game}-{split}.ram.npy").unlink(missing_ok=True)
    if len(kept) < settings.games:
        tried = "; ".join(f"{game} {probes['single_frame']:.2f}" for game, probes in found.items())
        what = (
            f"{len(kept)} of at most {settings.games} games keep a probe of single frames within "
            f"{settings.tolerance:.2f} of chance ({1 / len(_ACTIONS):.2f}): {tried}"
        )
        if not kept:
            raise RuntimeError(f"{what}. Name other candidates or allow a larger tolerance")
        _log.warning("%s", what)
    finish(
        out,
        [
            row
            for game in kept
            for split, many in (("train", settings.train), ("test", settings.test))
            for row in action_rows(f"{game}-{split}", many, length=settings.length, facts={"game": kept.index(game)})
        ],
        classes=ACTION_CLASSES,
        invariances=frozenset({"crop", "colour", "grey", "blur"}),
        fingerprint=f"ale-action-{_digest(settings)}",
        fps=EMULATOR_FPS,
        report={"games": kept, "controls": found},
    )


def action_rows(shard: str, states: int, *, length: int, facts: dict[str, Any]) -> list[RecordedVideo]:
    """The videos of a shard of ALE-Action, in the order in which they were recorded: state by state, action by action.

    Args:
        shard: Name of the shard, ``GAME-SPLIT``.
        states: How many states it has.
        length: Frames of a video.
        facts: Facts of these videos.
    """
    return [
        RecordedVideo(
            key=f"{shard}-{state:04d}-{name}",
            split=shard.split("-")[1],
            shard=shard,
            start=(state * len(ACTION_CLASSES) + label) * length,
            step=1,
            length=length,
            label=label,
            group=f"{shard}-{state:04d}",
            facts=facts,
        )
        for state in range(states)
        for label, name in enumerate(ACTION_CLASSES)
    ]


def _try_game(out: Path, game: str, settings: Action) -> dict[str, float]:
    """Record a game unless it is there, and probe it."""
    path = out / f"{game}.json"
    if path.is_file():
        return json.loads(path.read_text())
    rows: dict[str, list[RecordedVideo]] = {}
    for split, many in (("train", settings.train), ("test", settings.test)):
        shard = f"{game}-{split}"
        if not (out / f"{shard}.npy").is_file():
            player = RandomPlayer(game, hold=settings.hold, key=[settings.seed, _SPLITS[split]], sticky=0.0, skip=1)
            take = record_states(player, many, _ACTIONS, length=settings.length, warm_up=settings.warm_up)
            _save_take(out / shard, take)
        rows[split] = action_rows(shard, many, length=settings.length, facts={})
    probes = probe_game(out, rows["train"], rows["test"], seed=settings.seed)
    _log.info("%s: probe of single frames %.3f, of motion %.3f", game, probes["single_frame"], probes["motion"])
    save_json(path, probes)
    return probes


def probe_game(
    out: Path, train: Sequence[RecordedVideo], test: Sequence[RecordedVideo], *, seed: int
) -> dict[str, float]:
    """Accuracy of the probes of :mod:`recipes.vididi_ale_probes` on videos of one game.

    Args:
        out: The set.
        train: Videos to fit on.
        test: Videos to judge by.
        seed: Seed of the probes.
    """
    rows = {"train": train, "test": test}
    videos = {split: read_videos(out, some) for split, some in rows.items()}
    labels = {split: np.array([row.label for row in some]) for split, some in rows.items()}
    return {
        "single_frame": single_frame_probe(videos, labels, seed=seed),
        "motion": motion_probe(videos, labels, seed=seed),
        "chance": 1 / len(np.unique(labels["train"])),
    }


def _known(games: Sequence[str]) -> list[str]:
    """ROM names, each once.

    Raises:
        ValueError: For an unknown game; names the nearest.
        ImportError: If ale-py is missing.
    """
    for module in ("gymnasium", "ale_py"):
        require(module, extra="explore")
    from envs.atari import known_game

    return list(dict.fromkeys(known_game(game) for game in games))


def _save_take(path: Path, take: Take) -> None:
    """The frames last: a shard that has them is whole."""
    save_array(path.with_name(f"{path.name}.ram.npy"), take.ram)
    save_array(path.with_name(f"{path.name}.npy"), take.frames)


def _digest(settings: Playback | Action) -> str:
    return f"{zlib.crc32(json.dumps(asdict(settings)).encode()):08x}"
