"""Encoders: HTS-AT against transformers' own forward, the small encoder's independence of the batch, HF models."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ClapAudioConfig, ClapAudioModel

from byol_ext.audio.encoders import HTSAT, SmallAudioEncoder, hf_audio, htsat, htsat_pretrained
from byol_ext.audio.transforms import LogMel, Windows, cut_windows, laion_mel, pool_windows, small_mel, to_mono
from byol_ext.graph import Windowed
from byol_ext.heads import batch_norms

NANO = {"patch_embeds_hidden_size": 16, "hidden_size": 128, "depths": (1, 1, 2, 1), "num_attention_heads": (2, 2, 4, 4)}


def mels(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 1, frames, 64, generator=torch.Generator().manual_seed(seed)) * 12 - 40


def nano_tower(*, fusion: bool = False) -> ClapAudioModel:
    """A tiny tower with lively weights and non-trivial input statistics."""
    extra = {"enable_fusion": True, "fusion_type": "aff_2d"} if fusion else {}
    tower = ClapAudioModel(ClapAudioConfig(**NANO, **extra)).eval()
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    nn.init.normal_(tower.audio_encoder.patch_embed.proj.bias, std=0.2)  # no degenerate layer norm on silent patches
    norm = tower.audio_encoder.batch_norm
    norm.running_mean.normal_(-40, 3)
    norm.running_var.uniform_(50, 200)
    return tower


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parameters_without_gradient(encoder: nn.Module, y: Tensor) -> list[str]:
    (y * torch.randn_like(y)).sum().backward()
    return [
        n for n, p in encoder.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]


# HTS-AT


@pytest.mark.parametrize("frames", [1001, 1024, 300])
@torch.no_grad()
def test_htsat_equals_transformers(frames: int) -> None:
    reference = nano_tower()
    encoder = HTSAT.from_tower(copy.deepcopy(reference))
    mel = mels(2, frames)
    expected = reference(mel).pooler_output
    assert expected.std(0).mean() > 0.05  # the two clips differ, so the comparison says something
    torch.testing.assert_close(encoder(mel), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.export_tower()(mel).pooler_output, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_htsat_tiny_at_full_size_equals_transformers() -> None:
    encoder = htsat("tiny").eval()
    assert encoder.width == 768
    mel = mels(1, 1001)
    y = encoder(mel)
    assert y.shape == (1, 768)
    torch.testing.assert_close(y, encoder.export_tower()(mel).pooler_output, rtol=0, atol=1e-5)


def test_documented_sizes() -> None:
    with torch.device("meta"):
        base, tiny, wide_patch = htsat("base"), htsat("tiny"), htsat("base", patch_size=16)
    roberta_base = 124_645_632
    assert base.width == 1024
    assert tiny.width == 768
    assert base.config.depths == (2, 2, 12, 2)
    assert base.config.num_attention_heads == (4, 8, 16, 32)
    assert base.tower.audio_encoder.patch_embed.proj.weight.shape == (128, 1, 4, 4)
    assert wide_patch.tower.audio_encoder.patch_embed.proj.weight.shape == (128, 1, 16, 16)
    assert parameters(base) == 67_824_408
    assert parameters(tiny) == 27_534_488
    assert abs(parameters(base) + roberta_base - 193e6) < 0.6e6  # "193M" of the paper, slap §2


@torch.no_grad()
def test_pad_resize_puts_zeros_after_the_norm() -> None:
    tower = nano_tower()
    padded, bicubic = (HTSAT.from_tower(copy.deepcopy(tower), resize=r) for r in ("pad", "bicubic"))
    mel = mels(2, 1001)
    # frames that the norm maps to zero stand for the padding
    filler = tower.audio_encoder.batch_norm.running_mean.expand(2, 1, 23, 64)
    torch.testing.assert_close(padded(mel), bicubic(torch.cat([mel, filler], dim=2)), rtol=0, atol=1e-5)
    assert (padded(mel) - bicubic(mel)).abs().max() > 1e-4


def test_every_htsat_parameter_gets_a_gradient() -> None:
    encoder = HTSAT(ClapAudioConfig(**NANO, drop_path_rate=0.0)).train()
    assert parameters_without_gradient(encoder, encoder(mels(2, 1001))) == []


def test_the_input_norm_is_the_only_layer_that_couples_samples() -> None:
    encoder = HTSAT(ClapAudioConfig(**NANO))
    assert batch_norms(encoder) == ["input_norm"]
    encoder.input_norm.mode = "frozen"
    assert batch_norms(encoder) == []
    assert encoder.norm_input(mels(2, 1001)).shape == (2, 64, 1001, 1)


def test_window_statistics_equal_the_whole_batch() -> None:
    config = ClapAudioConfig(**NANO, drop_path_rate=0.0, hidden_dropout_prob=0.0)
    windowed = HTSAT(config, norm_mode="window").train()
    whole = copy.deepcopy(windowed)
    whole.input_norm.mode = "batch"
    mel = mels(4, 256)
    windowed.input_norm.begin_window([windowed.norm_input(part) for part in mel.split(2)], view="audio")
    windowed.input_norm.select_window("audio")
    parts = torch.cat([windowed(part) for part in mel.split(2)])
    torch.testing.assert_close(parts, whole(mel), rtol=1e-4, atol=1e-5)


def test_htsat_under_bf16_autocast_is_finite_and_close() -> None:
    encoder = HTSAT.from_tower(nano_tower())
    mel = mels(2, 1001)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(mel).float()
    with torch.no_grad():
        assert F.cosine_similarity(low, encoder(mel)).min() > 0.99


@pytest.mark.parametrize("shape", [(2, 1, 1025, 64), (2, 1, 1001, 128), (2, 1001, 64), (2, 4, 1001, 64), (2, 1, 0, 64)])
def test_htsat_rejects_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"T <= 1024, 64"):
        HTSAT(ClapAudioConfig(**NANO))(torch.zeros(shape))


def test_htsat_bad_options() -> None:
    with pytest.raises(ValueError, match="bicubic"):
        HTSAT(ClapAudioConfig(**NANO), resize="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="last stage is 128"):
        HTSAT(ClapAudioConfig(**{**NANO, "hidden_size": 768}))
    with pytest.raises(ValueError, match="'base' or 'tiny'"):
        htsat("large")  # type: ignore[arg-type]


# CLAP checkpoints, written by transformers itself


def save_clap(folder: Path, *, fusion: bool = False) -> transformers.ClapModel:
    extra = {"enable_fusion": True, "fusion_type": "aff_2d"} if fusion else {}
    text = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ClapConfig(text_config=text, audio_config={**NANO, **extra}, projection_dim=8)
    model = transformers.ClapModel(config).eval()
    model.audio_model.audio_encoder.batch_norm.running_mean.normal_(-40, 3)
    model.audio_model.audio_encoder.batch_norm.running_var.uniform_(50, 200)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("fusion", [False, True])
@torch.no_grad()
def test_pretrained_clap(tmp_path: Path, fusion: bool) -> None:
    model = save_clap(tmp_path, fusion=fusion)
    loaded = htsat_pretrained(tmp_path, drop_path=0.1)
    assert loaded.mel == laion_mel("htk" if fusion else "slaney")
    assert loaded.encoder.training
    assert loaded.encoder.input_norm.training
    assert loaded.encoder.config.drop_path_rate == 0.1
    mel = mels(2, 1001)
    z = F.normalize(loaded.projection(loaded.encoder.eval()(mel)))
    features = mel.repeat(1, 4, 1, 1) if fusion else mel
    expected = model.get_audio_features(features, is_longer=torch.zeros(2, 1)).pooler_output
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)


def test_fused_checkpoint_trains_no_unused_parameter(tmp_path: Path) -> None:
    save_clap(tmp_path, fusion=True)
    encoder = htsat_pretrained(tmp_path).encoder
    for p in encoder.parameters():  # their initial scale underflows the gradient
        nn.init.normal_(p, std=0.2) if p.dim() > 1 else None
    assert parameters_without_gradient(encoder, encoder(mels(2, 1001))) == []


def test_audio_only_checkpoint_round_trip(tmp_path: Path) -> None:
    encoder = HTSAT.from_tower(nano_tower())
    encoder.export_tower().save_pretrained(tmp_path)
    loaded = htsat_pretrained(tmp_path)
    assert loaded.projection is None
    mel = mels(1, 1001)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder.eval()(mel), encoder(mel), rtol=0, atol=1e-6)


def test_pretrained_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        htsat_pretrained(tmp_path / "nowhere", local_files_only=True)
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bert' checkpoint"):
        htsat_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Supported with waveforms: data2vec-audio, hubert"):
        hf_audio(tmp_path)


# The small encoder


@pytest.mark.parametrize("norm", ["layer", "gn_ws", "batch"])
def test_only_batch_norm_couples_samples(norm: str) -> None:
    encoder = SmallAudioEncoder(width=32, norm=norm).train()  # type: ignore[arg-type]
    mel = mels(4, 101)
    other = torch.cat([mel[:1], mels(3, 101, seed=1)])
    with torch.no_grad():
        same = torch.allclose(encoder(mel)[0], encoder(other)[0], atol=1e-6)
    assert same == (norm != "batch")
    assert bool(batch_norms(encoder)) == (norm == "batch")


def test_small_input_norm_over_bins_keeps_the_level_and_couples_only_in_batch_mode() -> None:
    mel = mels(2, 101)
    clip = SmallAudioEncoder(width=32).eval()
    torch.testing.assert_close(clip(mel + 20), clip(mel), rtol=0, atol=1e-4)
    bins = SmallAudioEncoder(width=32, input_norm="bins", norm_mode="window")
    assert batch_norms(bins) == []
    assert (bins.eval()(mel + 20) - bins(mel)).abs().max() > 1e-3
    assert isinstance(bins, Windowed)
    assert bins.norm_input(mel).shape == (2, 64, 101, 1)


@pytest.mark.parametrize("norm", ["layer", "gn_ws", "batch"])
def test_every_small_parameter_gets_a_gradient(norm: str) -> None:
    encoder = SmallAudioEncoder(width=32, norm=norm)  # type: ignore[arg-type]
    assert parameters_without_gradient(encoder, encoder(mels(4, 101))) == []


@pytest.mark.parametrize("frames", [1, 7, 101, 501, 1001])
def test_small_encoder_takes_any_length(frames: int) -> None:
    y = SmallAudioEncoder(width=32)(mels(2, frames))
    assert y.shape == (2, 32)
    assert torch.isfinite(y).all()


def test_small_encoder_on_silence_is_finite_with_finite_gradients() -> None:
    encoder = SmallAudioEncoder(width=32)
    encoder(torch.full((2, 1, 101, 64), -100.0)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


def test_weight_standardisation_ignores_shift_and_scale_of_the_weights() -> None:
    encoder = SmallAudioEncoder(width=32, norm="gn_ws").eval()
    mel = mels(2, 101)
    before = encoder(mel)
    with torch.no_grad():
        for block in encoder.convs:
            block[0].weight.mul_(3).add_(1)
    torch.testing.assert_close(encoder(mel), before, rtol=1e-3, atol=1e-4)


def test_small_encoder_hears_time_order() -> None:
    mel = mels(1, 101)
    encoder = SmallAudioEncoder(width=32).eval()
    assert (encoder(mel) - encoder(mel.flip(2))).abs().max() > 1e-3


def test_small_encoder_errors() -> None:
    with pytest.raises(ValueError, match="width % heads"):
        SmallAudioEncoder(width=30)
    with pytest.raises(ValueError, match="'bins'"):
        SmallAudioEncoder(input_norm="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gn_ws"):
        SmallAudioEncoder(norm="group")  # type: ignore[arg-type]
    for shape in ((2, 101, 64), (2, 1, 101, 80), (2, 2, 101, 64), (2, 1, 0, 64)):
        with pytest.raises(ValueError, match=r"expected \[B, 1, T, 64\]"):
            SmallAudioEncoder(width=32)(torch.zeros(shape))


# The same file embedded alone, in a batch, twice, as a stereo copy


def tones(seconds: float, rate: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * rate)) / rate
    return [
        (0.4 * np.sin(2 * np.pi * f * t) + 0.02 * rng.normal(size=t.size)).astype(np.float32) for f in (220, 900, 3000)
    ]


@pytest.mark.parametrize("kind", ["small", "htsat"])
@torch.no_grad()
def test_alone_in_a_batch_twice_and_stereo_are_the_same(kind: str) -> None:
    if kind == "small":
        front, encoder = LogMel(small_mel()), SmallAudioEncoder(width=64).eval()
    else:
        front, encoder = LogMel(laion_mel()), HTSAT.from_tower(nano_tower())
    waves = tones(2.0, front.config.sample_rate)

    def embed(clips: list[np.ndarray]) -> Tensor:
        return encoder(front(torch.from_numpy(np.stack(clips))))

    batch, alone = embed(waves), embed(waves[:1])
    stereo = embed([to_mono(np.stack([waves[0], waves[0]], axis=1))])
    for other in (batch[:1], embed(waves[:1]), stereo):
        assert F.cosine_similarity(alone, other).item() > 0.99999
    assert F.cosine_similarity(batch[:1], batch[1:]).max() < 0.99999


@torch.no_grad()
def test_window_pooling_does_not_depend_on_batching_of_windows() -> None:
    front, encoder = LogMel(small_mel()), SmallAudioEncoder(width=64).eval()
    files = [tones(5.3, 16_000)[0], tones(0.4, 16_000)[1]]
    cut = [cut_windows(f, windows=Windows(), length=16_000, sample_rate=16_000)[0] for f in files]
    assert [len(c) for c in cut] == [6, 1]
    owner = torch.repeat_interleave(torch.arange(2), torch.tensor([len(c) for c in cut]))
    together = pool_windows(encoder(front(torch.from_numpy(np.concatenate(cut)))), owner_N=owner)
    for row, clips in zip(together, cut, strict=True):
        single = pool_windows(torch.cat([encoder(front(torch.from_numpy(clip)[None])) for clip in clips]))
        assert F.cosine_similarity(row, single, dim=0).item() > 0.99999


# Other Hugging Face audio models


TINY_WAVEFORM = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 8),
    "conv_stride": (5, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.5,
}


def save_waveform_model(folder: Path, *, normalise: bool = True, family: str = "Hubert") -> None:
    config = getattr(transformers, f"{family}Config")(**TINY_WAVEFORM)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)


@pytest.mark.parametrize(
    "family", ["Wav2Vec2", "Wav2Vec2Conformer", "WavLM", "UniSpeech", "UniSpeechSat", "Data2VecAudio", "SEW", "SEWD"]
)
def test_waveform_families(tmp_path: Path, family: str) -> None:
    save_waveform_model(tmp_path, family=family)
    encoder = hf_audio(tmp_path)
    y = encoder(torch.from_numpy(np.stack(tones(0.5, 16_000)[:2])))
    assert y.shape == (2, encoder.width) == (2, 32)
    y.square().sum().backward()
    idle = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert all("pos_conv_embed" in n for n in idle)  # the conformer leaves its unused position convolution idle
    assert family == "Wav2Vec2Conformer" or not idle


@pytest.mark.parametrize("normalise", [True, False])
def test_waveform_model(tmp_path: Path, normalise: bool) -> None:
    save_waveform_model(tmp_path, normalise=normalise)
    encoder = hf_audio(tmp_path)
    assert (encoder.input, encoder.sample_rate, encoder.width) == ("waveform", 16_000, 32)
    wave = torch.from_numpy(np.stack(tones(0.5, 16_000)[:2]))
    assert torch.equal(encoder.prepare(wave), wave)
    assert parameters_without_gradient(encoder, encoder(wave)) == []
    with torch.no_grad():
        y = encoder.eval()(wave)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
        inputs = extractor(list(wave.numpy()), sampling_rate=16_000, return_tensors="pt").input_values
        expected = transformers.AutoModel.from_pretrained(tmp_path).eval()(inputs).last_hidden_state.mean(1)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(encoder(wave[:1]), y[:1], rtol=0, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(encoder)(wave), y)
    assert encoder.input_norm is None
    with pytest.raises(TypeError, match="no input norm"):
        encoder.norm_input(wave)
    with pytest.raises(ValueError, match="takes raw waveforms"):
        encoder(torch.zeros(2, 1, 101, 64))
    with pytest.raises(ValueError, match="expected mono"):
        encoder.prepare(torch.zeros(2, 1, 101))


def test_spectrogram_model_ast(tmp_path: Path) -> None:
    pytest.importorskip("torchaudio")
    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_length=128
    )
    transformers.ASTModel(config).save_pretrained(tmp_path)
    transformers.ASTFeatureExtractor(max_length=128).save_pretrained(tmp_path)
    encoder = hf_audio(tmp_path)
    assert (encoder.input, encoder.sample_rate, encoder.width) == ("features", 16_000, 32)
    wave = torch.from_numpy(np.stack(tones(1.0, 16_000)))
    features = encoder.prepare(wave)
    assert features.shape == (3, 128, 128)
    y = encoder(features)
    assert y.shape == (3, 32)
    y.square().sum().backward()
    assert encoder.model.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="call prepare"):
        encoder(wave)


def test_whisper_uses_its_encoder_alone(tmp_path: Path) -> None:
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=100,
        max_source_positions=50,
        encoder_layerdrop=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.WhisperModel(config).save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(chunk_length=1).save_pretrained(tmp_path)
    encoder = hf_audio(tmp_path)
    features = encoder.prepare(torch.from_numpy(np.stack(tones(0.5, 16_000))))
    assert features.shape == (3, 80, 100)
    assert encoder(features).shape == (3, 32) == (3, encoder.width)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


@torch.no_grad()
def test_clap_through_hf_audio_runs_its_mel_on_the_device(tmp_path: Path) -> None:
    model = save_clap(tmp_path)
    encoder = hf_audio(tmp_path, norm_mode="window").eval()
    assert (encoder.input, encoder.sample_rate, encoder.width) == ("features", 48_000, 128)
    assert isinstance(encoder, Windowed)
    assert encoder.input_norm is not None
    assert encoder.input_norm.mode == "window"
    assert encoder.norm_input(mels(2, 1001)).shape == (2, 64, 1001, 1)
    wave = torch.from_numpy(np.stack(tones(10.0, 48_000)[:2]))
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc")
    features = extractor(list(wave.numpy()), sampling_rate=48_000, return_tensors="pt").input_features
    expected = model.audio_model(features).pooler_output
    torch.testing.assert_close(encoder(encoder.prepare(wave)), expected, rtol=0, atol=1e-4)


def test_untrained_control_has_other_weights(tmp_path: Path) -> None:
    save_waveform_model(tmp_path)
    trained, control = hf_audio(tmp_path).state_dict(), hf_audio(tmp_path, pretrained=False).state_dict()
    assert trained.keys() == control.keys()
    name = "model.encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(trained[name], control[name])


def test_a_model_without_preprocessor_says_so(tmp_path: Path) -> None:
    save_waveform_model(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match=r"feature extractor|preprocessor"):
        hf_audio(tmp_path, local_files_only=True)
