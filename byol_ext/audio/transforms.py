"""Transforms of audio: log-mel spectrograms and SpecAugment, batched on the training device.

The functions on single waveforms (mono, resampling, filling, crops, windows) are in ``waves.py`` and are offered
here too.

Legend: ``B`` batch, ``S`` samples of a clip, ``T`` frames, ``F`` mel bins, ``Q`` FFT bins, ``N`` random draws a sample.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from byol_ext._extras import require
from byol_ext.audio.waves import (
    Fill,
    Windows,
    cut_windows,
    fill_clip,
    fit_clip,
    pool_windows,
    resample,
    to_mono,
)
from byol_ext.rng import keyed_uniform

__all__ = [
    "Bank",
    "Fill",
    "LogMel",
    "MelConfig",
    "SpecAugment",
    "Windows",
    "cut_windows",
    "fill_clip",
    "fit_clip",
    "laion_mel",
    "pool_windows",
    "resample",
    "small_mel",
    "to_mono",
]

Bank = Literal["slaney", "htk"]


@dataclass(frozen=True)
class MelConfig:
    """A log-mel front-end: ``10 log10(max(amin, bank @ |STFT|^2))``, no ``top_db``, then ``(x - mean) / std``.

    The defaults are LAION-CLAP's (slap §2). Two mel banks circulate under that name: ``"slaney"`` (librosa's scale
    and area norm) belongs to the non-fused checkpoints, ``"htk"`` (no norm) to the fused ones; the wrong one shifts
    pretrained features silently.

    Attributes:
        sample_rate: Hz of the waveforms that go in.
        n_fft: FFT length, samples; frames are centred with reflect padding.
        win: Hann window length, samples, at most ``n_fft``.
        hop: Samples between frames.
        n_mels: Mel bins.
        fmin: Lowest frequency, Hz.
        fmax: Highest frequency, Hz, at most half of ``sample_rate``.
        bank: ``"slaney"`` or ``"htk"``.
        amin: Floor of the mel power: silence is ``10 log10(amin)`` = -100 dB.
        mean: Subtracted from the dB values, or None.
        std: Divides them, or None.
        precision: Arithmetic of STFT and bank; the result is float32 either way. In float32 the quiet bins beside a
            loud tone are wrong by up to 3 dB, in float64 the front-end equals Hugging Face's to 1e-5 dB. Choose
            ``"float32"`` for devices without float64.

    Raises:
        ValueError: For sizes that do not fit together, naming them.
    """

    sample_rate: int = 48_000
    n_fft: int = 1024
    win: int = 1024
    hop: int = 480
    n_mels: int = 64
    fmin: float = 50.0
    fmax: float = 14_000.0
    bank: Bank = "slaney"
    amin: float = 1e-10
    mean: float | None = None
    std: float | None = None
    precision: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        if self.bank not in ("slaney", "htk"):
            raise ValueError(f"bank={self.bank!r}: expected 'slaney' or 'htk'")
        if self.precision not in ("float64", "float32"):
            raise ValueError(f"precision={self.precision!r}: expected 'float64' or 'float32'")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"need 0 <= fmin < fmax <= sample_rate / 2, got {self.fmin}, {self.fmax}, {self.sample_rate}"
            )
        if not 0 < self.win <= self.n_fft or self.hop < 1 or self.amin <= 0:
            raise ValueError(f"need 0 < win <= n_fft, hop >= 1 and amin > 0, got {self}")
        if (self.mean is None) != (self.std is None) or (self.std is not None and self.std <= 0):
            raise ValueError(f"give mean and std together, std > 0; got mean={self.mean}, std={self.std}")

    def hash(self) -> str:
        """Sixteen hex digits that name this front-end; store them with features and weights, compare on load."""
        text = json.dumps({"front_end": "byol_ext.mel/1", **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def frames(self, samples: int) -> int:
        """Frames ``T`` of a clip of ``samples`` samples: 480000 at hop 480 give 1001."""
        return 1 + samples // self.hop


def laion_mel(bank: Bank = "slaney") -> MelConfig:
    """LAION-CLAP's front-end at 48 kHz; ``"slaney"`` for non-fused checkpoints, ``"htk"`` for fused ones."""
    return MelConfig(bank=bank)


