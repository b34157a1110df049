"""HTS-AT, LAION-CLAP's audio encoder, through transformers' ``ClapAudioModel``.

Legend: ``B`` batch, ``T`` frames, ``F`` mel bins.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from byol_ext.audio.transforms import MelConfig, laion_mel
from byol_ext.heads import WindowBatchNorm2d, WindowMode

if TYPE_CHECKING:  # transformers' model code takes seconds to import: it is loaded where a model is made
    from transformers import ClapAudioConfig, ClapAudioModel

Resize = Literal["bicubic", "pad"]


class HTSAT(nn.Module):
    """HTS-AT: a Swin transformer on a folded log-mel spectrogram, through transformers' ``ClapAudioModel``.

    Batch norm over mel bins -> time brought to ``spec_size * spec_size / n_mels`` frames (1024) -> folded to 256 x 256
    -> patches -> Swin stages -> layer norm -> mean over tokens. The input norm is a
    :class:`~byol_ext.heads.WindowBatchNorm2d`, the only layer that couples samples: set ``input_norm.mode``.

    Args:
        config: Sizes; :func:`htsat` has LAION's.
        resize: How clips of fewer frames reach 1024: ``"bicubic"`` (LAION, align_corners) or ``"pad"`` (SLAP: zeros
            after the norm).
        norm_mode: Statistics of the input norm: ``"batch"``, ``"window"`` or ``"frozen"``.

    Attributes:
        width: Width of ``y``.
        input_norm: The input norm; its input is :meth:`norm_input`.

    Raises:
        ValueError: For an unknown ``resize``, or a config whose ``hidden_size`` is not the last stage's.
    """

    def __init__(self, config: ClapAudioConfig, *, resize: Resize = "bicubic", norm_mode: WindowMode = "batch") -> None:
        from transformers import ClapAudioModel

        super().__init__()
        if resize not in ("bicubic", "pad"):
            raise ValueError(f"resize={resize!r}: expected 'bicubic' (LAION) or 'pad' (SLAP)")
        last_stage = config.patch_embeds_hidden_size * 2 ** (len(config.depths) - 1)
        if config.hidden_size != last_stage:
            raise ValueError(f"hidden_size={config.hidden_size}, but the last stage is {last_stage} wide")
        self.config = config
        self.resize = resize
        self.width = last_stage
        self.frames = config.spec_size * (config.spec_size // config.num_mel_bins)
        self.input_norm = WindowBatchNorm2d(config.num_mel_bins, mode=norm_mode)
        self.tower = self._own(ClapAudioModel(config))

    @staticmethod
    def _own(tower: ClapAudioModel) -> ClapAudioModel:
        """Take out the batch norm, which is ours, and freeze the fusion layers, which one window never reaches."""
        tower.audio_encoder.batch_norm = nn.Identity()
        patch_embed = tower.audio_encoder.patch_embed
        if patch_embed.enable_fusion:
            patch_embed.fusion_model.requires_grad_(False)
            patch_embed.mel_conv2d.requires_grad_(False)
        return tower

    @classmethod
    def from_tower(cls, tower: ClapAudioModel, *, resize: Resize = "bicubic", norm_mode: WindowMode = "batch") -> HTSAT:
        """Wrap an existing tower, taking over its modules and its input norm's statistics (it is changed in place)."""
        with torch.device("meta"):
            encoder = cls(tower.config, resize=resize, norm_mode=norm_mode)
        norm = WindowBatchNorm2d(tower.config.num_mel_bins, mode=norm_mode)
        norm.load_state_dict(tower.audio_encoder.batch_norm.state_dict())
        encoder.input_norm = norm.to(tower.device)
        encoder.tower = cls._own(tower)
        return encoder.train(tower.training)

    def norm_input(self, mel_B1TF: Tensor) -> Tensor:
        """What :attr:`input_norm` sees, ``[B, F, T, 1]``: mel bins are its channels. No parameter is involved."""
        return rearrange(mel_B1TF, "b 1 t f -> b f t 1")

    def forward(self, mel: Tensor) -> Tensor:
        """Encode spectrograms.

        Args:
            mel: ``[B, 1, T, F]`` in dB, ``T`` at most 1024.

        Returns:
            Representations ``[B, width]``.

        Raises:
            ValueError: For another shape or a longer clip.
        """
        bins = self.config.num_mel_bins
        if mel.dim() != 4 or mel.shape[1] != 1 or mel.shape[3] != bins or not 1 <= mel.shape[2] <= self.frames:
            raise ValueError(
                f"spectrograms have shape {tuple(mel.shape)}; HTS-AT takes [B, 1, T <= {self.frames}, {bins}]. "
                "Cut longer audio into windows (cut_windows) and pool their embeddings"
            )
        normed = rearrange(self.input_norm(self.norm_input(mel)), "b f t 1 -> b 1 t f")
        if self.resize == "pad":
            normed = F.pad(normed, (0, 0, 0, self.frames - normed.shape[2]))
        longer_B1 = normed.new_zeros(normed.shape[0], 1) if self.config.enable_fusion else None
        y: Tensor = self.tower(input_features=normed, is_longer=longer_B1).pooler_output
        return y

    def export_tower(self) -> ClapAudioModel:
        """A copy as a plain ``ClapAudioModel`` with its own batch norm, to save or compare; bicubic resize only."""
        tower = copy.deepcopy(self.tower)
        norm = nn.BatchNorm2d(self.config.num_mel_bins)
        norm.load_state_dict(self.input_norm.state_dict())
        tower.audio_encoder.batch_norm = norm.to(self.input_norm.weight.device).train(self.training)
        return tower


