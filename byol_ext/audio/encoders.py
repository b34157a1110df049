"""Audio encoders: a small one for CPUs (here), HTS-AT (``htsat.py``) and any Hugging Face audio model (``hf.py``).

Each is an ``nn.Module`` with ``width`` and ``forward(x) -> y [B, width]``; HTS-AT and the small one take spectrograms
``[B, 1, T, F]`` of :class:`byol_ext.audio.transforms.LogMel`.

Legend: ``B`` batch, ``T`` frames, ``F`` mel bins, ``C`` channels, ``N`` tokens, ``D`` width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from byol_ext.audio.hf import HFAudio, hf_audio
from byol_ext.audio.htsat import HTSAT, PretrainedHTSAT, htsat, htsat_pretrained
from byol_ext.heads import WindowBatchNorm2d, WindowMode

__all__ = [
    "HTSAT",
    "HFAudio",
    "PretrainedHTSAT",
    "SmallAudioEncoder",
    "hf_audio",
    "htsat",
    "htsat_pretrained",
]

Norm = Literal["layer", "gn_ws", "batch"]


class WSConv2d(nn.Conv2d):
    """Convolution whose weights are standardised per output channel (mean 0, variance 1 / fan-in), with a gain."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int | tuple[int, int]) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """``[B, C, H, W] -> [B, C', H', W']``."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.weight[0].numel() + 1e-6)
        return F.conv2d(input, weight * self.gain, self.bias, self.stride, self.padding)


def _conv_block(inputs: int, outputs: int, kernel: int, *, stride: int | tuple[int, int], norm: Norm) -> nn.Sequential:
    conv: nn.Module
    layer: nn.Module
    if norm == "gn_ws":
        conv, layer = WSConv2d(inputs, outputs, kernel, stride=stride), nn.GroupNorm(math.gcd(8, outputs), outputs)
    else:
        conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=norm != "batch")
        layer = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(1, outputs)
    return nn.Sequential(conv, layer, nn.GELU())


class SmallAudioEncoder(nn.Module):
    """A small convolutional transformer for CPUs: 0.56 M parameters at width 128, about 1 ms a second of audio.

    Three convolutions reduce time by 8 and frequency by 16, each time step becomes a token, pre-norm transformer
    layers mix the tokens, and their mean is the representation. Clips of any length go.

    Args:
        width: Width of ``y`` and of the tokens, a multiple of 4 and of ``heads``.
        depth: Transformer layers.
        heads: Attention heads.
        n_mels: Mel bins of the input, a multiple of 16.
        norm: Of the convolutions. ``"layer"`` and ``"gn_ws"`` (group norm and weight standardisation) never mix
            samples, ``"batch"`` does.
        input_norm: Of the spectrogram. ``"clip"`` standardises each clip as a whole: it never mixes samples, but the
            absolute level is lost. ``"bins"`` keeps the level: a :class:`~byol_ext.heads.WindowBatchNorm2d` over mel
            bins, as in HTS-AT. None: ``"bins"`` with ``norm="batch"``, else ``"clip"``.
        norm_mode: Statistics of the input norm ``"bins"``.

    Raises:
        ValueError: For sizes that do not divide, or an unknown norm.

    Example:
        >>> encoder = SmallAudioEncoder(width=64)
        >>> encoder(torch.randn(2, 1, 101, 64)).shape, encoder.width
        (torch.Size([2, 64]), 64)
    """

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        n_mels: int = 64,
        norm: Norm = "layer",
        input_norm: Literal["clip", "bins"] | None = None,
        norm_mode: WindowMode = "batch",
    ) -> None:
        super().__init__()
        if width % 4 or width % heads or n_mels % 16:
            raise ValueError(
                f"need width % 4 == width % heads == 0 and n_mels % 16 == 0, got {width}, {heads}, {n_mels}"
            )
        if norm not in ("layer", "gn_ws", "batch"):
            raise ValueError(f"norm={norm!r}: expected 'layer', 'gn_ws' or 'batch'")
        if input_norm not in ("clip", "bins", None):
            raise ValueError(f"input_norm={input_norm!r}: expected 'clip', 'bins' or None")
        self.width, self.n_mels = width, n_mels
        bins = input_norm == "bins" or (input_norm is None and norm == "batch")
        self.input_norm = WindowBatchNorm2d(n_mels, mode=norm_mode) if bins else None
        channels = width // 4
        self.convs = nn.Sequential(
            _conv_block(1, channels, 7, stride=4, norm=norm),
            _conv_block(channels, 2 * channels, 3, stride=2, norm=norm),
            _conv_block(2 * channels, width, 3, stride=(1, 2), norm=norm),
        )
        self.to_tokens = nn.Linear(width * n_mels // 16, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                heads,
                dim_feedforward=4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        )
        self.out_norm = nn.LayerNorm(width)

    def norm_input(self, mel_B1TF: Tensor) -> Tensor:
        """What :attr:`input_norm` sees, ``[B, F, T, 1]``; no parameter is involved."""
        return rearrange(mel_B1TF, "b 1 t f -> b f t 1")

    def forward(self, mel: Tensor) -> Tensor:
        """Encode spectrograms.

        Args:
            mel: ``[B, 1, T, F]``.

        Returns:
            Representations ``[B, width]``.

        Raises:
            ValueError: For another shape.
        """
        if mel.dim() != 4 or mel.shape[1] != 1 or mel.shape[3] != self.n_mels or mel.shape[2] < 1:
            raise ValueError(f"spectrograms have shape {tuple(mel.shape)}; expected [B, 1, T, {self.n_mels}]")
        if self.input_norm is not None:
            normed = rearrange(self.input_norm(self.norm_input(mel)), "b f t 1 -> b 1 t f")
        else:
            normed = F.layer_norm(mel.float(), mel.shape[1:])
        token_BND = self.to_tokens(rearrange(self.convs(normed), "b c t f -> b t (c f)"))
        token_BND = token_BND + _positions(token_BND.shape[1], self.width).to(token_BND)
        for layer in self.layers:
            token_BND = layer(token_BND)
        y: Tensor = self.out_norm(token_BND).mean(dim=1)
        return y


def _positions(length: int, width: int) -> Tensor:
    """Sinusoidal positions ``[N, D]`` (arXiv 1706.03762, section 3.5), for any length."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle_NR = torch.arange(length)[:, None] * rate
    return torch.cat([angle_NR.sin(), angle_NR.cos()], dim=1)
