"""Functions on single waveforms, for loader workers: mono, resampling, filling, crops, windows over long audio.

Legend: ``S`` samples, ``C`` channels, ``W`` windows of one file, ``N`` windows of several files, ``D`` embedding
width, ``M`` files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from byol_ext import _extras

Wave = NDArray[np.float32]
Fill = Literal["repeatpad", "pad", "repeat"]
MIN_CLIP_SECONDS = 0.010  # shorter audio is rejected, never repeated up to a clip (slap §10)


def to_mono(wave: NDArray[np.floating], *, channel_axis: int = -1) -> Wave:
    """Average the channels; never flattens them into one long signal.

    Args:
        wave: ``[S]`` (returned as float32), or two-dimensional with channels on ``channel_axis``.
        channel_axis: ``-1`` for ``[S, C]`` (soundfile), ``0`` for ``[C, S]`` (torchaudio).

    Returns:
        ``[S]`` float32.

    Raises:
        TypeError: For integer samples.
        ValueError: For more than two axes, or more than 64 channels (the axes are swapped).
    """
    if not np.issubdtype(wave.dtype, np.floating):
        raise TypeError(f"samples are {wave.dtype}; expected floats in [-1, 1] (divide int16 by 32768)")
    if wave.ndim == 1:
        return wave.astype(np.float32, copy=False)
    if wave.ndim != 2 or not 1 <= wave.shape[channel_axis] <= 64:
        raise ValueError(f"shape {wave.shape} with channel_axis={channel_axis}; expected [S] or 2-D, 1-64 channels")
    return wave.mean(axis=channel_axis, dtype=np.float64).astype(np.float32)


def resample(wave_S: Wave, *, rate_in: int, rate_out: int) -> Wave:
    """Resample with soxr's high-quality windowed sinc; the peak is left alone.

    Args:
        wave_S: Mono waveform ``[S]``.
        rate_in: Hz of the file the samples came from (never guessed).
        rate_out: Hz wanted.

    Returns:
        ``[S * rate_out / rate_in]`` float32, rounded to whole samples.

    Raises:
        ImportError: If soxr is missing.
        ValueError: For a rate that is not a positive number.
    """
    if rate_in <= 0 or rate_out <= 0:
        raise ValueError(f"rates must be positive Hz, got rate_in={rate_in}, rate_out={rate_out}")
    if rate_in == rate_out:
        return wave_S
    soxr = _extras.require("soxr", extra="slap")
    resampled: Wave = soxr.resample(wave_S, rate_in, rate_out, quality="HQ").astype(np.float32, copy=False)
    return resampled


def fill_clip(wave_S: Wave, *, length: int, sample_rate: int, fill: Fill = "repeatpad") -> Wave:
    """Bring a short waveform to ``length`` samples.

    Args:
        wave_S: ``[S]`` with ``S <= length``.
        length: Samples wanted.
        sample_rate: Hz, for the 10 ms floor.
        fill: ``"repeatpad"`` (whole repeats, then zeros; LAION-CLAP's default), ``"pad"`` (zeros) or ``"repeat"``
            (repeats, cut at the end).

    Returns:
        ``[length]``.

    Raises:
        ValueError: Below 10 ms, above ``length``, or for an unknown policy.

    Example:
        >>> fill_clip(np.ones(400, np.float32), length=1000, sample_rate=16_000).sum()
        np.float32(800.0)
    """
    samples = wave_S.shape[0]
    floor = max(1, math.ceil(MIN_CLIP_SECONDS * sample_rate))
    if samples < floor:
        raise ValueError(f"audio of {samples} samples is below the floor of 10 ms ({floor} samples); drop it")
    if samples > length:
        raise ValueError(f"audio of {samples} samples is longer than the clip of {length}; crop it first")
    if fill == "repeat":
        return np.resize(wave_S, length)
    if fill not in ("repeatpad", "pad"):
        raise ValueError(f"fill={fill!r}: expected 'repeatpad', 'pad' or 'repeat'")
    repeats = length // samples if fill == "repeatpad" else 1
    return np.pad(np.tile(wave_S, repeats), (0, length - repeats * samples))


def fit_clip(
    wave_S: Wave,
    *,
    length: int,
    sample_rate: int,
    fill: Fill = "repeatpad",
    generator: np.random.Generator | None = None,
    at: Literal["center", "first"] = "center",
) -> Wave:
    """One clip of ``length`` samples: fill a short file, crop a long one.

    Args:
        wave_S: ``[S]``.
        length: Samples wanted.
        sample_rate: Hz.
        fill: Policy of :func:`fill_clip`.
        generator: Draws the crop (training): ``byol_ext.rng.sample_generator(seed, epoch, id)``. None: no chance.
        at: Where the crop lies without a generator.

    Returns:
        ``[length]``.
    """
    samples = wave_S.shape[0]
    if samples <= length:
        return fill_clip(wave_S, length=length, sample_rate=sample_rate, fill=fill)
    if generator is not None:
        start = int(generator.integers(0, samples - length + 1))
    else:
        start = Windows(at).starts(samples, length=length)[0]
    return wave_S[start : start + length]


@dataclass(frozen=True)
class Windows:
    """Where to listen in a long file (slap §10): fixed-length windows whose embeddings are pooled.

    A single window depends on its offset (users measured cosines of 0.95 for a shift of 1.2 s); windows that cover
    the file do not. A file that fits in one window has one window, at 0.

    Attributes:
        kind: ``"grid"`` (evenly spaced from the first sample to the last), ``"all"`` (every ``hop`` seconds, and one
            that ends with the file), ``"center"`` or ``"first"``.
        k: Windows of a grid; None: as few as cover the file.
        hop: Seconds between the windows of ``"all"``.

    Raises:
        ValueError: For options that do not belong to the kind.

    Example:
        >>> Windows("grid").starts(25, length=10), Windows("all", hop=0.4).starts(25, length=10, sample_rate=10)
        ([0, 8, 15], [0, 4, 8, 12, 15])
    """

    kind: Literal["grid", "all", "center", "first"] = "grid"
    k: int | None = None
    hop: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("grid", "all", "center", "first"):
            raise ValueError(f"kind={self.kind!r}: expected 'grid', 'all', 'center' or 'first'")
        if self.k is not None and (self.kind != "grid" or self.k < 1):
            raise ValueError(f"k={self.k} with kind={self.kind!r}: k >= 1 belongs to 'grid'")
        if (self.hop is not None) != (self.kind == "all") or (self.hop is not None and self.hop <= 0):
            raise ValueError(f"hop={self.hop} with kind={self.kind!r}: 'all', and only it, needs hop > 0 seconds")

    @classmethod
    def parse(cls, text: str) -> Windows:
        """Read ``"center"``, ``"first"``, ``"grid"``, ``"grid(4)"`` or ``"all(5)"`` (hop in seconds).

        Raises:
            ValueError: For anything else.

        Example:
            >>> Windows.parse("grid(4)")
            Windows(kind='grid', k=4, hop=None)
        """
        match text:
            case "center" | "first" | "grid":
                return cls(text)
        if match := re.fullmatch(r"grid\((\d+)\)", text):
            return cls("grid", k=int(match[1]))
        if match := re.fullmatch(r"all\((\d+(?:\.\d*)?|\.\d+)\)", text):
            return cls("all", hop=float(match[1]))
        raise ValueError(f"windows {text!r}: expected center, first, grid, grid(k) or all(hop in seconds)")

    def starts(self, samples: int, *, length: int, sample_rate: int | None = None) -> list[int]:
        """First samples of the windows of a file.

        Args:
            samples: Samples of the file.
            length: Samples of a window.
            sample_rate: Hz; needed by ``"all"``.

        Returns:
            Increasing starts; each window lies in the file unless the file is shorter than one window.

        Raises:
            ValueError: If ``"all"`` gets no sample rate.
        """
        last = samples - length
        if self.hop is not None and sample_rate is None:
            raise ValueError("windows 'all' have their hop in seconds: give sample_rate")
        if last <= 0 or self.kind == "first":
            return [0]
        if self.kind == "center" or self.k == 1:
            return [last // 2]
        if self.hop is not None and sample_rate is not None:
            step = max(1, round(self.hop * sample_rate))
            return sorted({*range(0, last + 1, step), last})
        count = self.k if self.k is not None else math.ceil(samples / length)
        return sorted({round(start) for start in np.linspace(0, last, count)})


def cut_windows(
    wave_S: Wave, *, windows: Windows, length: int, sample_rate: int, fill: Fill = "repeatpad"
) -> tuple[Wave, list[int]]:
    """Cut a file into the windows to embed.

    Args:
        wave_S: ``[S]``, any duration from 10 ms.
        windows: Where to listen.
        length: Samples of a window.
        sample_rate: Hz.
        fill: Policy of :func:`fill_clip` for a file shorter than a window.

    Returns:
        Windows ``[W, length]`` and their first samples.
    """
    starts = windows.starts(wave_S.shape[0], length=length, sample_rate=sample_rate)
    if wave_S.shape[0] <= length:
        return fill_clip(wave_S, length=length, sample_rate=sample_rate, fill=fill)[None], starts
    return np.stack([wave_S[start : start + length] for start in starts]), starts


def pool_windows(z_ND: Tensor, *, owner_N: Tensor | None = None) -> Tensor:
    """Mean of the L2-normalised window embeddings, normalised again, in float32 (slap §10).

    Args:
        z_ND: Embeddings ``[N, D]`` of the windows of one or of several files.
        owner_N: File of each window, int64 ``[N]`` from 0 without gaps; None: all belong to one file.

    Returns:
        ``[M, D]`` float32 unit vectors, one a file (``[D]`` without ``owner_N``).

    Raises:
        ValueError: If there is no window, or a file has none.

    Example:
        >>> pool_windows(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
        tensor([0.7071, 0.7071])
    """
    if z_ND.dim() != 2 or z_ND.shape[0] == 0:
        raise ValueError(f"embeddings have shape {tuple(z_ND.shape)}; expected [N, D] with N >= 1")
    unit_ND = F.normalize(z_ND.to(torch.float32), dim=1)
    if owner_N is None:
        return F.normalize(unit_ND.mean(dim=0), dim=0)
    counts_M = torch.bincount(owner_N)
    if owner_N.shape != unit_ND.shape[:1] or bool((counts_M == 0).any()):
        raise ValueError(f"owners of shape {tuple(owner_N.shape)} must give each file 0..M-1 at least one window")
    total_MD = unit_ND.new_zeros(counts_M.shape[0], unit_ND.shape[1]).index_add(0, owner_N, unit_ND)
    return F.normalize(total_MD / counts_M[:, None], dim=1)
