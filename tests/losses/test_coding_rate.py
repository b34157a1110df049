"""Coding rates: bounds, invariances, EMP-SSL and MCR^2 (core-ssl 8.7)."""

import math

import pytest
import torch
import torch.nn.functional as F

from byol_ext.losses.coding_rate import coding_rate, emp_ssl, gumbel_membership, mcr2
from byol_ext.losses.pair import unit


def dense_rate(z, eps):
    z = F.normalize(z, dim=1)
    m, d = z.shape
    return torch.logdet(torch.eye(d, dtype=z.dtype) + d / (m * eps) * z.T @ z) / 2


def test_bounds():
    isotropic, collapsed = torch.eye(8).repeat(3, 1), torch.ones(24, 8)
    assert coding_rate(isotropic).item() == pytest.approx(7.16704, abs=1e-5)
    assert coding_rate(collapsed).item() == pytest.approx(1.85679, abs=1e-5)
    assert coding_rate(isotropic, eps=0.3).item() == pytest.approx(4 * math.log(1 + 1 / 0.3), abs=1e-5)
    assert 1.85679 < coding_rate(torch.randn(24, 8)).item() < 7.16704


@pytest.mark.parametrize("rows", [5, 8, 20])
def test_the_smaller_determinant_is_the_same(rows):
    z = torch.randn(rows, 8, dtype=torch.float64)
    torch.testing.assert_close(coding_rate(z), dense_rate(z, 0.2))


def test_rotations_and_lengths_do_not_matter():
    z = torch.randn(20, 6, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    torch.testing.assert_close(coding_rate(z @ rotation), coding_rate(z))
    torch.testing.assert_close(coding_rate(z * torch.rand(20, 1).double()), coding_rate(z))


def test_emp_ssl_is_its_formula():
    z = torch.randn(4, 10, 6, dtype=torch.float64)
    loss, parts = emp_ssl(z, similarity_weight=30.0)
    unit_z = unit(z)
    rate = sum(dense_rate(view, 0.2) for view in z) / 4
    mean = unit_z.mean(0)
    similarity = sum(F.cosine_similarity(view, mean, dim=1).mean() for view in unit_z) / 4
    torch.testing.assert_close(loss, -rate - 30 * similarity)
    torch.testing.assert_close(parts["rate"], rate)
    same = z[:1].expand(4, 10, 6)
    assert emp_ssl(same)[1]["similarity"].item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two views"):
        emp_ssl(z[:1])


def test_gradient_through_the_mean_over_patches_changes_nothing():
    """The mean is the direction that maximises the summed cosine with unit vectors."""
    z = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(emp_ssl(z)[0], z)
    unit_z, rates = unit(z), sum(dense_rate(view, 0.2) for view in z) / 3
    for mean in (unit_z.mean(0), unit_z.mean(0).detach()):
        loss = -rates - 200 * F.cosine_similarity(unit_z, mean[None], dim=-1).mean()
        (expected,) = torch.autograd.grad(loss, z, retain_graph=True)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_mcr2_of_one_cluster_is_zero():
    z = torch.randn(2, 20, 6, dtype=torch.float64)
    membership = F.one_hot(torch.full((20,), 2), 4).double().requires_grad_()
    loss, parts = mcr2(z, membership=membership)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert parts["rate"].item() > 1
    loss.backward()
    assert membership.grad.isfinite().all()


def test_mcr2_is_its_formula():
    z = torch.randn(1, 15, 6, dtype=torch.float64)
    membership = torch.softmax(torch.randn(15, 3, dtype=torch.float64), 1)
    unit_z = unit(z[0])
    expected = -dense_rate(unit_z, 0.2)
    for k in range(3):
        mass = membership[:, k].sum()
        inner = torch.eye(6, dtype=torch.float64) + 6 / (mass * 0.2) * unit_z.T @ (membership[:, k, None] * unit_z)
        expected = expected + mass / 30 * torch.logdet(inner)
    torch.testing.assert_close(mcr2(z, membership=membership)[0], expected)
    with pytest.raises(ValueError, match="memberships"):
        mcr2(z, membership=membership[:5])


def test_mcr2_finds_subspaces():
    """Rows of two orthogonal planes in four dimensions: descending on free memberships separates them."""
    z = torch.zeros(1, 40, 4)
    z[0, :20, :2], z[0, 20:, 2:] = torch.randn(20, 2), torch.randn(20, 2)
    logits = (0.1 * torch.randn(40, 2)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        mcr2(z, membership=torch.softmax(logits, 1))[0].backward()
        optimizer.step()
    label = logits.argmax(1)
    assert label[:20].unique().numel() == label[20:].unique().numel() == 1
    assert label[0] != label[20]


def test_gumbel_memberships_are_samples_of_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    noise = torch.rand(20_000, 3)
    near = gumbel_membership(logits, noise=noise, temperature=0.01)
    torch.testing.assert_close(near.sum(1), torch.ones(20_000))
    share = F.one_hot(near.argmax(1), 3).float().mean(0)
    torch.testing.assert_close(share, torch.softmax(logits[0], 0), atol=0.015, rtol=0)
    ends = gumbel_membership(torch.zeros(1, 2), noise=torch.tensor([[0.0, 1 - 2**-24]]))
    assert ends.isfinite().all()
    assert ends[0, 1] > 0.99
