"""A saved simplex diffusion samples as the trained one."""

import json

import pytest
import torch

from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.hf_simplex import load_simplex, save_simplex
from byol_ext.diffusion.objective import CDCDConfig
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_denoiser import SimplexDenoiser, SimplexDenoiserConfig
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import PiecewiseLinearWarp
from byol_ext.diffusion.warp_fit import FittedWarp


def built():
    torch.manual_seed(0)
    net = SimplexDenoiser(SimplexDenoiserConfig(5, TransformerConfig(width=8, depth=1, heads=2), output_prior=True))
    simplex = SimplexDiffusion(5, CIR(1.5, 2.0), kappa=7.0, t_min=0.2, t_max=5.0)
    warp = FittedWarp(PiecewiseLinearWarp(0.2, 5.0, bins=7))
    model = SimplexModel(net, simplex, warp, CDCDConfig(self_conditioning=False)).eval()
    with torch.no_grad():
        for parameter in (*warp.drawn.parameters(), *model.average.parameters()):
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_round_trip(tmp_path):
    model = built()
    loaded = load_simplex(save_simplex(model, tmp_path))
    assert loaded.config == model.config
    assert not loaded.denoiser.training
    u = torch.linspace(0.0, 1.0, 33)
    assert torch.equal(loaded.warp.times(u), model.warp.times(u))
    y, t, noised = torch.rand(2, 3, 5), torch.tensor([0.5, 3.0]), torch.ones(2, 3, dtype=torch.bool)
    shown = model.average.posterior(model.simplex, noised_BL=noised)(y, t, 0 * y)
    assert torch.equal(loaded.denoiser.posterior(loaded.simplex, noised_BL=noised)(y, t, 0 * y), shown)
    assert torch.equal(loaded.simplex.score(y, t, shown), model.simplex.score(y, t, shown))
    assert (loaded.simplex.t_min, loaded.simplex.t_max) == (0.2, 5.0)
    # The saved parts make a model again.
    SimplexModel(loaded.denoiser, loaded.simplex, loaded.warp, loaded.config)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"simplex\.json"):
        load_simplex(tmp_path)
    save_simplex(built(), tmp_path)
    path = tmp_path / "simplex.json"
    values = json.loads(path.read_text())
    for broken in ({"training": values["training"]}, values | {"warp": values["warp"] | {"kind": "Other"}}, [1]):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="does not fit"):
            load_simplex(tmp_path)
