"""The duality theorem, dimension standardisation, and VICReg's two experimental relatives (core-ssl 8.4)."""

import math

import pytest
import torch
import torch.nn.functional as F

from byol_ext.losses.contrastive import nt_xent
from byol_ext.losses.dual import (
    dimension_contrast,
    exp_covariance,
    sample_contrast,
    standardize_dimensions,
    vicreg_ctr,
    vicreg_exp,
)

WORKED = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[1.0, 1.0], [2.0, 0.0]]], dtype=torch.float64)


def test_duality_theorem():
    z = torch.randn(7, 5, dtype=torch.float64)
    columns, rows = z.norm(dim=0).pow(4).sum(), z.norm(dim=1).pow(4).sum()
    torch.testing.assert_close(dimension_contrast(z) + columns, sample_contrast(z) + rows, atol=1e-12, rtol=1e-13)
    brute = sum((z[i] @ z[j]).item() ** 2 for i in range(7) for j in range(7) if i != j)
    assert sample_contrast(z).item() == pytest.approx(brute, rel=1e-12)
    torch.testing.assert_close(dimension_contrast(z), sample_contrast(z.T))


def test_duality_of_doubly_normalised_matrices():
    """Rows of norm 1 and columns of norm sqrt(N / M): the criteria differ by N - N^2 / M.

    The spec's ``N - M`` is the same statement for columns of norm 1 and a square matrix: both then say zero.
    """
    n, m = 12, 5
    z = torch.randn(n, m, dtype=torch.float64)
    for _ in range(300):
        z = F.normalize(F.normalize(z, dim=0) * math.sqrt(n / m), dim=1)
    difference = dimension_contrast(z) - sample_contrast(z)
    assert difference.item() == pytest.approx(n - n**2 / m, abs=1e-8)


def test_standardised_dimensions():
    z = 3 + 2 * torch.randn(2, 9, 4, dtype=torch.float64)
    out = standardize_dimensions(z)
    for view, raw in zip(out, z, strict=True):
        centred = raw - raw.mean(0)
        torch.testing.assert_close(view, centred / centred.norm(dim=0) * math.sqrt(9 / 4))
    torch.testing.assert_close(out.square().sum(-1).mean(-1), torch.ones(2, dtype=torch.float64))
    assert nt_xent(out)[0].isfinite()
    constant = torch.ones(5, 3, requires_grad=True)
    standardize_dimensions(constant).sum().backward()
    assert constant.grad.isfinite().all()
    with pytest.raises(ValueError, match="two rows"):
        standardize_dimensions(z[:, :1])


def test_exp_covariance_worked_example_and_brute_force():
    assert exp_covariance(WORKED[0], temperature=1.0).item() == pytest.approx(-2.0)
    assert exp_covariance(WORKED[1], temperature=1.0).item() == pytest.approx(-0.5)
    z = torch.randn(8, 4, dtype=torch.float64)
    c = torch.cov(z.T)
    rows = [math.log(sum(math.exp(c[i, j] / 0.3) for j in range(4) if j != i)) for i in range(4)]
    assert exp_covariance(z, temperature=0.3).item() == pytest.approx(sum(rows) / 4)


def test_vicreg_exp_adds_its_terms():
    loss, parts = vicreg_exp(WORKED, temperature=1.0)
    assert parts["invariance"].item() == pytest.approx(0.5)
    assert parts["variance"].item() == pytest.approx(0.2928225 / 2, abs=1e-6)
    assert parts["covariance"].item() == pytest.approx(-2.5)
    assert loss.item() == pytest.approx(25 * 0.5 + 25 * 0.2928225 / 2 - 2.5, abs=1e-5)


def test_vicreg_ctr_is_vicreg_exp_of_the_transpose():
    z = torch.randn(2, 6, 4, dtype=torch.float64)
    loss, parts = vicreg_ctr(z)
    expected, expected_parts = vicreg_exp(z.mT)
    torch.testing.assert_close(loss, expected)
    assert parts.keys() == expected_parts.keys()
    for name, part in parts.items():
        torch.testing.assert_close(part, expected_parts[name])
    assert not torch.allclose(loss, vicreg_exp(z)[0])


@pytest.mark.parametrize("loss", [vicreg_exp, vicreg_ctr])
def test_descending_spreads_free_embeddings(loss):
    """From nearly one point, where both directions of the duality are bad, the embeddings open up."""
    base = torch.randn(16, 8)
    z = torch.nn.Parameter(0.05 * torch.stack([base, base + 0.1 * torch.randn(16, 8)]))
    optimizer = torch.optim.Adam([z], lr=0.05)
    start = loss(z)[0].item()
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(z)[0]
        value.backward()
        optimizer.step()
    assert value.item() < start - 10
    rank = torch.linalg.svdvals((z[0] - z[0].mean(0)).detach())
    assert (rank > 0.1 * rank[0]).sum() >= 7


def test_bad_inputs():
    for loss in (vicreg_exp, vicreg_ctr):
        with pytest.raises(ValueError, match="two views"):
            loss(torch.randn(3, 4, 5))
        with pytest.raises(ValueError, match="two dimensions"):
            loss(torch.randn(2, 4, 1))
        with pytest.raises(ValueError, match="two rows"):
            loss(torch.randn(2, 1, 4))
