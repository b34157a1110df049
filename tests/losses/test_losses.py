"""Losses against hand-computed values and brute force."""

import math

import pytest
import torch
import torch.nn.functional as F

from byol_ext.losses.coding_rate import emp_ssl, mcr2
from byol_ext.losses.contrastive import directclr, infonce_cross, nt_xent, sigmoid_pairs
from byol_ext.losses.decoupled import dcl
from byol_ext.losses.dual import standardize_dimensions, vicreg_ctr, vicreg_exp
from byol_ext.losses.msb import brownian, centroid_distance, singular_value_spread
from byol_ext.losses.pair import cosine_distance, negative_cosine, normalized_mse, unit
from byol_ext.losses.sets import vicreg


def test_t3_byol_pair_values():
    q, z = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert normalized_mse(q=q, target=z).item() == pytest.approx(0.08, abs=1e-6)
    assert cosine_distance(q=q, target=z).item() == pytest.approx(0.04, abs=1e-6)
    assert negative_cosine(q=q, target=z).item() == pytest.approx(-0.96, abs=1e-6)
    torch.testing.assert_close(normalized_mse(q=7 * q, target=z), normalized_mse(q=q, target=z))


def test_t3_gradient_is_orthogonal_to_the_prediction_and_bounded():
    q, z = torch.randn(16, 8, requires_grad=True), torch.randn(16, 8)
    loss = normalized_mse(q=q, target=z)
    loss.sum().backward()
    assert (q.grad * q).sum(-1).abs().max() < 1e-6
    assert loss.min() >= 0
    assert loss.max() <= 4


@pytest.mark.parametrize("loss", [cosine_distance, normalized_mse, negative_cosine])
def test_pair_losses_are_float32_and_finite_at_zero(loss):
    q = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    value = loss(q=q, target=torch.randn(3, 4).bfloat16())
    assert value.dtype == torch.float32
    value.sum().backward()
    assert torch.isfinite(q.grad).all()


def test_infonce_equals_brute_force():
    a, b, scale = torch.randn(5, 4), torch.randn(5, 4), 3.0
    loss, parts = infonce_cross(a=a, b=b, scale=scale)
    similarity = scale * F.cosine_similarity(a[:, None], b[None], dim=-1)
    rows = -torch.log_softmax(similarity, 1).diagonal().mean()
    columns = -torch.log_softmax(similarity, 0).diagonal().mean()
    torch.testing.assert_close(loss, (rows + columns) / 2)
    torch.testing.assert_close(parts["a_to_b"], rows)


def test_infonce_mask_leaves_rows_out_as_anchors_and_negatives():
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    mask = torch.tensor([1, 1, 0, 1, 0, 1], dtype=torch.bool)
    masked, _ = infonce_cross(a=a, b=b, scale=3.0, mask=mask)
    small, _ = infonce_cross(a=a[mask], b=b[mask], scale=3.0)
    torch.testing.assert_close(masked, small * 4 / 6)
    nothing = infonce_cross(a=a.requires_grad_(), b=b, scale=3.0, mask=torch.zeros(6))[0]
    nothing.backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_infonce_groups_are_not_negatives():
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    groups = torch.tensor([0, 0, 1])
    loss, _ = infonce_cross(a=a, b=b, scale=2.0, groups=groups)
    s = 2.0 * F.cosine_similarity(a[:, None], b[None], dim=-1)
    s[0, 1] = s[1, 0] = -math.inf
    expected = (F.cross_entropy(s, torch.arange(3)) + F.cross_entropy(s.T, torch.arange(3))) / 2
    torch.testing.assert_close(loss, expected)


def test_sigmoid_equals_brute_force_for_any_chunk():
    a, b, scale, bias = torch.randn(5, 4), torch.randn(5, 4), 10.0, -10.0
    s = scale * F.cosine_similarity(a[:, None], b[None], dim=-1) + bias
    sign = 2 * torch.eye(5) - 1
    expected = -F.logsigmoid(sign * s).sum(1).mean()
    for chunk in (1, 2, 5, 100):
        torch.testing.assert_close(sigmoid_pairs(a=a, b=b, scale=scale, bias=bias, chunk=chunk)[0], expected)
    mask = torch.tensor([1, 0, 1, 1, 1], dtype=torch.bool)
    masked = sigmoid_pairs(a=a, b=b, scale=scale, bias=bias, mask=mask, chunk=2)[0]
    small = sigmoid_pairs(a=a[mask], b=b[mask], scale=scale, bias=bias)[0]
    torch.testing.assert_close(masked, small * 4 / 5)


def test_nt_xent_orthonormal_and_brute_force():
    z = torch.eye(2).expand(2, 2, 2)
    for t in (0.1, 0.5):
        loss, _ = nt_xent(z, temperature=t)
        assert loss.item() == pytest.approx(-1 / t + math.log(math.exp(1 / t) + 2), abs=1e-5)
    z = torch.randn(2, 4, 3)
    flat = unit(z.reshape(8, 3))
    s = flat @ flat.T / 0.3
    s.fill_diagonal_(-math.inf)
    expected = F.cross_entropy(s, torch.arange(8).roll(4))
    torch.testing.assert_close(nt_xent(z, temperature=0.3)[0], expected)
    with pytest.raises(ValueError, match="two views"):
        nt_xent(torch.randn(3, 4, 5))


def test_vicreg_worked_example():
    z = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[1.0, 1.0], [2.0, 0.0]]], dtype=torch.float64)
    loss, parts = vicreg(z)
    assert loss.item() == pytest.approx(20.410281, abs=1e-6)
    assert parts["invariance"].item() == pytest.approx(0.5)
    assert parts["variance"].item() == pytest.approx(0.2928225 / 2, abs=1e-6)
    assert parts["covariance"].item() == pytest.approx(4.25)
    assert vicreg(z, variance_reduction="sum")[0].item() == pytest.approx(24.070563, abs=1e-6)
    assert vicreg(z, invariance="sum")[1]["invariance"].item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two views"):
        vicreg(z[:1])
    with pytest.raises(ValueError, match="at least two rows"):
        vicreg(z[:, :1])


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: infonce_cross(a=z[0], b=z[1], scale=100.0),
        lambda z: sigmoid_pairs(a=z[0], b=z[1], scale=100.0, bias=-10.0),
        lambda z: nt_xent(z, temperature=0.05),
        lambda z: vicreg(z),
        lambda z: dcl(z, weight_sigma=0.5),
        lambda z: directclr(z, coordinates=20),
        lambda z: nt_xent(standardize_dimensions(z)),
        lambda z: vicreg_exp(z),
        lambda z: vicreg_ctr(z),
        lambda z: emp_ssl(z),
        lambda z: mcr2(z, membership=torch.softmax(z[0, :, :4], 1)),
        lambda z: singular_value_spread(z),
        lambda z: centroid_distance(z),
        lambda z: brownian(z, noise=z[0].flip(0)),
    ],
    ids=[
        "infonce",
        "sigmoid",
        "nt_xent",
        "vicreg",
        "dclw",
        "directclr",
        "standardized",
        "vicreg_exp",
        "vicreg_ctr",
        "emp_ssl",
        "mcr2",
        "singular",
        "centroid",
        "brownian",
    ],
)
def test_c12_set_losses_are_float32_under_autocast(loss):
    z = torch.randn(2, 16, 64)
    reference, parts = loss(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, half_parts = loss(z)
    assert value.dtype == torch.float32
    assert torch.equal(value, reference)
    for name, part in parts.items():
        assert torch.equal(half_parts[name], part)
