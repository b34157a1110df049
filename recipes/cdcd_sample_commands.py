"""``byol-ext cdcd sample`` and ``infill``: text from a trained run."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.cdcd import Trained, load_run
from recipes.cdcd_config import SampleConfig
from recipes.cdcd_generate import TextModel, draw_sequences, fill, text_model
from recipes.cdcd_infill import Template, infill, parse_candidates, parse_template

_GAUSSIAN = ("euler", "heun", "ancestral", "ancestral_token")
_SIMPLEX = ("ode", "sde", "bridge")
_KNOBS = {
    "score_temp": "score_temperature",
    "softmax_temp": "softmax_temperature",
    "top_p": "top_p",
    "sigma_init": "sigma_init",
    "guidance": "guidance",
    "guidance_memory": "guidance_memory",
    "rho": "rho",
    "final": "final",
    "halt_patience": "halt_patience",
    "halt_entropy": "halt_entropy",
    "steps": "steps",
}


def sample_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd sample --run DIR``: print sequences and write ``samples.jsonl``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext cdcd sample",
        description="Draw sequences from a trained run's averaged weights, print them and write samples.jsonl. Knobs "
        "that are not given are the run's own.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--n", type=int, default=8, help="sequences (default: 8)")
    parser.add_argument("--length", type=int, help="tokens of each (default: as trained, which is the most)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--prompt", default="", help="text that each sequence begins with")
    group.add_argument("--prompt-share", type=float, help="share of each that is given from held-out text (run's own)")
    parser.add_argument("--out", type=Path, help="file (default: DIR/samples.jsonl)")
    add_knobs(parser)
    chosen = parser.parse_args(list(args))
    trained, run = load_run(chosen.run)
    model, tokenizer = text_model(trained), trained.data.tokenizer
    length = within(chosen.length, trained.config.data.length)
    share = trained.config.sample.prompt if chosen.prompt_share is None else chosen.prompt_share
    how = replace(knobs(chosen, trained.config.sample, model), count=chosen.n, prompt=share)
    if chosen.prompt:
        tokens_NL, noised_NL = _begun(as_trained(chosen.prompt, trained), trained, count=chosen.n, length=length)
        how = replace(how, prompt=0.0)
        drawn = fill(model, tokens_NL, noised_NL, how=how, seed=chosen.seed)
    else:
        drawn = draw_sequences(model, trained.held_out(length), how=how, seed=chosen.seed)
    rows = []
    for tokens_L, noised_L in zip(drawn.tokens_NL, drawn.noised_NL, strict=True):
        prompt = tokenizer.decode(tokens_L[~noised_L].tolist())
        rows.append({"text": tokenizer.decode(tokens_L.tolist()), "prompt": prompt, "tokens": tokens_L.tolist()})
    about = {"model": model.name, "seed": chosen.seed, "evaluations": drawn.evaluations, "sampling": asdict(how)}
    out = chosen.out or run.path / "samples.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row | about) + "\n" for row in rows), encoding="utf-8")
    if chosen.json:
        print(json.dumps(about | {"seconds": drawn.seconds, "samples": rows, "file": str(out)}, indent=1))
        return 0
    for index, row in enumerate(rows):
        print(f"[{index}] {row['text']}")
    print(f"{len(rows)} sequences in {drawn.seconds:.1f} s, {drawn.evaluations} evaluations each: {out}")
    return 0


def infill_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd infill --run DIR "The [[12]] sat on the [[8]]."``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext cdcd infill",
        description="Fill blanks in a text: [[8]] is a blank of 8 tokens, [[?]] one of unknown length, for which "
        "--candidates are tried. Fills are printed best first, by the nats that the model needs for a token of the "
        "blanks given the rest (an upper bound; ar models see and score from the left alone). Knobs that are not "
        "given are the run's own.",
    )
    parser.add_argument("text", help="text with blanks")
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--n", type=int, default=1, help="fills of each choice of lengths (default: 1)")
    parser.add_argument("--candidates", default="", help="lengths of [[?]], such as 4..12")
    add_knobs(parser)
    chosen = parser.parse_args(list(args))
    template = parse_template(chosen.text)
    candidates = parse_candidates(chosen.candidates) if chosen.candidates else ()
    trained, _ = load_run(chosen.run)
    model = text_model(trained)
    found = infill(
        model,
        Template(tuple(as_trained(piece, trained) for piece in template.pieces), template.blanks),
        trained.data.tokenizer,
        limit=trained.config.data.length,
        how=knobs(chosen, trained.config.sample, model),
        seed=chosen.seed,
        fills=chosen.n,
        candidates=candidates,
    )
    if chosen.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return 0
    for one in found:
        print(f"{one.nats_per_token:7.3f} nats a token  {','.join(map(str, one.lengths)):>7}  {one.text}")
    return 0


def add_knobs(parser: argparse.ArgumentParser) -> None:
    """Options of sampling, seed and ``--json``."""
    parser.add_argument("--steps", type=int, help="steps (not of ar)")
    parser.add_argument("--sampler", choices=[*_GAUSSIAN, *_SIMPLEX], help="the last three: simplex process")
    parser.add_argument("--score-temp", type=float, help="score temperature; below 1 sharpens (Gaussian process)")
    parser.add_argument("--softmax-temp", type=float, help="temperature of the token probabilities")
    parser.add_argument("--top-p", type=float, help="nucleus of the token probabilities")
    parser.add_argument("--sigma-init", type=float, help="scale of the initial noise (Gaussian process)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale (Gaussian process)")
    parser.add_argument("--guidance-memory", choices=["own", "zero", "shared"], help="see train --help")
    parser.add_argument("--rho", type=float, help="power of the grid's quantiles")
    parser.add_argument("--final", choices=["argmax", "nearest"], help="tokens at the end (Gaussian process)")
    parser.add_argument("--halt-patience", type=int, help="stop after so many steps that changed no token")
    parser.add_argument("--halt-entropy", type=float, help="stop at this mean entropy in nats")
    parser.add_argument("--unwarped", action="store_true", help="step evenly in noise whatever the warp")
    parser.add_argument("--batch", type=int, help="sequences at once")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def knobs(chosen: argparse.Namespace, base: SampleConfig, model: TextModel) -> SampleConfig:
    """How to sample: the run's own settings with the given options.

    Args:
        chosen: Parsed options of :func:`add_knobs`.
        base: The run's own.
        model: What is sampled.

    Raises:
        ValueError: If an option is another kind of model's, or a value is out of range.
    """
    changes: dict[str, Any] = {
        name: getattr(chosen, option) for option, name in _KNOBS.items() if getattr(chosen, option) is not None
    }
    if chosen.batch is not None:
        changes["batch"] = chosen.batch
    if chosen.unwarped:
        changes["unwarped"] = True
    if model.name == "ar" and "steps" in changes:
        raise ValueError("--steps: an ar model draws token by token and has no steps")
    if chosen.sampler is not None:
        samplers = {"cdcd": _GAUSSIAN, "simplex": _SIMPLEX}.get(model.name, ())
        if chosen.sampler not in samplers:
            known = f"expected one of {', '.join(samplers)}" if samplers else "it has no choice of samplers"
            raise ValueError(f"--sampler {chosen.sampler} is not one of a {model.name} model; {known}")
        changes["sampler" if model.name == "cdcd" else "simplex_sampler"] = chosen.sampler
    return replace(base, **changes)


def within(length: int | None, limit: int) -> int:
    """The wanted length, or the trained one.

    Raises:
        ValueError: If it is longer than the trained one, or shorter than two.
    """
    if length is None:
        return limit
    if not 2 <= length <= limit:
        raise ValueError(f"--length {length}: expected 2 to {limit}, the positions that the model trained on")
    return length


def as_trained(text: str, trained: Trained) -> str:
    """Text as the corpus spells it: ``stdlib27`` is lower case with one space for all but letters."""
    return re.sub(r"[^a-z]+", " ", text.lower()) if trained.config.data.text == "stdlib27" else text


def _begun(prompt: str, trained: Trained, *, count: int, length: int) -> tuple[Tensor, Tensor]:
    ids = trained.data.tokenizer.encode([prompt])[0]
    if len(ids) >= length:
        raise ValueError(f"--prompt is {len(ids)} tokens long; sequences have {length}")
    tokens_L = torch.zeros(length, dtype=torch.int64)
    tokens_L[: len(ids)] = torch.from_numpy(ids)
    return tokens_L.expand(count, -1), (torch.arange(length) >= len(ids)).expand(count, -1)
