"""SLAP and CLAP as fillings of the same :class:`~byol_ext.bootstrap.Bootstrap`, and the audio front-end.

Legend: ``B`` batch, ``S`` samples, ``T`` frames, ``F`` mel bins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from byol_ext.audio.encoders import SmallAudioEncoder
from byol_ext.audio.hf import HFAudio, hf_audio
from byol_ext.audio.htsat import htsat
from byol_ext.audio.transforms import LogMel, SpecAugment
from byol_ext.bootstrap import Bootstrap, Branch, Edge, SetTerm, Target
from byol_ext.heads import LogitScale, mlp_head
from byol_ext.losses.contrastive import infonce_cross, sigmoid_pairs
from byol_ext.losses.pair import cosine_distance
from byol_ext.predictors import mlp_predictor
from byol_ext.schedules import Schedule, constant, cosine, linear, scale_decay
from byol_ext.text import (
    MINILM,
    FeatureEncoder,
    FrozenTextFeatures,
    HashTokenizer,
    HFTokenizer,
    SmallTextEncoder,
    hf_text,
)
from recipes.slap_config import AudioConfig, EmaConfig, HeadConfig, LossConfig, TextConfig

logger = logging.getLogger(__name__)
Tokenize = Callable[[Sequence[str]], dict[str, Tensor]]


class FrontEnd(nn.Module):
    """Waveforms to the input of the audio tower, on the training device: log-mel and SpecAugment.

    Args:
        config: The audio side's configuration.
        encoder: The tower; a Hugging Face model brings its own front-end.
    """

    def __init__(self, config: AudioConfig, encoder: nn.Module) -> None:
        super().__init__()
        own = encoder if isinstance(encoder, HFAudio) else None
        # CLAP's towers from the hub come with a log-mel front-end like ours; other models prepare their own features.
        mel = own.extractor if own is not None and isinstance(own.extractor, LogMel) else LogMel(config.mel)
        self.own = (own,) if own is not None and mel is not own.extractor else ()
        self.sample_rate = own.sample_rate if own is not None else config.mel.sample_rate
        self.hash = f"huggingface:{config.encoder}" if self.own else mel.config.hash()
        self.mel = mel
        self.augment = SpecAugment(time_width=config.time_width, freq_width=config.freq_width)
        self.specaugment = config.specaugment

    def forward(self, wave_BS: Tensor, *, keys_B: Tensor | None = None) -> Tensor:
        """Spectrograms ``[B, 1, T, F]``, or what a Hugging Face model without log-mel front-end takes.

        Args:
            wave_BS: Mono clips at :attr:`sample_rate`.
            keys_B: Keys of SpecAugment; ``None`` for evaluation.
        """
        if self.own:
            return self.own[0].prepare(wave_BS)
        mel_B1TF = self.mel(wave_BS)
        return self.augment(mel_B1TF, keys_B=keys_B) if self.specaugment and keys_B is not None else mel_B1TF


def build_audio(config: AudioConfig) -> nn.Module:
    """The audio tower.

    Args:
        config: Names the tower: ``small``, ``htsat-tiny``, ``htsat-base``, or a Hugging Face name or local path.
    """
    match config.encoder:
        case "small":
            return SmallAudioEncoder(
                width=config.width,
                depth=config.depth,
                n_mels=config.mel.n_mels,
                norm=config.norm,
                input_norm="bins",
                norm_mode=config.input_norm,
            )
        case "htsat-tiny":
            return htsat("tiny", resize=config.resize, norm_mode=config.input_norm)
        case "htsat-base":
            return htsat("base", resize=config.resize, norm_mode=config.input_norm)
        case name:
            return hf_audio(name, pretrained=config.pretrained, norm_mode=config.input_norm)


def build_text(config: TextConfig, *, device: str = "cpu") -> tuple[nn.Module, Tokenize]:
    """The text tower and what captions go through before it.

    Args:
        config: Names the tower: ``small``, ``minilm``, or a Hugging Face name or local path.
        device: Where a frozen encoder runs.

    Returns:
        Encoder, and ``captions -> keyword arguments of the encoder``.
    """
    if config.encoder == "small":
        tokenizer = HashTokenizer(max_tokens=config.max_tokens)
        encoder = SmallTextEncoder(
            tokenizer.vocab_size,
            width=config.width,
            layers=config.depth,
            max_tokens=config.max_tokens,
            dropout=config.dropout,
        )
        return encoder, tokenizer
    source = MINILM if config.encoder == "minilm" else config.encoder
    net = hf_text(source, pool=config.pool, pretrained=config.pretrained, freeze=config.frozen)
    hf_tokenizer = HFTokenizer(source, config.max_tokens)
    if not config.frozen:
        return net, hf_tokenizer
    features = FrozenTextFeatures(net, hf_tokenizer, device=device)
    if config.cache and Path(config.cache).exists():
        try:
            features.load(config.cache)
        except ValueError as error:
            # Only time is lost: the captions are encoded anew and the file is replaced.
            logger.warning("%s; it is ignored", error)
    return FeatureEncoder(net.width), features


def slap_edges(lam: float, *, audio: str | None = "audio", text: str | None = "text", seen: str = "") -> list[Edge]:
    """The four edges of SLAP (paper 3): ``lam`` on the inter-modal ones, ``1 - lam`` on the intra-modal ones.

    Args:
        lam: Lambda.
        audio: Predictor of the audio view.
        text: Predictor of the text view.
        seen: Suffix of the views that the target sees: empty, or ``_2`` for another crop and caption.
    """
    return [
        Edge("audio", f"text{seen}", predictor=audio, weight=lam, mask="both"),
        Edge("text", f"audio{seen}", predictor=text, weight=lam, mask="both"),
        Edge("audio", f"audio{seen}", predictor=audio, weight=1.0 - lam, mask="audio"),
        Edge("text", f"text{seen}", predictor=text, weight=1.0 - lam, mask="text"),
    ]


def build_bootstrap(
    audio: nn.Module, text: nn.Module, *, heads: HeadConfig, loss: LossConfig, ema: EmaConfig, steps: int, batch: int
) -> Bootstrap:
    """The trainable graph of a method.

    Args:
        audio: Audio encoder with attribute ``width``.
        text: Text encoder with attribute ``width``.
        heads: Projectors and predictors.
        loss: The method.
        ema: The target network.
        steps: Optimiser steps of the training, for the decay's schedule.
        batch: Effective batch over all processes, for the decay's scale.
    """
    branches = {
        name: Branch(encoder, mlp_head([encoder.width, heads.projector_hidden, heads.dim], norm=heads.projector_norm))
        for name, encoder in (("audio", audio), ("text", text))
    }
    views = {"audio": "audio", "text": "text"}
    if loss.name != "slap":
        return Bootstrap(branches, views, set_terms=[_contrastive(loss)])
    predictors = {}
    if loss.predictor:
        predictors = {
            name: mlp_predictor(
                heads.dim, heads.predictor_hidden, norm=heads.predictor_norm, dropout=heads.predictor_dropout
            )
            for name in views
        }
    names = {name: name if loss.predictor else None for name in views}
    if not loss.stop_gradient:
        return Bootstrap(branches, views, predictors=predictors, set_terms=_leaking_terms(loss.lam, names))
    target = Target(branches, tau=_decay(ema, steps, batch), mode=ema.mode, buffers=ema.buffers)
    seen = "_2" if loss.views == "two" else ""
    edges = slap_edges(loss.lam, audio=names["audio"], text=names["text"], seen=seen)
    views |= {f"{name}{seen}": name for name in branches}
    return Bootstrap(branches, views, target=target, predictors=predictors, plan=edges)


def _decay(ema: EmaConfig, steps: int, batch: int) -> Schedule:
    tau = scale_decay(ema.tau, batch, ema.reference_batch) if ema.reference_batch else ema.tau
    if ema.schedule == "const":
        return constant(tau)
    return (cosine if ema.schedule == "cosine" else linear)(tau, ema.tau_end, steps)


def _contrastive(loss: LossConfig) -> SetTerm:
    """CLAP's objective: gathered negatives, learnable temperature (spec slap 11)."""
    fn, scale = (
        (infonce_cross, LogitScale()) if loss.name == "clap-infonce" else (sigmoid_pairs, LogitScale(10.0, bias=-10.0))
    )
    data = ("groups",) if loss.mask_duplicates else ()
    return SetTerm(loss.name, ("audio", "text"), fn, keys=("a", "b"), mask="both", scale=scale, data=data)


def _leaking_terms(lam: float, predictor: dict[str, str | None]) -> list[SetTerm]:
    """The control without stop-gradient: predictions regress the online projections of the same network."""

    def distance(*, q: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return cosine_distance(q=q, target=z).mean(), {}

    weights = {("audio", "text"): lam, ("text", "audio"): lam, ("audio", "audio"): 1 - lam, ("text", "text"): 1 - lam}
    return [
        SetTerm(
            f"{src}->{dst}",
            (src, dst),
            distance,
            weight=weight,
            keys=("q", "z"),
            on="q",
            predictor=(predictor[src], None),
        )
        for (src, dst), weight in weights.items()
    ]
