"""``byol-ext``: the one command line.

Exit codes: 0 done, 1 the run failed (bad data, NaN), 2 bad arguments, 130 interrupted after a checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

RECIPES = {
    "slap": "recipes.slap_commands",
    "explore": "recipes.explore_commands",
    "vididi": "recipes.vididi_commands",
    "cdcd": "recipes.cdcd_commands",
    "image": "recipes.image_commands",
}
"""Module of each recipe's ``COMMANDS``; imported when it is asked for."""
USAGE = """usage: byol-ext COMMAND ...

  slap train       train SLAP, or CLAP with the same towers, on audio and captions
  slap eval        evaluate a trained run
  slap compare     SLAP against CLAP with shared seeds, one table
  slap shard       pack pairs into WebDataset shards
  slap data        make the captioned rendered-music set
  explore train    train an exploring agent on Atari, a stochastic maze or a Gymnasium id
  explore eval     play episodes with a trained agent
  explore record   a video of an episode with its intrinsic reward
  explore rooms    maps of where a run has been
  explore study    agents under distractions in the maze, one table
  vididi train     pretrain a video encoder with BYOL, VICReg or SimCLR over temporal derivatives
  vididi eval      retrieval, k-NN and linear probe of a trained encoder, with controls
  vididi retrieve  retrieval alone, with its whole protocol and a picture
  vididi finetune  a classifier on a pretrained or a fresh encoder
  vididi cache     store videos so that training reads them fast
  vididi data      make a set of videos without a download
  vididi study     methods with and without ViDiDi on moving digits, one table
  cdcd train       train a text diffusion model, or an autoregressive or masked one of its size
  cdcd eval        evaluate a trained run: samples, likelihood, infilling, with controls; one page
  cdcd sample      draw sequences from a trained run
  cdcd infill      fill the blanks of a text: "The [[12]] sat on the [[8]]."
  cdcd probe       noise range, warp and embeddings of a trained run, with warnings
  cdcd export      a trained run as a folder of Hugging Face's shape
  cdcd study       CDCD, its ablations and its rivals at one size, one table
  image train      pretrain an image encoder with BYOL or one of its relatives
  image eval       k-NN, linear probe, few labels and rank of a trained encoder, with controls
  image compare    methods at equal data and steps with seeds and controls, one table
  image spectrum   spectra, filters against theory, hulls and augmentation of a trained run, one page
  quickstart       train, evaluate and report the tiny recipes in minutes
  doctor           what is installed, which devices there are, what is missing

byol-ext COMMAND --help lists each option with its default and meaning."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "matplotlib", "fontTools", "datasets", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = run(args)
    except (ValueError, OSError, RuntimeError, ImportError, FloatingPointError, KeyError) as error:
        # What the library raises for bad data and failed runs; a traceback would hide its message.
        logging.getLogger("byol-ext").debug("", exc_info=True)
        print(f"byol-ext: {type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    finally:
        leave_process_group()
    sys.exit(code)


def leave_process_group() -> None:
    """Close what ``torchrun`` opened, if this process trained."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(args: Sequence[str]) -> int:
    """Dispatch to a command; returns the exit code."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if args else 2
    command, rest = args[0], list(args[1:])
    if command == "doctor":
        from recipes.doctor import doctor

        parser = argparse.ArgumentParser(prog="byol-ext doctor", description="What is installed, and what is missing.")
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return doctor(as_json=parser.parse_args(rest).json)
    if command == "quickstart":
        from recipes.quickstart import quickstart_command

        return quickstart_command(rest)
    if command in RECIPES:
        commands = importlib.import_module(RECIPES[command]).COMMANDS
        if rest and rest[0] in ("-h", "--help"):
            print(USAGE)
            return 0
        if not rest or rest[0] not in commands:
            given = repr(rest[0]) if rest else "nothing"
            print(f"byol-ext {command}: got {given}; expected one of {', '.join(commands)}", file=sys.stderr)
            return 2
        return commands[rest[0]](rest[1:])
    print(f"byol-ext: unknown command {command!r}\n\n{USAGE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
