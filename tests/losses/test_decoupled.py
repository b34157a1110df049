"""DCL and its relatives against the spec's numbers, brute force and the identity with InfoNCE (core-ssl 8.3, 8.4)."""

import math

import pytest
import torch
import torch.nn.functional as F

from byol_ext.losses.contrastive import nt_xent
from byol_ext.losses.decoupled import dcl, positive_weights
from byol_ext.losses.pair import unit


def by_anchor(z, temperature, change=lambda s: s):
    """Positive similarity and log-sum of the negatives of each of the 2B anchors, one at a time."""
    flat = unit(z.flatten(0, 1))
    n, half = len(flat), len(flat) // 2
    positive, negative = [], []
    for i in range(n):
        partner = (i + half) % n
        others = [change(flat[i] @ flat[k]) / temperature for k in range(n) if k not in (i, partner)]
        positive.append(flat[i] @ flat[partner] / temperature)
        negative.append(torch.logsumexp(torch.stack(others), 0))
    return torch.stack(positive), torch.stack(negative)


def test_worked_example():
    z = torch.eye(4).expand(2, 4, 4)
    assert dcl(z, temperature=0.5)[0].item() == pytest.approx(-0.208241, abs=1e-6)
    assert nt_xent(z, temperature=0.5)[0].item() == pytest.approx(0.594438, abs=1e-6)


@pytest.mark.parametrize(
    ("similarity", "change"),
    [("cosine", lambda s: s), ("square", lambda s: s**2), ("absolute", lambda s: s.abs())],
)
def test_equals_brute_force(similarity, change):
    z = torch.randn(2, 5, 3, dtype=torch.float64)
    positive, negative = by_anchor(z, 0.3, change)
    loss, parts = dcl(z, temperature=0.3, similarity=similarity)
    torch.testing.assert_close(loss, (negative - positive).mean())
    torch.testing.assert_close(parts["positive"], -positive.mean())
    expected = (torch.logaddexp(negative, positive) - positive).mean()
    torch.testing.assert_close(nt_xent(z, temperature=0.3, similarity=similarity)[0], expected)


def test_infonce_is_dcl_with_a_step_that_vanishes():
    z = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    positive, negative = by_anchor(z, 0.2)
    assert nt_xent(z, temperature=0.2)[0].item() == pytest.approx(
        (dcl(z, temperature=0.2)[0] + F.softplus(positive - negative).mean()).item(), abs=1e-12
    )
    probability = torch.sigmoid(positive - negative).detach()
    (expected,) = torch.autograd.grad(((1 - probability) * (negative - positive)).mean(), z)
    (found,) = torch.autograd.grad(nt_xent(z, temperature=0.2)[0], z)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-10)


def test_the_masks_are_infinite():
    """A finite mask, such as log 1e-45 = -103.6, leaves the positive in the sum when the temperature is low."""
    loss, _ = dcl(torch.eye(4).expand(2, 4, 4), temperature=1e-3)
    assert loss.item() == pytest.approx(-1000 + math.log(6), abs=1e-3)


def test_a_negatives_sign_does_not_matter_to_the_squared_and_absolute_similarity():
    """The second pair is negated: its similarity with the first changes sign, its own does not."""
    z = torch.randn(2, 2, 6)
    flipped = z * torch.tensor([1.0, -1.0])[None, :, None]
    for loss in (nt_xent, dcl):
        for similarity in ("square", "absolute"):
            torch.testing.assert_close(loss(flipped, similarity=similarity)[0], loss(z, similarity=similarity)[0])
        assert not torch.allclose(loss(flipped)[0], loss(z)[0])


def test_dclw_weighs_the_positive_term():
    z = torch.randn(2, 6, 4, dtype=torch.float64)
    cosine = F.cosine_similarity(z[0], z[1], dim=-1)
    weight = torch.tensor([2 - 6 * math.exp(c / 0.5) / sum(math.exp(v / 0.5) for v in cosine) for c in cosine])
    torch.testing.assert_close(positive_weights(z), weight.double())
    assert positive_weights(z).mean().item() == pytest.approx(1.0, abs=1e-12)
    positive, negative = by_anchor(z, 0.1)
    loss, parts = dcl(z, temperature=0.1, weight_sigma=0.5)
    torch.testing.assert_close(loss, (negative - weight.double().repeat(2) * positive).mean())
    torch.testing.assert_close(parts["negative"], negative.mean())


def test_dclw_weights_are_constants_by_default():
    z = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    positive, negative = by_anchor(z, 0.1)
    weight = positive_weights(z)
    for detached in (True, False):
        used = weight.detach() if detached else weight
        (expected,) = torch.autograd.grad((negative - used.repeat(2) * positive).mean(), z, retain_graph=True)
        (found,) = torch.autograd.grad(dcl(z, weight_sigma=0.5, detach_weights=detached)[0], z)
        torch.testing.assert_close(found, expected)


def test_bad_inputs():
    with pytest.raises(ValueError, match="two views"):
        dcl(torch.randn(3, 4, 5))
    with pytest.raises(ValueError, match="two rows"):
        dcl(torch.randn(2, 1, 5))
    with pytest.raises(ValueError, match="similarity"):
        nt_xent(torch.randn(2, 4, 5), similarity="cubic")
