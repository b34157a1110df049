"""The commands of ``byol-ext vididi``: train, eval, retrieve, finetune, cache, data, study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from byol_ext.training import Run, process_device, rank_and_world
from byol_ext.video.cache import CacheSettings, cache_videos
from byol_ext.video.sources import open_source
from recipes.config import parse
from recipes.vididi import Experiment, centre, fresh, load_run, train
from recipes.vididi_config import PRESETS, VididiConfig, motion
from recipes.vididi_data import Splits, open_splits
from recipes.vididi_eval import Evaluation, evaluate
from recipes.vididi_features import calibrate_norms
from recipes.vididi_finetune_command import finetune_command
from recipes.vididi_make_data import data_command
from recipes.vididi_pictures import draw, draw_retrieval
from recipes.vididi_study import study_command

HEADLINES = (
    "probe/linear_accuracy",
    "probe/linear_d1_accuracy",
    "probe/random_init_accuracy",
    "probe/single_frame_accuracy",
    "probe/chance",
    "retrieval/R@1",
    "retrieval/chance/R@1",
)


def train_command(args: Sequence[str]) -> int:
    """``byol-ext vididi train``: pretrain, then evaluate on the test videos."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--resume", action="store_true")
    chosen, rest = own.parse_known_args(list(args))
    about = (
        "Pretrain a video encoder with BYOL, VICReg or SimCLR over temporal derivatives (--method.no-vididi: without), "
        "then evaluate it.\n\n--resume continues the run of that name from its newest checkpoint, or starts it."
    )
    config = parse(motion, PRESETS, rest, prog="byol-ext vididi train", description=about)
    return train_and_evaluate(config, resume=chosen.resume)


def train_and_evaluate(config: VididiConfig, *, resume: bool = False) -> int:
    """Train, and unless a signal stopped it, evaluate and write results, figures and card.

    Returns:
        Exit code: 0, or 130 after an interrupt.
    """
    result, experiment, splits, run = train(config, resume=resume)
    if result.interrupted is not None:
        return 130
    if rank_and_world()[0] == 0:
        if splits.test is None or not splits.test.classes:
            draw(run, config, experiment, splits, evaluation=None)
            print(f"trained; there are no labelled test videos to evaluate on (--data.test). Run: {run.path}")
            return 0
        extra = {"train/steps": float(result.step), "train/seconds": result.seconds}
        evaluation = report(config, experiment, splits, run, extra=extra)
        print_headlines(evaluation.metrics | extra, run.path)
    return 0


def report(
    config: VididiConfig, experiment: Experiment, splits: Splits, run: Run, *, extra: dict[str, float] | None = None
) -> Evaluation:
    """Evaluate with controls; write ``results.json`` and the figures.

    Args:
        config: The configuration.
        experiment: The trained model.
        splits: The videos.
        run: Where to write.
        extra: Further metrics, such as what the training took.
    """
    evaluation = measured(config, experiment, splits)
    saliency = draw(run, config, experiment, splits, evaluation)
    run.write_results(
        evaluation.metrics | saliency | (extra or {}),
        controls=evaluation.controls,
        protocol=evaluation.protocol | {"pretraining": pretraining(config)},
    )
    return evaluation


def measured(config: VididiConfig, experiment: Experiment, splits: Splits) -> Evaluation:
    """Retrieval and probes of the encoder and of its untrained twin, whose BatchNorm statistics are calibrated.

    Raises:
        ValueError: If there are no labelled test videos.
    """
    if splits.test is None:
        raise ValueError("there are no test videos to evaluate on; give --data.test")
    device = process_device(config.train.device)
    untrained = None
    if config.eval.controls:
        untrained = fresh(config).encoder.to(device)
        calibrate_norms(untrained, splits.train, config.eval.protocol, centre=centre(config))
    return evaluate(
        experiment.encoder,
        train=splits.train,
        test=splits.test,
        config=replace(config.eval, seed=config.seed),
        centre=centre(config),
        random_init=untrained,
    )


def pretraining(config: VididiConfig) -> dict[str, object]:
    """What the encoder was pretrained with, in short; ``config.yaml`` has all of it."""
    return {
        "method": config.method.name,
        "vididi": config.method.vididi,
        "schedule": asdict(config.schedule),
        "encoder": config.encoder.name,
        "bn": config.encoder.bn,
        "seed": config.seed,
    }


def print_headlines(metrics: dict[str, float], path: Path) -> None:
    """The figures that people look for."""
    for name in HEADLINES:
        if name in metrics:
            print(f"{name:34} {metrics[name]:.4g}")
    print(f"results: {path / 'results.json'}")


