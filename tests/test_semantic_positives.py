"""SemPPL: votes, draws, and the loss with and without a queue (core-ssl 9)."""

import pytest
import torch
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch, Ctx
from byol_ext.graph import SetTerm
from byol_ext.losses.soft_targets import contrast_targets
from byol_ext.predictors import linear_predictor
from byol_ext.queue import Queue
from byol_ext.rng import keyed_uniform, sample_keys
from byol_ext.semantic_positives import draw_positives, pseudo_labels, semppl
from byol_ext.target import Target


def filled(latents: torch.Tensor, labels: torch.Tensor, size: int = 40) -> Queue:
    queue = Queue(size, latents.shape[1])
    queue.push(latents, labels)
    return queue


def test_an_exact_neighbourhood_gives_positives_of_the_same_class():
    centres = 4 * torch.eye(5)
    label = torch.arange(5).repeat(6)
    queue = filled(centres[label] + 0.1 * torch.randn(30, 5), label)
    mine = torch.arange(5).repeat(8)
    views = centres[mine] + 0.1 * torch.randn(3, 40, 5)
    guess, agreement = pseudo_labels(views, queue, neighbours=4)
    assert torch.equal(guess, mine)
    assert torch.equal(agreement, torch.ones(40))
    draw = keyed_uniform(sample_keys(0, 0, torch.arange(40)), 3)
    slot, found = draw_positives(guess, queue, draw)
    assert found.all()
    assert torch.equal(queue.labels[slot], mine[:, None].expand(40, 3))


def test_votes_equal_a_loop():
    queue = filled(torch.randn(30, 3), torch.randint(-1, 4, (30,)))
    views = torch.randn(3, 20, 3)
    guess, agreement = pseudo_labels(views, queue, neighbours=2)
    cosine = torch.cosine_similarity(views[:, :, None], queue.latents[:30], dim=-1)
    for i in range(20):
        votes: dict[int, list[float]] = {}
        for v in range(3):
            ranked = sorted((-float(cosine[v, i, n]), int(queue.labels[n])) for n in range(30) if queue.labels[n] >= 0)
            for distance, label in ranked[:2]:
                votes.setdefault(label, []).append(-distance)
        best = max(votes, key=lambda label: (len(votes[label]), sum(votes[label])))
        assert guess[i] == best
        assert agreement[i].item() == pytest.approx(len(votes[best]) / 6)


def test_votes_count_before_cosines_and_cosines_decide_ties():
    queue = filled(torch.eye(3)[:2], torch.tensor([3, 5]))
    near, far = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.1, 0.2, 1.0])
    assert pseudo_labels(torch.stack([near, far, far])[:, None], queue)[0].tolist() == [5]
    assert pseudo_labels(torch.stack([far, near])[:, None], queue)[0].tolist() == [3]


def test_positives_are_uniform_over_the_class_and_unknown_rows_find_none():
    labels = torch.tensor([2, 0, 2, 1, 2])
    queue = filled(torch.randn(5, 2), labels, size=8)
    grid = (torch.arange(300) + 0.5) / 300
    slot, found = draw_positives(torch.tensor([2, 1, -1, 7]), queue, grid.expand(4, 300))
    assert found.tolist() == [True, True, False, False]
    assert slot[0].bincount().tolist() == [100, 0, 100, 0, 100]
    assert set(slot[1].tolist()) == {3}
    assert int(draw_positives(torch.tensor([2]), queue, torch.tensor([[1 - 2.0**-24]]))[0]) == 4
    assert pseudo_labels(torch.randn(2, 3, 2), Queue(4, 2))[0].tolist() == [-1, -1, -1]
    unlabelled = filled(torch.randn(4, 2), torch.full((4,), -1))
    assert pseudo_labels(torch.randn(2, 3, 2), unlabelled)[0].tolist() == [-1, -1, -1]


def test_an_empty_queue_gives_the_base_loss_and_then_labelled_rows_enter():
    z = torch.randn(6, 4, 5, requires_grad=True)
    label, draw, queue = torch.tensor([1, -1, 0, -1]), torch.rand(4, 3), Queue(9, 5)
    loss, parts = semppl(z, label=label, draw=draw, queue=queue)
    pairs = [contrast_targets(q=z[u], target=z[3 + v])[0] for u in range(3) for v in range(3) if u != v]
    torch.testing.assert_close(loss, sum(pairs) / 6)
    assert parts["found"] == 0
    assert parts["semantic"] == 0
    loss.backward()
    assert torch.isfinite(z.grad).all()
    queue.commit()
    rows, labels = queue.rows()
    assert labels.tolist() == [1, 0] * 3
    torch.testing.assert_close(rows, z[3:, [0, 2]].flatten(0, 1).detach())

    loss, parts = semppl(z, label=label, draw=draw, queue=queue, semantic_weight=0.5)
    slot, found = draw_positives(torch.where(label >= 0, label, pseudo_labels(z[3:], queue)[0]), queue, draw)
    assert found.all()
    assert queue.labels[slot[0]].tolist() == [1, 1, 1]
    pull = [
        contrast_targets(q=z[u], target=z[3 + (u + 1) % 3], positive=queue.latents[slot[:, u]])[0] for u in range(3)
    ]
    torch.testing.assert_close(loss, sum(pairs) / 6 + 0.5 * sum(pull) / 3)
    assert parts["found"] == 1


def test_bad_shapes_are_refused():
    label, queue = torch.zeros(4, dtype=torch.int64), Queue(4, 5)
    for count in (2, 5):
        with pytest.raises(ValueError, match="V >= 2 predictions"):
            semppl(torch.randn(count, 4, 5), label=label, draw=torch.rand(4, 2), queue=queue)
    with pytest.raises(ValueError, match="draw"):
        semppl(torch.randn(4, 4, 5), label=label, draw=torch.rand(4), queue=queue)
    with pytest.raises(ValueError, match="neighbours"):
        pseudo_labels(torch.randn(2, 4, 5), queue, neighbours=0)


def test_it_is_a_set_term_of_a_bootstrap():
    branches = {"image": Branch(nn.Linear(6, 5))}
    term = SetTerm(
        "semppl",
        ["a", "b", "a", "b"],
        semppl,
        on=["q", "q", "target", "target"],
        predictor=["p", "p", None, None],
        data=["label", "draw"],
        scale=Queue(12, 5),
    )
    model = Bootstrap(
        branches,
        {"a": "image", "b": "image"},
        target=Target(branches, tau=0.5),
        predictors={"p": linear_predictor(5)},
        set_terms=[term],
    )
    label = torch.tensor([0, 1, -1, 0])
    ctx = Ctx(data={"label": label, "draw": torch.rand(4, 2)})
    x = torch.randn(4, 6)
    for k in range(2):
        out = model({"a": x, "b": x + 0.1}, ctx, k)
        assert out.terms["semppl/found"] == float(k)
        out.loss.backward()
        model.after_step(k)
    assert int(term.scale.pushed) == 12
    assert all(parameter.grad is None for parameter in model.target.parameters())
    assert model.couples_samples
