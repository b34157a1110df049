"""A saved CDCD samples as the trained one."""

import json

import pytest
import torch
from torch import nn

from byol_ext.diffusion.denoiser import Denoiser, DenoiserConfig
from byol_ext.diffusion.hf_cdcd import load_cdcd, save_cdcd
from byol_ext.diffusion.objective import CDCD, CDCDConfig
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp, UniformWarp
from byol_ext.diffusion.warp_fit import FittedWarp
from byol_ext.diffusion.warp_parametric import GumbelWarp, LogisticWarp

U = torch.linspace(0.0, 1.0, 33)


def built(warp, **settings):
    net = Denoiser(DenoiserConfig(5, 4, TransformerConfig(width=8, depth=1, heads=2), output_prior=True))
    return CDCD(net, warp, CDCDConfig(**settings)).eval()


@pytest.mark.parametrize(
    "warp",
    [
        UniformWarp(0.1, 20.0),
        LogUniformWarp(0.1, 20.0),
        PiecewiseLinearWarp(0.1, 20.0, bins=7, temperature=0.8, uniform_mix=0.1, floor=1e-3),
        LogisticWarp(0.1, 20.0, median=2.0),
        GumbelWarp(0.1, 20.0, location=1.0),
    ],
    ids=lambda warp: type(warp).__name__,
)
def test_round_trip(tmp_path, warp):
    if isinstance(warp, nn.Module):
        warp = FittedWarp(warp)
        for parameter in warp.drawn.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model = built(warp, post="renorm", self_conditioning=False)
    for parameter in model.average.parameters():
        parameter.data += torch.randn_like(parameter)
    loaded = load_cdcd(save_cdcd(model, tmp_path))
    assert loaded.config == model.config
    assert not loaded.denoiser.training
    assert torch.equal(loaded.warp.times(U), model.warp.times(U))
    assert torch.equal(loaded.warp.density(1.0 + U), model.warp.density(1.0 + U))
    x, t = torch.randn(2, 3, 4), torch.tensor([0.5, 3.0])
    noised = torch.ones(2, 3, dtype=torch.bool)
    expected = model.average(x, t, noised_BL=noised)
    assert torch.equal(loaded.denoiser(x, t, noised_BL=noised), expected)
    assert not torch.equal(model.denoiser(x, t, noised_BL=noised), expected)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cdcd\.json"):
        load_cdcd(tmp_path)
    save_cdcd(built(UniformWarp(0.1, 20.0)), tmp_path)
    path = tmp_path / "cdcd.json"
    values = json.loads(path.read_text())
    for broken in ({"training": values["training"]}, values | {"warp": values["warp"] | {"kind": "Other"}}, [1]):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="does not fit"):
            load_cdcd(tmp_path)


def test_only_known_warps_are_saved(tmp_path):
    class Own(UniformWarp):
        pass

    with pytest.raises(TypeError, match="Own cannot be saved"):
        save_cdcd(built(Own(0.1, 20.0)), tmp_path)
