"""What is measured of a text model beside its samples: likelihood, infilling, the warp's health, the cost of sampling.

All models are measured on the same held-out sequences, masks and noise seeds (spec cdcd 10.5, 10.7, 10.9, 10.10).

Legend: ``N`` sequences, ``L`` positions, ``M`` hidden tokens, ``B`` sequences of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.warp_fit import FittedWarp, Shape, linear_shape, warp_health
from byol_ext.metrics.bootstrap import bootstrap_interval
from byol_ext.metrics.ngram_model import NGramInfiller
from byol_ext.rng import sample_keys
from byol_ext.text.language_data import PackedSequences, TokenStream
from recipes.cdcd_config import SampleConfig
from recipes.cdcd_figures import WarpView
from recipes.cdcd_generate import TextModel, draw_sequences
from recipes.cdcd_page import BitsRow, CostRow, InfillRow

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
RESAMPLES = 1000
"""Of every bootstrap interval here (95 %)."""
HEALTH_BINS = 20
"""Bins of ``u`` (spec 10.9)."""
_HEALTH_RESAMPLES = 200
_LEAST_LOG_P = -100.0  # a float32 softmax may underflow to 0, whose logarithm would be the whole mean


def with_interval(
    name: str, values_N: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, seed: int = 0
) -> dict[str, float]:
    """A mean and the ends of its 95 % bootstrap interval, ``name``, ``name_low``, ``name_high``; nan if not finite.

    Args:
        name: Of the mean.
        values_N: One value an item.
        groups: Items of one group are drawn together.
        seed: Of the resampling.

    Example:
        >>> with_interval("x", [1.0, 1.0])
        {'x': 1.0, 'x_low': 1.0, 'x_high': 1.0}
    """
    names = (name, f"{name}_low", f"{name}_high")
    if not np.isfinite(values_N).all():
        return dict.fromkeys(names, float("nan"))
    interval = bootstrap_interval(values_N, groups=groups, resamples=RESAMPLES, seed=seed)
    return dict(zip(names, (interval.value, interval.low, interval.high), strict=True))


def likelihood(
    model: TextModel,
    ids_NL: Ids,
    *,
    stream: TokenStream,
    passes: Sequence[int],
    draws: int,
    batch: int,
    seed: int,
) -> tuple[dict[str, float], list[BitsRow]]:
    """Bits a character of held-out sequences: exact, or an upper bound for each number of self-conditioning passes.

    A bound of a model trained by cross-entropy is loose: two bounds of different kinds of models do not say which is
    the better model. Each number of passes is another model; the headline is the last one, named beforehand.

    Args:
        model: The model.
        ids_NL: Held-out sequences.
        stream: Where they are from: characters a token.
        passes: Extra passes at the same noise, ``k``.
        draws: Noise levels of each sequence.
        batch: Sequences at once.
        seed: Of the noise, the same for every ``k``.

    Returns:
        ``bits_per_char_bound`` with ``_low``, ``_high``, ``_se``, ``nats_per_token_bound`` and one
        ``bits_per_char_bound_k<k>`` each; if it is exact also ``bits_per_char``. And the rows of the page.
    """
    metrics: dict[str, float] = {}
    rows: list[BitsRow] = []
    bits = stream.bits_per_character(1.0)
    for k in (0,) if model.exact else passes:
        nats_N = _nats(model, ids_NL, None, draws=draws, passes=k, batch=batch, seed=seed) / ids_NL.shape[1]
        se = float(nats_N.std(ddof=1) / np.sqrt(len(nats_N))) if len(nats_N) > 1 else float("nan")
        name = "exact" if model.exact else f"bound, k = {k}"
        rows.append(BitsRow(name, float(nats_N.mean()) * bits, se * bits, float(nats_N.mean()), exact=model.exact))
        metrics |= with_interval("bits_per_char_bound", nats_N * bits, seed=seed)
        metrics |= {"bits_per_char_bound_se": se * bits, "nats_per_token_bound": float(nats_N.mean())}
        metrics[f"bits_per_char_bound_k{k}"] = metrics["bits_per_char_bound"]
    if model.exact:
        del metrics["bits_per_char_bound_k0"]
        metrics["bits_per_char"] = metrics["bits_per_char_bound"]
    return metrics, rows


def hidden_tokens(count: int, length: int, *, given: float, seed: int) -> npt.NDArray[np.bool_]:
    """Where tokens are to be infilled, ``[count, length]``: the same number at random places of every row, at least 1.

    Args:
        count: Sequences.
        length: Positions.
        given: Share of tokens that stay.
        seed: Of the places.

    Raises:
        ValueError: If the share lies outside [0, 1).
    """
    if not 0.0 <= given < 1.0:
        raise ValueError(f"given={given} must lie in [0, 1)")
    hidden = max(length - round(given * length), 1)
    rank_NL = np.random.default_rng(seed).random((count, length)).argsort(axis=1).argsort(axis=1)
    return np.asarray(rank_NL < hidden)


def infilling(
    model: TextModel,
    infiller: NGramInfiller,
    ids_NL: Ids,
    *,
    given: Sequence[float],
    passes: int,
    draws: int,
    batch: int,
    seed: int,
) -> tuple[dict[str, float], list[InfillRow]]:
    """How well hidden tokens are found, beside the n-gram model that reads both sides of a gap.

    Exact match and cross-entropy are those of each token's own law given the given tokens, from one evaluation, as the
    floor's are. An autoregressive model also sees the true content of earlier gaps, and nothing to the right: its
    figures are not comparable. ``bound`` is of all hidden tokens together, in nats a token, and comparable.

    Args:
        model: The model.
        infiller: The floor.
        ids_NL: Held-out sequences.
        given: Shares of tokens that stay.
        passes: Passes of self-conditioning in the bound.
        draws: Noise levels of each sequence in the bound.
        batch: Sequences at once.
        seed: Of masks and noise.

    Returns:
        ``infill/<percent>/`` with ``exact_match``, ``cross_entropy``, ``bound`` (intervals over sequences) and the
        floor's ``exact_match_floor``, ``cross_entropy_floor``; and the rows of the page.
    """
    metrics: dict[str, float] = {}
    rows: list[InfillRow] = []
    for place, share in enumerate(given):
        hidden_NL = hidden_tokens(*ids_NL.shape, given=share, seed=seed + place)
        log_p_M, found_M = _marginal_scores(model, ids_NL, hidden_NL, batch=batch, seed=seed)
        floor_M, floor_found_M = infiller.score(ids_NL, hidden_NL)
        row_M = np.nonzero(hidden_NL)[0]
        nats_N = _nats(model, ids_NL, hidden_NL, draws=draws, passes=passes, batch=batch, seed=seed)
        scores = with_interval("exact_match", found_M, groups=row_M, seed=seed)
        scores |= with_interval("cross_entropy", -log_p_M, groups=row_M, seed=seed)
        scores |= with_interval("bound", nats_N / hidden_NL.sum(axis=1), seed=seed)
        scores |= {"exact_match_floor": float(floor_found_M.mean()), "cross_entropy_floor": float(-floor_M.mean())}
        rows.append(InfillRow(share, scores, count=int(hidden_NL.sum())))
        metrics |= {f"infill/{round(100 * share)}/{name}": value for name, value in scores.items()}
    return metrics, rows


def warp_view(
    model: CDCD | SimplexModel, ids_ML: Ids, *, count: int, batch: int, seed: int
) -> tuple[dict[str, float], WarpView]:
    """Whether the held-out cross-entropy rises along ``u`` as the warp was fitted to let it.

    As in training, every other sequence is shown a first prediction. Each sequence has one ``u``; they are stratified.

    Args:
        model: The trained model.
        ids_ML: Held-out sequences; taken again with other masks and noise if there are too few.
        count: Sequences, at least one for each of 20 bins of ``u``.
        batch: Sequences at once.
        seed: Of masks and noise.

    Returns:
        ``warp/deviation`` (``max |CE - H S(u)| / H`` over bins, spec 10.9) with its interval; ``warp/deviation_noise``,
        what a perfect warp would show on so few sequences; ``warp/plateau`` (``H``). And the page's view.
    """
    u_N = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    ce_N = _cross_entropies(model, ids_ML, u_N, batch=batch, seed=seed)
    shape = model.warp.shape if isinstance(model.warp, FittedWarp) else linear_shape
    bin_N = (u_N * HEALTH_BINS).long()
    count_B = torch.bincount(bin_N, minlength=HEALTH_BINS)

    def mean_B(values_N: Tensor) -> Tensor:
        return torch.bincount(bin_N, weights=values_N, minlength=HEALTH_BINS) / count_B

    deviation = warp_health(u_B=u_N, cross_entropy_B=ce_N, bins=HEALTH_BINS, shape=shape)
    ce_B, wanted_B = mean_B(ce_N), mean_B(shape(u_N).double())
    plateau = float((ce_B * wanted_B).sum() / wanted_B.square().sum())
    residual_N = ce_N - ce_B[bin_N]
    seen, noise = _resampled_health(u_N, bin_N, ce_N, residual_N + plateau * shape(u_N), shape=shape, seed=seed)
    low, high = np.quantile(seen, [0.025, 0.975])
    metrics = {
        "warp/deviation": deviation,
        "warp/deviation_low": float(low),
        "warp/deviation_high": float(high),
        "warp/deviation_noise": float(noise.mean()),
        "warp/plateau": plateau,
    }
    t_G = _grid(model)
    view = WarpView(
        t_G=t_G.numpy(),
        cdf_G=model.warp.quantiles(t_G.to(_device(model))).cpu().numpy(),
        u_B=((torch.arange(HEALTH_BINS) + 0.5) / HEALTH_BINS).numpy(),
        ce_B=ce_B.numpy(),
        plateau=plateau,
        deviation=deviation,
        ce_se_B=(mean_B(residual_N.square()) / (count_B - 1).clamp(min=1)).sqrt().numpy(),
        shape_B=None if shape is linear_shape else wanted_B.numpy(),
        note=f"{count} held-out sequences; noise alone would show {noise.mean():.3f}",
    )
    return metrics, view


def cost(
    model: TextModel, held_out: PackedSequences, *, how: SampleConfig, batches: Sequence[int], seed: int
) -> tuple[dict[str, float], list[CostRow]]:
    """Network evaluations of a sequence, and seconds for 1000 drawn tokens on this machine.

    Args:
        model: The model.
        held_out: Where prompts come from.
        how: How to sample.
        batches: Sequences at a time (spec 10.10: 1 and 32).
        seed: Of the draws.

    Returns:
        ``cost/evaluations`` and ``cost/batch<b>/seconds_per_1k_tokens``; and the rows of the page.
    """
    metrics: dict[str, float] = {}
    rows: list[CostRow] = []
    for batch in batches:
        timed = replace(how, count=batch, batch=batch)
        draw_sequences(model, held_out, how=replace(timed, steps=min(2, how.steps)), seed=seed)  # warms up
        drawn = draw_sequences(model, held_out, how=timed, seed=seed)
        seconds = 1000.0 * drawn.seconds / int(drawn.noised_NL.sum())
        rows.append(CostRow(batch, how.steps, drawn.evaluations, seconds))
        metrics[f"cost/batch{batch}/seconds_per_1k_tokens"] = seconds
        metrics["cost/evaluations"] = float(drawn.evaluations)
    return metrics, rows


def _nats(
    model: TextModel,
    ids_NL: Ids,
    hidden_NL: npt.NDArray[np.bool_] | None,
    *,
    draws: int,
    passes: int,
    batch: int,
    seed: int,
) -> Array:
    """Nats of each sequence's hidden tokens, all of them by default."""
    generator = torch.Generator(model.device).manual_seed(seed)
    parts: list[Tensor] = []
    for rows in _slices(len(ids_NL), batch):
        tokens_BL = torch.from_numpy(ids_NL[rows]).to(model.device)
        noised_BL = None if hidden_NL is None else torch.from_numpy(hidden_NL[rows]).to(model.device)
        nats_B = model.nats(tokens_BL, noised_BL=noised_BL, draws=draws, passes=passes, generator=generator)
        parts.append(nats_B.double().cpu())
    return np.asarray(torch.cat(parts).numpy())


