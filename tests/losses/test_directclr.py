"""DirectCLR: where its gradient goes, and the dimensional collapse that it answers (core-ssl 8.5)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch
from byol_ext.graph import SetTerm
from byol_ext.losses.contrastive import directclr, infonce_cross


def test_it_is_cross_view_infonce_of_the_first_coordinates():
    y = torch.randn(2, 6, 10)
    loss, parts = directclr(y, coordinates=4, temperature=0.2)
    expected, _ = infonce_cross(a=y[0, :, :4], b=y[1, :, :4], scale=5.0)
    assert torch.equal(loss, expected)
    assert set(parts) == {"a_to_b", "b_to_a", "accuracy"}
    for coordinates in (0, 11):
        with pytest.raises(ValueError, match="coordinates"):
            directclr(y, coordinates=coordinates)
    with pytest.raises(ValueError, match="two views"):
        directclr(y[:1], coordinates=4)


class Residual(nn.Module):
    """``x + f(x)``, twice; the second block mixes all channels of the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Sequential(nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        hidden = x + self.first(x)
        return hidden + self.second(hidden)


def test_the_other_coordinates_learn_through_the_backbone_only():
    y = torch.randn(2, 8, 10, requires_grad=True)
    directclr(y, coordinates=4)[0].backward()
    assert torch.equal(y.grad[..., 4:], torch.zeros(2, 8, 6))
    assert y.grad[..., :4].abs().min() > 0

    encoder = Residual(10)
    term = SetTerm("directclr", ["a", "b"], lambda y: directclr(y, coordinates=4), on="y")
    model = Bootstrap({"image": Branch(encoder)}, {"a": "image", "b": "image"}, set_terms=[term])
    model({"a": torch.randn(8, 10), "b": torch.randn(8, 10)}).loss.backward()
    into_others = encoder.first.weight.grad[4:]
    assert into_others.abs().max() > 1e-4
    assert torch.equal(encoder.second[1].weight.grad[4:], torch.zeros(6, 10))


def trained_linear_layer(noise: float) -> torch.Tensor:
    """Case 1 of the paper's toy: InfoNCE without normalisation on Gaussian data, half of it augmented with noise."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(16, 16, generator=generator) / 4).requires_grad_()
    scale = torch.cat([torch.zeros(8), torch.full((8,), noise)])
    label = torch.arange(128)
    for _ in range(600):
        x = torch.randn(128, 16, generator=generator)
        a, b = [(x + scale * torch.randn(128, 16, generator=generator)) @ weight for _ in range(2)]
        (gradient,) = torch.autograd.grad(F.cross_entropy(a @ b.T, label), weight)
        weight = (weight - 0.05 * gradient).detach().requires_grad_()
    return weight.detach()


def test_strong_augmentation_collapses_the_dimensions_that_it_acts_on():
    weak, strong = trained_linear_layer(0.01), trained_linear_layer(1.5)
    even = torch.linalg.svdvals(weak)
    assert even[-1] > 0.8 * even[0]
    _, values, directions = torch.linalg.svd(strong.T)
    assert values[8] < 0.45 * values[7]
    assert directions[:8, 8:].square().sum(1).max() < 0.1
