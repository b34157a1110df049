"""Saved models come back as they were; folders that do not fit are refused."""

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from byol_ext.diffusion.autoregressive import Autoregressive, AutoregressiveConfig
from byol_ext.diffusion.hf import from_pretrained, save_pretrained
from byol_ext.diffusion.mdlm import MDLM, MDLMConfig
from byol_ext.diffusion.transformer import TransformerConfig

SIZE = TransformerConfig(width=8, depth=2, heads=2, mlp_ratio=2.0)
TOKENS = torch.tensor([[0, 3, 2], [4, 4, 1]])


def test_autoregressive_round_trip(tmp_path):
    model = Autoregressive(AutoregressiveConfig(5, SIZE)).eval()
    loaded = from_pretrained(Autoregressive, save_pretrained(model, tmp_path / "new" / "folder"))
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(TOKENS), model(TOKENS))


def test_mdlm_round_trip(tmp_path):
    model = MDLM(MDLMConfig(5, SIZE, t_min=0.01)).eval()
    loaded = from_pretrained(MDLM, save_pretrained(model, tmp_path))
    assert loaded.config == model.config
    hidden = TOKENS > 2
    assert torch.equal(loaded(TOKENS, hidden), model(TOKENS, hidden))


def test_the_files_are_what_other_tools_read(tmp_path):
    model = MDLM(MDLMConfig(5, SIZE))
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["MDLM"]
    assert config["transformer"]["width"] == 8
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_loading_leaves_the_callers_random_numbers(tmp_path):
    save_pretrained(MDLM(MDLMConfig(5, SIZE)), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    from_pretrained(MDLM, tmp_path)
    assert torch.equal(torch.rand(2), expected)


@dataclass(frozen=True)
class TiedConfig:
    sizes: tuple[int, ...]
    inner: TransformerConfig | None = None
    note: str | None = None


class Tied(nn.Module):
    def __init__(self, config: TiedConfig) -> None:
        super().__init__()
        self.config = config
        self.a, self.b = nn.Linear(*config.sizes), nn.Linear(*config.sizes)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("config", [TiedConfig((3, 4), inner=SIZE), TiedConfig((3, 4), note="x")])
def test_tied_weights_tuples_and_optional_fields(tmp_path, config):
    model = Tied(config)
    loaded = from_pretrained(Tied, save_pretrained(model, tmp_path))
    assert loaded.config == config
    assert loaded.b.weight is loaded.a.weight
    assert torch.equal(loaded.b.weight, model.a.weight)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        from_pretrained(MDLM, tmp_path)
    save_pretrained(MDLM(MDLMConfig(5, SIZE)), tmp_path)
    with pytest.raises(ValueError, match="not a byol_ext Autoregressive"):
        from_pretrained(Autoregressive, tmp_path)
    edit(tmp_path, vocab_size=6)
    with pytest.raises(RuntimeError, match="output"):
        from_pretrained(MDLM, tmp_path)
    edit(tmp_path, vocab_size=5, t_mni=0.1)
    with pytest.raises(ValueError, match="t_mni"):
        from_pretrained(MDLM, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        from_pretrained(MDLM, tmp_path)
    save_pretrained(MDLM(MDLMConfig(5, SIZE)), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be read"):
        from_pretrained(MDLM, tmp_path)


def test_a_model_without_configuration_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match=r"Linear\.config"):
        save_pretrained(nn.Linear(2, 2), tmp_path)
