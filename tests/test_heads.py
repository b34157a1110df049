"""Heads and the norm switch (core-ssl 4), learnable scale, windowed BatchNorm."""

import copy
import math

import pytest
import torch
from torch import nn

from byol_ext.heads import LogitScale, WindowBatchNorm2d, WSLinear, batch_norms, mlp_head, norm_1d


@pytest.mark.parametrize("norm", ["batch", "gn_ws", "layer", "none"])
def test_rows_are_independent_unless_batch_norm(norm):
    head, x = mlp_head([8, 32, 4], norm=norm), torch.randn(6, 8)
    changed = torch.cat([x[:1], torch.randn(5, 8)])
    same = torch.allclose(head(x)[0], head(changed)[0], atol=1e-6)
    assert same == (norm != "batch")
    assert bool(batch_norms(head)) == (norm == "batch")


def test_weight_standardisation_ignores_shift_and_scale():
    layer, x = WSLinear(64, 8), torch.randn(5, 64)
    reference = layer(x)
    with torch.no_grad():
        layer.weight.mul_(3.0).add_(0.7)
    torch.testing.assert_close(layer(x), reference, rtol=1e-3, atol=1e-4)
    weight = (layer.weight - layer.weight.mean(1, keepdim=True)) / layer.weight.std(1, keepdim=True, correction=0) / 8
    torch.testing.assert_close(reference, x @ weight.T + layer.bias, rtol=1e-3, atol=1e-4)


def test_mlp_layout_follows_the_papers():
    byol = mlp_head([2048, 4096, 256], out_bias=False)
    assert [type(m).__name__ for m in byol] == ["Linear", "RowBatchNorm", "ReLU", "Linear"]
    assert byol[0].bias is None
    assert byol[3].bias is None
    simsiam = mlp_head([8, 8, 8, 8], out_norm="batch", out_affine=False)
    assert [m.affine for m in simsiam if isinstance(m, nn.BatchNorm1d)] == [True, True, False]
    slap = mlp_head([1024, 512, 512], norm="none", dropout=0.1)
    assert [type(m).__name__ for m in slap] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert slap[0].bias is not None
    with pytest.raises(ValueError, match="at least an input and an output"):
        mlp_head([4])
    with pytest.raises(ValueError, match="norm='group'"):
        norm_1d("group", 4)


def test_group_count_divides_the_width():
    assert norm_1d("gn_ws", 24).num_groups == 8


def test_logit_scale_starts_and_clamps():
    scale = LogitScale()
    assert scale()["scale"].item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(9.0)
    scale.commit()
    assert scale()["scale"].item() == pytest.approx(100.0)
    with torch.no_grad():
        scale.log_scale.fill_(-3.0)
    scale.commit()
    assert scale()["scale"].item() == 1.0
    assert set(LogitScale(10.0, bias=-10.0)()) == {"scale", "bias"}
    assert LogitScale(10.0).log_scale.item() == pytest.approx(math.log(10))


def test_window_batch_norm_outside_a_window_is_batch_norm():
    x = 1 + 2 * torch.randn(4, 3, 5, 5)
    ours, reference = WindowBatchNorm2d(3, mode="window"), nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(x), reference(x))
    torch.testing.assert_close(ours.running_var, reference.running_var)
    ours.eval()
    reference.eval()
    torch.testing.assert_close(ours(x), reference(x))


def test_window_statistics_equal_one_batch():
    x = 1 + 2 * torch.randn(6, 3, 5, 5)
    ours, reference = WindowBatchNorm2d(3, mode="window"), nn.BatchNorm2d(3)
    ours.begin_window([x[:2], x[2:]], view="a")
    ours.select_window("a")
    torch.testing.assert_close(torch.cat([ours(x[:2]), ours(x[2:])]), reference(x))
    torch.testing.assert_close(ours.running_mean, reference.running_mean)
    torch.testing.assert_close(ours.running_var, reference.running_var)
    ours.end_window()
    assert copy.deepcopy(ours).state_dict().keys() == reference.state_dict().keys()


def test_frozen_norm_uses_running_statistics_in_training():
    x = 1 + 2 * torch.randn(6, 3, 5, 5)
    frozen = WindowBatchNorm2d(3, mode="frozen")
    torch.testing.assert_close(frozen(x), x, rtol=1e-4, atol=1e-4)
    assert frozen.num_batches_tracked == 0
    with pytest.raises(ValueError, match="mode='off'"):
        WindowBatchNorm2d(3, mode="off")


def test_batch_norms_names_what_couples():
    net = nn.Sequential(nn.BatchNorm1d(2), WindowBatchNorm2d(2, mode="window"), WindowBatchNorm2d(2))
    assert batch_norms(net) == ["0", "2"]
    assert batch_norms(net.eval()) == []
