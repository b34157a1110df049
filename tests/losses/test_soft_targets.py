"""ASCL's soft targets against the public formulas in plain loops, and its two limits (core-ssl 9)."""

import math

import pytest
import torch
import torch.nn.functional as F

from byol_ext.losses.pair import normalized_mse
from byol_ext.losses.soft_targets import contrast_targets, neighbour_weights, soft_byol, soft_info_nce


def labels_by_hand(similarity, own, *, kind, k, temperature=0.05):
    """A row's label over (own, others): lists and floats only."""
    exponentials = [math.exp(s / temperature) for s in similarity]
    relation = [e / sum(exponentials) for e in exponentials]
    confidence = 1 + sum(r * math.log(r) for r in relation if r > 0) / math.log(len(relation))
    nearest = sorted(range(len(relation)), key=lambda j: -relation[j])[:k]
    if kind == "soft":
        weights = [min(1.0, k * confidence * r) for r in relation]
    else:
        weights = [(1.0 if kind == "hard" else confidence) * (j in nearest) for j in range(len(relation))]
    weights.insert(own, 1.0)
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("kind", ["soft", "hard", "ahcl"])
def test_losses_equal_loops(kind):
    q, target, bank = (F.normalize(torch.randn(n, 4).double(), dim=1) for n in (5, 5, 7))
    byol = moco = 0.0
    for i in range(5):
        cosine = [float(target[i] @ target[j]) for j in range(5) if j != i]
        label = labels_by_hand(cosine, i, kind=kind, k=2)
        byol += 2 - 2 * sum(w * float(q[i] @ target[j]) for j, w in enumerate(label))
        label = labels_by_hand([float(target[i] @ m) for m in bank], 0, kind=kind, k=2)
        logits = torch.stack([q[i] @ m for m in [target[i], *bank]]) / 0.1
        moco -= float(torch.tensor(label, dtype=torch.float64) @ torch.log_softmax(logits, 0))
    found, parts = soft_byol(q=3 * q, target=2 * target, neighbours=2, kind=kind)
    assert found.item() == pytest.approx(byol / 5, abs=1e-12)
    assert 0 < parts["own"] < 1
    padded, valid = torch.cat([bank, torch.zeros(2, 4)]), torch.arange(9) < 7
    found, _ = soft_info_nce(q=3 * q, target=2 * target, bank=padded, candidates=valid, neighbours=2, kind=kind)
    assert found.item() == pytest.approx(moco / 5, abs=1e-12)


@pytest.mark.parametrize("kind", ["soft", "ahcl"])
def test_uniform_similarities_give_exactly_byol_and_moco(kind):
    q, target = torch.randn(6, 8), torch.eye(6, 8)
    bank = torch.eye(8)[6:]
    loss, parts = soft_byol(q=q, target=target, neighbours=5, kind=kind)
    assert parts["confidence"] < 1e-6
    torch.testing.assert_close(loss, normalized_mse(q=q, target=target).mean())
    loss, parts = soft_info_nce(q=q, target=target, bank=bank, neighbours=5, kind=kind)
    assert parts["confidence"] < 1e-6
    unit = F.normalize(q, dim=1)
    logits = torch.cat([(unit * target).sum(1, keepdim=True), unit @ bank.T], 1) / 0.1
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64)))
    torch.testing.assert_close(soft_info_nce(q=q, target=target, bank=bank, neighbours=0)[0], loss)


def test_a_single_alike_neighbour_weighs_k_capped_at_one():
    similarity = torch.tensor([[0.0, 1.0, 0.0, -1.0]])
    for k, expected in ((1, 1.0), (5, 1.0)):
        weight, confidence = neighbour_weights(similarity, neighbours=k, temperature=0.01)
        torch.testing.assert_close(confidence, torch.ones(1))
        torch.testing.assert_close(weight, torch.tensor([[0.0, expected, 0.0, 0.0]]))
    weight, _ = neighbour_weights(torch.tensor([[0.0, 0.05, 0.0]]), neighbours=1)
    assert 0 < weight[0, 1] < 1
    # Twins in a batch share their label equally between both targets.
    target = torch.eye(4)[[0, 0, 1, 2]]
    _, parts = soft_byol(q=target, target=target, temperature=0.01)
    assert parts["own"].item() == pytest.approx((0.5 + 0.5 + 1 + 1) / 4, abs=1e-4)


def test_few_candidates_are_no_evidence():
    for allowed in ([False, False], [True, False]):
        for kind, expected in (("soft", 0.0), ("ahcl", 0.0), ("hard", float(sum(allowed)))):
            weight, confidence = neighbour_weights(
                torch.zeros(1, 2), candidates=torch.tensor(allowed), kind=kind, neighbours=3
            )
            assert weight.sum() == expected
            assert confidence == 0
    q = torch.randn(3, 2, requires_grad=True)
    bank = torch.zeros(4, 2)
    loss, _ = soft_info_nce(q=q, target=torch.randn(3, 2), bank=bank, candidates=torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert torch.equal(q.grad, torch.zeros(3, 2))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="kind"):
        neighbour_weights(torch.zeros(1, 2), kind="softer")
    with pytest.raises(ValueError, match="neighbours"):
        neighbour_weights(torch.zeros(1, 2), neighbours=-1)


def test_contrast_with_targets_equals_a_loop():
    q, target, positive = (F.normalize(torch.randn(5, 4).double(), dim=1) for _ in range(3))
    rows = torch.tensor([True, False, True, True, False])
    for chosen in (None, positive):
        expected = 0.0
        for i in range(5):
            own = (target if chosen is None else chosen)[i]
            logits = [float(q[i] @ own)] + [float(q[i] @ target[j]) for j in range(5) if j != i]
            value = math.log(sum(math.exp(s / 0.2) for s in logits)) - logits[0] / 0.2
            expected += value * float(rows[i]) / 5
        found, _ = contrast_targets(q=q, target=target, positive=chosen, rows=rows)
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    q, target = torch.randn(4, 8).bfloat16().requires_grad_(), torch.randn(4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            soft_byol(q=q, target=target)[0],
            soft_info_nce(q=q, target=target, bank=torch.randn(6, 8))[0],
            contrast_targets(q=q, target=target)[0],
        ]
    assert all(loss.dtype == torch.float32 for loss in losses)
    torch.testing.assert_close(losses[0], soft_byol(q=q.float(), target=target.float())[0])
    sum(losses).backward()
    assert torch.isfinite(q.grad).all()