def small_mel() -> MelConfig:
    """A 16 kHz front-end for CPUs: 100 frames a second, 64 bins from 50 Hz to 8 kHz, in float32."""
    return MelConfig(sample_rate=16_000, n_fft=512, win=512, hop=160, fmax=8_000.0, precision="float32")


class LogMel(nn.Module):
    """Waveforms ``[B, S]`` to log-mel spectrograms ``[B, 1, T, F]`` in dB, float32 even under autocast.

    The constants are not buffers: casting a model to another dtype leaves the front-end as its hash says.

    Args:
        config: The front-end.

    Example:
        >>> mel = LogMel(small_mel())
        >>> mel(torch.zeros(2, 16_000)).shape, float(mel(torch.zeros(1, 16_000)).max())
        (torch.Size([2, 1, 101, 64]), -100.0)
    """

    def __init__(self, config: MelConfig) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.config = config
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        bank_QF = mel_filter_bank(
            num_frequency_bins=config.n_fft // 2 + 1,
            num_mel_filters=config.n_mels,
            min_frequency=config.fmin,
            max_frequency=config.fmax,
            sampling_rate=config.sample_rate,
            norm="slaney" if config.bank == "slaney" else None,
            mel_scale=config.bank,
        )
        window = torch.hann_window(config.win, dtype=torch.float64).to(dtype)
        self._constants = {torch.device("cpu"): (window, torch.from_numpy(bank_QF).to(dtype))}

    def forward(self, wave_BS: Tensor) -> Tensor:
        """Compute the spectrograms.

        Args:
            wave_BS: Mono waveforms ``[B, S]`` at ``config.sample_rate``, floating point.

        Returns:
            ``[B, 1, T, F]`` float32, ``T = 1 + S // hop``.

        Raises:
            TypeError: For integer samples.
            ValueError: If not 2-D, or too short for the reflect padding.
        """
        config = self.config
        if not wave_BS.is_floating_point():
            raise TypeError(f"waveforms are {wave_BS.dtype}; expected floats in [-1, 1] (divide int16 by 32768)")
        if wave_BS.dim() != 2:
            raise ValueError(f"waveforms have shape {tuple(wave_BS.shape)}; expected mono [B, S], see to_mono")
        if wave_BS.shape[1] <= config.n_fft // 2:
            raise ValueError(
                f"clips of {wave_BS.shape[1]} samples are too short for n_fft={config.n_fft}; fill them (fill_clip)"
            )
        # A spectrum holds about 34 bytes a sample of input: pieces stay in cache on a CPU, near 1 GiB on a GPU.
        rows = max(1, (500_000 if wave_BS.device.type == "cpu" else 30_000_000) // wave_BS.shape[1])
        with torch.autocast(device_type=wave_BS.device.type, enabled=False):
            mel_BTF = torch.cat([self._log_mel(part) for part in wave_BS.split(rows)])
        return rearrange(mel_BTF, "b t f -> b 1 t f")

    def _log_mel(self, wave_BS: Tensor) -> Tensor:
        """``[B, S] -> [B, T, F]``, float32."""
        config = self.config
        window, bank_QF = self._constants_on(wave_BS.device)
        power_BQT = require("torchaudio", extra="slap").functional.spectrogram(
            wave_BS.to(window.dtype),
            pad=0,
            window=window,
            n_fft=config.n_fft,
            hop_length=config.hop,
            win_length=config.win,
            power=2.0,
            normalized=False,
            center=True,
            pad_mode="reflect",
        )
        mel_BTF = torch.einsum("bqt,qf->btf", power_BQT, bank_QF)
        decibel_BTF = 10.0 * mel_BTF.clamp_min(config.amin).log10()
        if config.mean is not None and config.std is not None:
            decibel_BTF = (decibel_BTF - config.mean) / config.std
        return decibel_BTF.to(torch.float32)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Window and bank on ``device``, copied there once."""
        if device not in self._constants:
            window, bank_QF = self._constants[torch.device("cpu")]
            self._constants[device] = (window.to(device), bank_QF.to(device))
        return self._constants[device]


class SpecAugment(nn.Module):
    """Hide stripes of time and of frequency, drawn per sample from its key; the identity in eval mode.

    Each stripe's width is uniform on ``0 .. max`` and its start uniform on the places where it fits. Results depend
    on the keys alone, not on how the batch is split.

    Args:
        time_stripes: Stripes over frames (2, slap §6).
        time_width: Most frames of one (64, slap §6).
        freq_stripes: Stripes over mel bins (2, slap §6).
        freq_width: Most bins of one (8, slap §6).
        fill: Value of hidden cells: ``"mean"`` (of that clip) or a number in the unit of the input.
        stream: Random stream of :func:`byol_ext.rng.keyed_uniform`.

    Example:
        >>> keys = torch.arange(2)
        >>> SpecAugment()(torch.randn(2, 1, 1001, 64), keys_B=keys).shape
        torch.Size([2, 1, 1001, 64])
    """

    def __init__(
        self,
        *,
        time_stripes: int = 2,
        time_width: int = 64,
        freq_stripes: int = 2,
        freq_width: int = 8,
        fill: Literal["mean"] | float = "mean",
        stream: int = 0x5A,
    ) -> None:
        super().__init__()
        if min(time_stripes, time_width, freq_stripes, freq_width) < 0:
            raise ValueError("stripe counts and widths must be >= 0")
        if isinstance(fill, str) and fill != "mean":
            raise ValueError(f"fill={fill!r}: expected 'mean' or a number")
        self.time_stripes, self.time_width = time_stripes, time_width
        self.freq_stripes, self.freq_width = freq_stripes, freq_width
        self.fill = fill
        self.stream = stream

    def forward(self, mel_B1TF: Tensor, *, keys_B: Tensor) -> Tensor:
        """Mask a batch.

        Args:
            mel_B1TF: Spectrograms ``[B, 1, T, F]``.
            keys_B: One key a sample, of :func:`byol_ext.rng.sample_keys`.

        Returns:
            ``[B, 1, T, F]``, a new tensor in train mode.

        Raises:
            ValueError: If the keys do not match the batch, or the stripes could hide a whole axis.
        """
        if not self.training:
            return mel_B1TF
        batch, _, frames, bins = mel_B1TF.shape
        if keys_B.shape != (batch,):
            raise ValueError(f"keys have shape {tuple(keys_B.shape)}; expected one key a sample, ({batch},)")
        draws = 2 * (self.time_stripes + self.freq_stripes)
        u_BN = keyed_uniform(keys_B.to(mel_B1TF.device), draws, stream=self.stream)
        u_time, u_freq = u_BN.split([2 * self.time_stripes, 2 * self.freq_stripes], dim=1)
        time_BT = _stripes(u_time, size=frames, width=self.time_width, axis="frames")
        freq_BF = _stripes(u_freq, size=bins, width=self.freq_width, axis="mel bins")
        hidden = rearrange(time_BT, "b t -> b 1 t 1") | rearrange(freq_BF, "b f -> b 1 1 f")
        if isinstance(self.fill, str):
            return torch.where(hidden, mel_B1TF.mean(dim=(1, 2, 3), keepdim=True), mel_B1TF)
        return mel_B1TF.masked_fill(hidden, self.fill)


def _stripes(u_BN: Tensor, *, size: int, width: int, axis: str) -> Tensor:
    """Bool mask ``[B, size]`` of stripes: the first half of ``u_BN`` draws widths, the second half starts."""
    count = u_BN.shape[1] // 2
    if count * width > size:
        raise ValueError(
            f"{count} stripes of up to {width} {axis} could hide all {size} {axis}; lower the stripe width"
        )
    u_width, u_start = u_BN[:, :count], u_BN[:, count:]
    width_BN = (u_width * (width + 1)).floor()
    start_BN = (u_start * (size - width_BN + 1)).floor()
    place = torch.arange(size, device=u_BN.device)
    inside = (place >= start_BN[..., None]) & (place < (start_BN + width_BN)[..., None])
    return inside.any(dim=1)
