"""The audio room: transforms (waveform to log-mel, clips, windows) and encoders.

Example:
    >>> import torch
    >>> mel, encoder = LogMel(small_mel()), SmallAudioEncoder(width=64)
    >>> encoder(mel(torch.randn(2, 16_000))).shape
    torch.Size([2, 64])
"""

from byol_ext.audio.encoders import (
    HTSAT,
    HFAudio,
    PretrainedHTSAT,
    SmallAudioEncoder,
    hf_audio,
    htsat,
    htsat_pretrained,
)
from byol_ext.audio.transforms import (
    LogMel,
    MelConfig,
    SpecAugment,
    Windows,
    cut_windows,
    fill_clip,
    fit_clip,
    laion_mel,
    pool_windows,
    resample,
    small_mel,
    to_mono,
)

__all__ = [
    "HTSAT",
    "HFAudio",
    "LogMel",
    "MelConfig",
    "PretrainedHTSAT",
    "SmallAudioEncoder",
    "SpecAugment",
    "Windows",
    "cut_windows",
    "fill_clip",
    "fit_clip",
    "hf_audio",
    "htsat",
    "htsat_pretrained",
    "laion_mel",
    "pool_windows",
    "resample",
    "small_mel",
    "to_mono",
]
