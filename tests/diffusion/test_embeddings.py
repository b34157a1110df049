"""Normalised embeddings, their gradient and their diagnostics (spec 12.5)."""

import math

import pytest
import torch
from torch import nn

from byol_ext.diffusion.embeddings import EmbeddingMonitor, TokenEmbedding, embedding_groups, minimum_angle, row_angles


def test_rows_have_norm_sqrt_d_and_lookups_agree_with_the_table():
    embedding = TokenEmbedding(7, 10)
    torch.testing.assert_close(embedding.table().norm(dim=-1), torch.full((7,), math.sqrt(10)))
    for shape in ((3, 4), (1, 4)):  # more tokens than rows of the table, and fewer
        tokens = torch.randint(7, shape)
        torch.testing.assert_close(embedding(tokens), embedding.table()[tokens])
    assert embedding.weight.std().item() == pytest.approx(1e-3, rel=0.3)


def test_scale_of_the_parameters_has_no_effect_and_the_gradient_is_orthogonal():
    embedding = TokenEmbedding(6, 8).double()
    target = torch.randn(6, 8, dtype=torch.float64)
    before = embedding.table().detach()
    ((embedding.table() - target) ** 3).sum().backward()
    dot = (embedding.weight.grad * embedding.weight).sum(-1).abs()
    assert (dot < 1e-12 * embedding.weight.grad.norm(dim=-1) * embedding.weight.norm(dim=-1)).all()
    assert (embedding.weight.grad.norm(dim=-1) > 0).all()
    with torch.no_grad():
        embedding.weight *= torch.rand(6, 1, dtype=torch.float64) * 100
    torch.testing.assert_close(embedding.table(), before)


def test_adam_turns_rows_as_the_initial_scale_says():
    """The angle of the first step is about ``lr sqrt(d) / |R|`` (spec 2)."""
    for std in (1e-3, 1.0):
        embedding = TokenEmbedding(50, 64, init_std=std)
        before = embedding.table().detach()
        optimizer = torch.optim.Adam(embedding.parameters(), lr=1e-4)
        (embedding.table() * torch.randn(50, 64)).sum().backward()
        optimizer.step()
        angle = row_angles(before_Vd=before, after_Vd=embedding.table().detach()).mean().item()
        assert angle == pytest.approx(1e-4 / std, rel=0.1)


def test_minimum_angle_against_all_pairs():
    table = torch.randn(1100, 3, dtype=torch.float64)
    unit = table / table.norm(dim=-1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-1)
    assert minimum_angle(table) == pytest.approx(math.acos(cosine.max().item()), rel=1e-5)
    twins = torch.randn(4, 5)
    twins[3] = 2 * twins[1]
    assert minimum_angle(twins) < 1e-6
    with pytest.raises(ValueError, match="1 rows"):
        minimum_angle(torch.ones(1, 2))


def test_row_angles_keep_small_ones():
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    after = torch.tensor([[math.cos(1e-9), math.sin(1e-9)], [0.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(row_angles(before_Vd=before, after_Vd=after), torch.tensor([1e-9, math.pi / 2]).double())


def test_monitor_measures_turning_per_1000_steps():
    model = nn.ModuleDict({"embedding": TokenEmbedding(3, 2, init_std=1.0)})
    monitor = EmbeddingMonitor(["embedding"])
    with torch.no_grad():
        model["embedding"].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    first = monitor(model, None, 100)
    assert first["embedding/row_norm"] == pytest.approx(2.0)
    assert first["embedding/min_angle"] == pytest.approx(math.pi / 2, rel=1e-6)
    assert "embedding/angle_per_1k_steps" not in first
    with torch.no_grad():
        model["embedding"].weight.copy_(torch.tensor([[math.cos(0.3), math.sin(0.3)], [0.0, 1.0], [-1.0, 0.0]]))
    assert monitor(model, None, 350)["embedding/angle_per_1k_steps"] == pytest.approx(0.1 * 4, rel=1e-5)
    with pytest.raises(TypeError, match="not a TokenEmbedding"):
        EmbeddingMonitor(["other"])(nn.ModuleDict({"other": nn.Linear(1, 1)}), None, 0)


def test_groups_set_the_embeddings_apart():
    model = nn.ModuleDict({"embedding": TokenEmbedding(3, 2), "output": nn.Linear(2, 3)})
    groups = embedding_groups(model, 0.1, embedding_lr_scale=5.0)
    assert [(g["weight_decay"], g.get("lr_scale", 1.0), len(g["params"])) for g in groups] == [
        (0.1, 1.0, 1),
        (0.0, 1.0, 1),
        (0.0, 5.0, 1),
    ]
    assert groups[2]["params"][0] is model["embedding"].weight
    same = embedding_groups(model, 0.1)
    assert [(g["weight_decay"], len(g["params"])) for g in same] == [(0.1, 1), (0.0, 2)]


@pytest.mark.parametrize("settings", [(0, 4), (4, 0), (4, 4, 0.0)])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="positive"):
        TokenEmbedding(*settings[:2], **({"init_std": settings[2]} if len(settings) > 2 else {}))
