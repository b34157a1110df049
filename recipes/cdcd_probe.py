"""``byol-ext cdcd probe`` (is a run's noise range right, are its embeddings healthy) and ``export``.

Legend: ``N`` sequences, ``L`` positions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from byol_ext.diffusion.averaged import Averaged
from byol_ext.diffusion.embeddings import EmbeddingMonitor
from byol_ext.diffusion.hf import save_pretrained
from byol_ext.diffusion.hf_cdcd import save_cdcd
from byol_ext.diffusion.hf_simplex import save_simplex
from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.metrics.text import pooled_entropy
from byol_ext.rng import sample_keys
from byol_ext.training import Run
from recipes.cdcd import Trained, load_run
from recipes.cdcd_model import build

RECONSTRUCTION_LIMIT = 0.05
"""Nats a token at the smallest noise: more means that tokens are ambiguous there (spec 3)."""
FORGOTTEN_SHARE = 0.98
"""Of the unigram entropy at the largest noise: less means that text shows through (spec 3)."""
_QUANTILES = 9


@dataclass(frozen=True)
class Probe:
    """What :func:`probe` found.

    Attributes:
        metrics: Flat names to numbers.
        warnings: What is wrong, and what to do.
    """

    metrics: dict[str, float]
    warnings: list[str]


def probe(trained: Trained, *, count: int = 512, batch: int = 64) -> Probe:
    """Look at the two ends of the noise, the warp and the embeddings; unconditional, averaged weights.

    Args:
        trained: A diffusion model with its text.
        count: Held-out sequences, as far as there are so many.
        batch: Sequences at once.

    Raises:
        ValueError: If the model is a baseline, which has no noise levels, or no sequence is wanted.
    """
    model = trained.model
    if not isinstance(model, CDCD | SimplexModel):
        raise ValueError(f"method {trained.config.method!r} has no noise levels to probe; give a run of diffusion")
    if count < 1 or batch < 1:
        raise ValueError(f"count={count} and batch={batch} must be positive")
    held_out = trained.held_out()
    tokens_NL = torch.stack([held_out[i]["tokens"] for i in range(min(count, len(held_out)))])
    blind = _unconditional(trained)
    low, high = (_cross_entropy(blind, tokens_NL, t, batch=batch) for t in (model.warp.t_min, model.warp.t_max))
    entropy = pooled_entropy(tokens_NL.numpy())
    metrics = {
        "noise/t_min": model.warp.t_min,
        "noise/t_max": model.warp.t_max,
        "noise/cross_entropy_t_min": low,
        "noise/cross_entropy_t_max": high,
        "noise/unigram_entropy": entropy,
        "noise/sequences": float(len(tokens_NL)),
    }
    u_N = torch.linspace(0.0, 1.0, _QUANTILES, dtype=torch.float64, device=trained.device)
    for u, t in zip(u_N.tolist(), model.warp.times(u_N).tolist(), strict=True):
        metrics[f"warp/t(u={u:.3f})"] = t
    if isinstance(model, CDCD):
        metrics |= EmbeddingMonitor(["embedding"])(model.average, None, 0)
    return Probe(metrics, _warnings(low, high, entropy, simplex=isinstance(model, SimplexModel)))


def _warnings(low: float, high: float, entropy: float, *, simplex: bool) -> list[str]:
    option, found = "--simplex" if simplex else "--warp", []
    if low > RECONSTRUCTION_LIMIT:
        found.append(
            f"cross-entropy at t_min is {low:.3f} nats, above {RECONSTRUCTION_LIMIT}: tokens are still ambiguous where "
            f"sampling ends. Train longer, or lower {option}.t-min"
        )
    if high < FORGOTTEN_SHARE * entropy:
        found.append(
            f"cross-entropy at t_max is {high:.3f} nats, below {FORGOTTEN_SHARE} of the unigram entropy {entropy:.3f}: "
            f"text shows through where sampling begins. Raise {option}.t-max"
        )
    return found


def _unconditional(trained: Trained) -> CDCD | SimplexModel:
    """The same model with masks that give nothing, whatever it trained on."""
    model = build(replace(trained.config, mask="none"), trained.data.tokenizer.vocab_size)
    assert isinstance(model, CDCD | SimplexModel)
    model.load_state_dict(trained.model.state_dict())
    return model.to(trained.device).eval()


def _cross_entropy(model: CDCD | SimplexModel, tokens_NL: Tensor, t: float, *, batch: int) -> float:
    """Mean over sequences at one noise level."""
    device = next(model.parameters()).device
    keys_N, total = sample_keys(0, 0, torch.arange(len(tokens_NL))), 0.0
    for start in range(0, len(tokens_NL), batch):
        tokens_BL = tokens_NL[start : start + batch].to(device)
        keys_B = keys_N[start : start + batch].to(device)
        t_B = torch.full((len(tokens_BL),), t, device=device)
        total += float(model.cross_entropy(tokens_BL, keys_B=keys_B, t_B=t_B).double().sum())
    return total / len(tokens_NL)


def export(trained: Trained, run: Run, out: str | Path) -> Path:
    """Averaged weights, tokenizer and card in a folder of Hugging Face's shape.

    ``load_cdcd``, ``load_simplex`` or ``from_pretrained`` of :mod:`byol_ext.diffusion` read it back, and
    ``load_language_tokenizer`` the tokenizer.

    Args:
        trained: The model with its text.
        run: Its run, for the card.
        out: Made if need be; files of the same name are replaced.
    """
    model, out = trained.model, Path(out)
    if isinstance(model, CDCD):
        save_cdcd(model, out)
    elif isinstance(model, SimplexModel):
        save_simplex(model, out)
    else:
        assert isinstance(model, Averaged)
        save_pretrained(model.average, out)
    trained.data.tokenizer.save(out)
    if (run.path / "README.md").is_file():
        shutil.copy(run.path / "README.md", out / "README.md")
    return out


def probe_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd probe --run DIR``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext cdcd probe",
        description="Cross-entropy of a diffusion model at both ends of its noise, quantiles of its warp and health of "
        "its embeddings, with warnings where the noise range is wrong.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--count", type=int, default=512, help="held-out sequences (default: 512)")
    parser.add_argument("--batch", type=int, default=64, help="sequences at once (default: 64)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(list(args))
    found = probe(load_run(chosen.run)[0], count=chosen.count, batch=chosen.batch)
    if chosen.json:
        print(json.dumps({"metrics": found.metrics, "warnings": found.warnings}, indent=1))
        return 0
    for name, value in found.metrics.items():
        print(f"{name:30} {value:.4g}")
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def export_command(args: Sequence[str]) -> int:
    """``byol-ext cdcd export --run DIR --hf OUT``."""
    parser = argparse.ArgumentParser(
        prog="byol-ext cdcd export",
        description="Write a run's averaged weights, tokenizer and card into a folder of Hugging Face's shape.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--hf", type=Path, required=True, help="folder to write")
    chosen = parser.parse_args(list(args))
    trained, run = load_run(chosen.run)
    print(f"exported: {export(trained, run, chosen.hf)}")
    return 0