def eval_command(args: Sequence[str]) -> int:
    """``byol-ext vididi eval --run DIR``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext vididi eval", description="Retrieval, k-NN and linear probe of a trained encoder, with controls."
    )
    _evaluation_options(parser)
    chosen = parser.parse_args(list(args))
    config, experiment, splits, run = _trained(chosen)
    evaluation = report(config, experiment, splits, run)
    if chosen.json:
        print(json.dumps(evaluation.metrics, indent=1))
    else:
        for name, value in evaluation.metrics.items():
            print(f"{name:44} {value:.4g}")
    return 0


def retrieve_command(args: Sequence[str]) -> int:
    """``byol-ext vididi retrieve --run DIR``: recalls with the whole protocol, and a sheet of neighbours."""
    parser = argparse.ArgumentParser(
        prog="byol-ext vididi retrieve",
        description="Same-class retrieval: recalls, the whole protocol, and a picture of queries and neighbours.",
    )
    _evaluation_options(parser)
    parser.add_argument("--out", type=Path, help="picture (default: DIR/figures/retrieval.png)")
    chosen = parser.parse_args(list(args))
    config, experiment, splits, run = _trained(chosen)
    config = replace(config, eval=replace(config.eval, controls=False, appearance=None))
    evaluation = measured(config, experiment, splits)
    path = draw_retrieval(evaluation, config, splits, chosen.out or run.figures / "retrieval.png")
    found = {name: value for name, value in evaluation.metrics.items() if name.startswith("retrieval/")}
    if chosen.json:
        print(json.dumps({"metrics": found, "protocol": evaluation.protocol, "picture": str(path)}, indent=1))
        return 0
    for name, value in found.items():
        print(f"{name:44} {value:.4g}")
    for name, fact in evaluation.protocol.items():
        print(f"{name:44} {fact}")
    print(f"picture: {path}")
    return 0


def _evaluation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--test", default="", help="other test videos (default: the run's own)")
    parser.add_argument("--clips", type=int, help="clips of a video (default: the run's own)")
    parser.add_argument("--limit", type=int, help="most videos of each split (default: all)")
    parser.add_argument(
        "--authors-protocol", action="store_true", help="leave short videos out, as the authors do (spec vididi 6)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _trained(chosen: argparse.Namespace) -> tuple[VididiConfig, Experiment, Splits, Run]:
    config, experiment, run = load_run(chosen.run)
    protocol = config.eval.protocol
    protocol = replace(protocol, clips=chosen.clips or protocol.clips, limit=chosen.limit or protocol.limit)
    own = replace(
        config.eval, protocol=protocol, authors_protocol=chosen.authors_protocol or config.eval.authors_protocol
    )
    config = replace(config, eval=own, data=replace(config.data, test=chosen.test or config.data.test))
    return config, experiment, open_splits(config.data, seed=config.seed), run


def cache_command(args: Sequence[str]) -> int:
    """``byol-ext vididi cache SRC DST``."""
    settings = CacheSettings()
    parser = argparse.ArgumentParser(
        prog="byol-ext vididi cache",
        description="Decode, scale and store videos so that training reads them fast. A cache that was stopped goes "
        "on; what cannot be used is in DST/errors.jsonl.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("src", type=Path, help="videos: a folder, a list, shards (see docs/vididi.md)")
    parser.add_argument("dst", type=Path, help="folder of the cache; give it to --data.train")
    parser.add_argument(
        "--format", choices=["h264", "array"], default=settings.format, help="small-GOP video, or uint8"
    )
    parser.add_argument("--short-side", type=int, default=settings.short_side, help="short side in pixels")
    parser.add_argument("--gop", type=int, default=settings.gop, help="frames from one key frame to the next (h264)")
    parser.add_argument("--split", help="split of the source: train, val, test (default: all)")
    parser.add_argument("--annotations", type=Path, help="folder of official lists, or a list")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.05, help="share of unusable videos that is too much"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    source = open_source(chosen.src, split=chosen.split, annotations=chosen.annotations, missing="skip")
    done = cache_videos(
        source,
        chosen.dst,
        settings=replace(settings, format=chosen.format, short_side=chosen.short_side, gop=chosen.gop),
        workers=chosen.workers,
        max_bad_fraction=chosen.max_bad_fraction,
        progress=True,
    )
    if chosen.json:
        print(json.dumps(asdict(done), indent=1))
        return 0
    print(f"videos: {done.videos}  frames: {done.frames}  bytes a video: {done.bytes_per_video:.0f}")
    print(f"left out: {sum(done.left_out.values())} {dict(done.left_out) or ''}  cut at damage: {done.damaged}")
    print(f"processor seconds a video: {done.seconds_per_video:.3f}  cache: {chosen.dst}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "eval": eval_command,
    "retrieve": retrieve_command,
    "finetune": finetune_command,
    "cache": cache_command,
    "data": data_command,
    "study": study_command,
}