def _marginal_scores(
    model: TextModel, ids_NL: Ids, hidden_NL: npt.NDArray[np.bool_], *, batch: int, seed: int
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Log-probability of each hidden token, and whether it was the most likely one, ``[M]`` in row-major order."""
    generator = torch.Generator(model.device).manual_seed(seed)
    log_probs: list[Tensor] = []
    found: list[Tensor] = []
    for rows in _slices(len(ids_NL), batch):
        tokens_BL = torch.from_numpy(ids_NL[rows]).to(model.device)
        noised_BL = torch.from_numpy(hidden_NL[rows]).to(model.device)
        log_p_MV = model.marginals(tokens_BL, noised_BL, generator=generator)[noised_BL].double()
        truth_M = tokens_BL[noised_BL]
        log_probs.append(log_p_MV.gather(-1, truth_M[:, None])[:, 0].clamp(min=_LEAST_LOG_P).cpu())
        found.append((log_p_MV.argmax(-1) == truth_M).cpu())
    return np.asarray(torch.cat(log_probs).numpy()), np.asarray(torch.cat(found).numpy())


@torch.no_grad()
def _cross_entropies(model: CDCD | SimplexModel, ids_ML: Ids, u_N: Tensor, *, batch: int, seed: int) -> Tensor:
    """Cross-entropy ``[N]`` at each quantile, half of them with a first prediction."""
    device = _device(model)
    ce_N = torch.empty(len(u_N), dtype=torch.float64)
    for passes in (0, 1):
        own_N = torch.arange(passes, len(u_N), 2)
        for part in own_N.split(batch):
            keys_B = sample_keys(seed, part // len(ids_ML), part % len(ids_ML)).to(device)
            tokens_BL = torch.from_numpy(ids_ML[(part % len(ids_ML)).numpy()]).to(device)
            t_B = model.warp.times(u_N[part].to(device)).float()
            ce_N[part] = model.cross_entropy(tokens_BL, keys_B=keys_B, t_B=t_B, passes=passes).double().cpu()
    return ce_N


def _resampled_health(
    u_N: Tensor, bin_N: Tensor, ce_N: Tensor, straight_N: Tensor, *, shape: Shape, seed: int
) -> tuple[Array, Array]:
    """The deviation on sequences resampled within each bin: as measured, and as if the means were as wanted."""
    generator = torch.Generator().manual_seed(seed)
    count_B = torch.bincount(bin_N, minlength=HEALTH_BINS)
    first_N = (count_B.cumsum(0) - count_B)[bin_N]
    seen: list[float] = []
    noise: list[float] = []
    for _ in range(_HEALTH_RESAMPLES):
        drawn_N = first_N + (torch.rand(len(u_N), generator=generator, dtype=torch.float64) * count_B[bin_N]).long()
        for values_N, out in ((ce_N, seen), (straight_N, noise)):
            out.append(warp_health(u_B=u_N, cross_entropy_B=values_N[drawn_N], bins=HEALTH_BINS, shape=shape))
    return np.array(seen), np.array(noise)


def _grid(model: CDCD | SimplexModel) -> Tensor:
    """Noise levels to draw the warp at: even in quantiles and even in the logarithm."""
    t_min, t_max = model.warp.t_min, model.warp.t_max
    even = model.warp.times(torch.linspace(0.0, 1.0, 101, dtype=torch.float64, device=_device(model))).cpu()
    return torch.cat([even, torch.logspace(np.log10(t_min), np.log10(t_max), 101, dtype=torch.float64)]).sort().values


def _device(model: CDCD | SimplexModel) -> torch.device:
    return next(model.parameters()).device


def _slices(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))
