"""Any Hugging Face audio encoder by name or folder, with what it really takes: waveforms or its own features.

Legend: ``B`` batch, ``S`` samples, ``T`` frames, ``F`` feature bins, ``D`` width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from byol_ext.audio.htsat import HTSAT, htsat_pretrained
from byol_ext.audio.transforms import LogMel
from byol_ext.heads import WindowBatchNorm2d, WindowMode

if TYPE_CHECKING:  # transformers' model code takes seconds to import: it is loaded where a model is made
    from transformers import PretrainedConfig

# model_type of transformers -> what forward takes
WAVEFORM_MODELS = frozenset(
    {
        "data2vec-audio",
        "hubert",
        "sew",
        "sew-d",
        "unispeech",
        "unispeech-sat",
        "wav2vec2",
        "wav2vec2-conformer",
        "wavlm",
    }
)
FEATURE_MODELS = frozenset({"audio-spectrogram-transformer", "clap", "clap_audio_model", "wav2vec2-bert", "whisper"})


class HFAudio(nn.Module):
    """A Hugging Face audio model as an encoder; made by :func:`hf_audio`.

    Attributes:
        width: Width of ``y``.
        sample_rate: Hz of the waveforms it wants.
        input: What ``forward`` takes. ``"waveform"``: raw mono ``[B, S]``, standardised inside if the checkpoint
            wants that. ``"features"``: what :meth:`prepare` makes of waveforms.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        width: int,
        sample_rate: int,
        input: Literal["waveform", "features"],  # noqa: A002 (it names the attribute)
        extractor: Any,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.width, self.sample_rate, self.input = width, sample_rate, input
        self.extractor = extractor
        self.standardise = standardise

    @property
    def input_norm(self) -> WindowBatchNorm2d | None:
        """CLAP's norm over mel bins, the only layer here that couples samples; None for the other models."""
        return self.model.input_norm if isinstance(self.model, HTSAT) else None

    def norm_input(self, x: Tensor) -> Tensor:
        """What :attr:`input_norm` sees of an input of ``forward``.

        Raises:
            TypeError: If the model has no input norm.
        """
        if not isinstance(self.model, HTSAT):
            raise TypeError(f"{type(self.model).__name__} has no input norm over mel bins; only CLAP does")
        return self.model.norm_input(x)

    def prepare(self, wave_BS: Tensor) -> Tensor:
        """Turn waveforms into what ``forward`` takes.

        For waveform models this is the identity; for CLAP :class:`~byol_ext.audio.transforms.LogMel` on the device;
        for the others the checkpoint's feature extractor, clip by clip on the CPU: call it in loader workers.

        Args:
            wave_BS: Mono waveforms ``[B, S]`` at ``sample_rate``.

        Returns:
            ``[B, S]`` for waveform models; ``[B, 1, T, 64]`` for CLAP; the extractor's shape for the others (AST
            ``[B, 1024, 128]``, Whisper ``[B, 80 or 128, 3000]``: padded or cut to its fixed length).

        Raises:
            ValueError: If the waveforms are not ``[B, S]``.
        """
        if wave_BS.dim() != 2:
            raise ValueError(f"waveforms have shape {tuple(wave_BS.shape)}; expected mono [B, S]")
        if self.input == "waveform":
            return wave_BS
        if isinstance(self.extractor, LogMel):
            mel: Tensor = self.extractor(wave_BS)
            return mel
        clips = list(wave_BS.detach().cpu().float().numpy())
        batch = self.extractor(clips, sampling_rate=self.sample_rate, return_tensors="pt")
        features: Tensor = batch[self.extractor.model_input_names[0]]
        return features.to(wave_BS.device)

    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch of clips of equal length (no padding mask).

        Args:
            x: ``[B, S]`` waveforms if ``input == "waveform"``, else the output of :meth:`prepare`.

        Returns:
            ``[B, width]``: the model's pooled output for AST and CLAP, else the mean over all time steps (for Whisper
            of all 30 s, padding included).

        Raises:
            ValueError: If a waveform model gets features, or the reverse.
        """
        if (x.dim() == 2) != (self.input == "waveform"):
            hint = "raw waveforms [B, S]" if self.input == "waveform" else "features: call prepare(waveforms) first"
            raise ValueError(f"input has shape {tuple(x.shape)}; this model takes {hint}")
        if self.standardise:
            variance, mean = torch.var_mean(x.float(), dim=1, correction=0, keepdim=True)
            x = (x.float() - mean) * torch.rsqrt(variance + 1e-7)
        out = self.model(x)
        if isinstance(out, Tensor):
            return out
        pooled = out.get("pooler_output")
        y: Tensor = pooled if pooled is not None else out.last_hidden_state.mean(dim=1)
        return y


def hf_audio(
    name_or_path: str | Path,
    *,
    pretrained: bool = True,
    norm_mode: WindowMode = "batch",
    local_files_only: bool = False,
) -> HFAudio:
    """Load an audio encoder by Hub name or local folder (weights, configuration and preprocessor).

    The model's own SpecAugment is switched off, and so is LayerDrop: both draw from unkeyed generators, and LayerDrop
    skips layers for the whole batch.

    Args:
        name_or_path: Such as ``"facebook/hubert-base-ls960"``, ``"MIT/ast-finetuned-audioset-10-10-0.4593"``.
        pretrained: False: the architecture with new random weights (a control).
        norm_mode: Statistics of CLAP's input norm, see :class:`~byol_ext.audio.htsat.HTSAT`; the others have none.
        local_files_only: Never ask the Hub.

    Raises:
        OSError: If the checkpoint or its preprocessor is not found.
        ValueError: If it is not a supported audio model; the message lists them.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    config = AutoConfig.from_pretrained(name_or_path, local_files_only=local_files_only)
    kind = config.model_type
    if kind not in WAVEFORM_MODELS | FEATURE_MODELS:
        raise ValueError(
            f"{name_or_path} is a {kind!r} model. Supported with waveforms: {', '.join(sorted(WAVEFORM_MODELS))}; "
            f"with features: {', '.join(sorted(FEATURE_MODELS))}"
        )
    if kind in ("clap", "clap_audio_model"):
        return _clap(name_or_path, pretrained=pretrained, norm_mode=norm_mode, local_files_only=local_files_only)
    extractor = AutoFeatureExtractor.from_pretrained(name_or_path, local_files_only=local_files_only)
    _without_unkeyed_noise(config)
    if pretrained:
        model = AutoModel.from_pretrained(name_or_path, config=config, local_files_only=local_files_only)
    else:
        model = AutoModel.from_config(config)
    if hasattr(model, "masked_spec_embed"):  # some models keep it although nothing is masked
        model.masked_spec_embed.requires_grad_(False)
    waveform = kind in WAVEFORM_MODELS
    return HFAudio(
        model.get_encoder() if kind == "whisper" else model,
        width=config.hidden_size,
        sample_rate=extractor.sampling_rate,
        input="waveform" if waveform else "features",
        extractor=extractor,
        standardise=waveform and bool(extractor.do_normalize),
    ).train()


def _without_unkeyed_noise(config: PretrainedConfig) -> None:
    """Switch off LayerDrop and the model's SpecAugment (and with it an embedding that would get no gradient)."""
    for name in ("layerdrop", "encoder_layerdrop", "mask_time_prob", "mask_feature_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if hasattr(config, "apply_spec_augment"):
        config.apply_spec_augment = False


def _clap(name_or_path: str | Path, *, pretrained: bool, norm_mode: WindowMode, local_files_only: bool) -> HFAudio:
    """CLAP's tower behind its own mel front-end, which runs on the device."""
    encoder, _, mel = htsat_pretrained(name_or_path, norm_mode=norm_mode, local_files_only=local_files_only)
    if not pretrained:
        encoder = HTSAT(encoder.config, norm_mode=norm_mode)
    return HFAudio(encoder, width=encoder.width, sample_rate=mel.sample_rate, input="features", extractor=LogMel(mel))