def htsat(
    size: Literal["base", "tiny"] = "base",
    *,
    resize: Resize = "bicubic",
    norm_mode: WindowMode = "batch",
    patch_size: int = 4,
    drop_path: float = 0.1,
    dropout: float = 0.0,
) -> HTSAT:
    """HTS-AT from scratch with LAION-CLAP's sizes (slap §2).

    Args:
        size: ``"base"``: 128 channels, depths 2, 2, 12, 2, width 1024. ``"tiny"``: 96, depths 2, 2, 6, 2, width 768.
        resize: See :class:`HTSAT`.
        norm_mode: See :class:`HTSAT`.
        patch_size: Kernel of the patch embedding, stride 4: 4 (LAION); SLAP's public configuration says 16.
        drop_path: Rate of the last block's stochastic depth, rising linearly from 0 (0.1).
        dropout: Dropout after attention and MLP (0, LAION).

    Raises:
        ValueError: For an unknown size.
    """
    from transformers import ClapAudioConfig

    if size not in ("base", "tiny"):
        raise ValueError(f"size={size!r}: expected 'base' or 'tiny'")
    channels, depths = (128, (2, 2, 12, 2)) if size == "base" else (96, (2, 2, 6, 2))
    config = ClapAudioConfig(
        patch_embeds_hidden_size=channels,
        hidden_size=8 * channels,
        depths=depths,
        num_attention_heads=(4, 8, 16, 32),
        patch_size=patch_size,
        drop_path_rate=drop_path,
        hidden_dropout_prob=dropout,
    )
    return HTSAT(config, resize=resize, norm_mode=norm_mode)


class PretrainedHTSAT(NamedTuple):
    """A CLAP checkpoint's audio side.

    Attributes:
        encoder: The tower.
        projection: Its projection to CLAP's joint space (width-512-512, ReLU); None if the checkpoint has none.
        mel: The front-end it was trained on.
    """

    encoder: HTSAT
    projection: nn.Module | None
    mel: MelConfig


def htsat_pretrained(
    name_or_path: str | Path,
    *,
    resize: Resize = "bicubic",
    norm_mode: WindowMode = "batch",
    drop_path: float | None = None,
    local_files_only: bool = False,
) -> PretrainedHTSAT:
    """Load the audio tower of a CLAP checkpoint in Hugging Face format.

    Fused checkpoints (``laion/clap-htsat-fused``) are run as if no clip were longer than 10 s: their path for one
    window. They go with the ``"htk"`` mel bank, the others with ``"slaney"``.

    Args:
        name_or_path: ``"laion/clap-htsat-unfused"``, ``"laion/larger_clap_general"``, ..., or a folder with a
            ``ClapModel``, ``ClapAudioModelWithProjection`` or ``ClapAudioModel``.
        resize: See :class:`HTSAT`.
        norm_mode: See :class:`HTSAT`.
        drop_path: Stochastic depth in place of the checkpoint's, or None.
        local_files_only: Never ask the Hub.

    Raises:
        OSError: If the checkpoint is not found.
        ValueError: If it is no CLAP checkpoint, or lacks audio weights.
    """
    from transformers import AutoConfig, ClapAudioModel, ClapAudioModelWithProjection

    config = AutoConfig.from_pretrained(name_or_path, local_files_only=local_files_only)
    if config.model_type not in ("clap", "clap_audio_model"):
        raise ValueError(f"{name_or_path} is a {config.model_type!r} checkpoint; expected CLAP. See hf_audio")
    alone = "ClapAudioModel" in (config.architectures or ())
    audio_config = config.audio_config if config.model_type == "clap" else config
    if drop_path is not None:
        audio_config.drop_path_rate = drop_path
    loader: Any = ClapAudioModel if alone else ClapAudioModelWithProjection
    model, report = loader.from_pretrained(
        name_or_path, config=audio_config, local_files_only=local_files_only, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{name_or_path} lacks {len(missing)} audio weights, such as {missing[0]!r}")
    tower = model if alone else model.audio_model
    encoder = HTSAT.from_tower(tower.train(), resize=resize, norm_mode=norm_mode)
    mel = laion_mel("htk" if audio_config.enable_fusion else "slaney")
    return PretrainedHTSAT(encoder, None if alone else model.audio_projection, mel)
