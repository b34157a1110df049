"""The active loop: what follows from answers, which questions are asked, and how few suffice."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from byol_ext.active_pairs import (
    Relations,
    active_round,
    disagreement,
    label_oracle,
    propose_pairs,
    random_pairs,
    uncertainty,
)
from byol_ext.losses.similarity_graph import label_graph, vic2

LABELS = torch.tensor([0, 1, 2]).repeat(8)
IDS = torch.arange(24)


def clusters() -> torch.Tensor:
    return 3 * F.one_hot(LABELS, 6).float() + 0.2 * torch.randn(24, 6)


def implied(answers, items):
    """Closure by brute force: same and different pairs, repeated until nothing changes."""
    same = {(i, i) for i in range(items)} | {p for (i, j), s in answers if s for p in ((i, j), (j, i))}
    apart = {p for (i, j), s in answers if not s for p in ((i, j), (j, i))}
    while True:
        more = {(i, k) for i, j in same for j2, k in same if j == j2}
        split = {p for i, j in same for j2, k in apart if j == j2 for p in ((i, k), (k, i))}
        if more <= same and split <= apart:
            return same, apart
        same, apart = same | more, apart | split


def test_answers_are_closed_under_what_follows():
    labels = torch.randint(3, (9,))
    pairs = torch.randint(9, (14, 2))
    relations = Relations(9)
    answers = []
    for pair in pairs:
        answer = label_oracle(labels)(pair[None])
        relations.answer(pair[None], answer)
        answers.append((tuple(pair.tolist()), bool(answer)))
        same, apart = implied(answers, 9)
        everything = torch.tensor(list(itertools.product(range(9), range(9))))
        expected = [tuple(p) in same or tuple(p) in apart for p in everything.tolist()]
        assert relations.known(everything).tolist() == expected
        ids = torch.arange(9)
        assert relations.matrix(ids).flatten().tolist() == [float(tuple(p) in same) for p in everything.tolist()]
        assert relations.apart(ids, ids).flatten().tolist() == [tuple(p) in apart for p in everything.tolist()]
    assert relations.contradictions == 0

    copy = Relations(9)
    copy.load_state_dict(relations.state_dict())
    assert torch.equal(copy.known(everything), relations.known(everything))
    copy.answer(torch.tensor([[0, 8]]), torch.tensor([True]))
    with pytest.raises(ValueError, match="of 9 samples"):
        Relations(4).load_state_dict(relations.state_dict())


def test_contradictions_are_counted_and_not_taken():
    relations = Relations(3)
    relations.answer(torch.tensor([[0, 1], [1, 2]]), torch.tensor([True, False]))
    before = relations.state_dict()
    relations.answer(torch.tensor([[0, 2], [1, 0]]), torch.tensor([True, False]))
    assert relations.contradictions == 2
    assert torch.equal(relations.state_dict()["component"], before["component"])
    for pairs, message in (([[0, 3]], "ids lie"), ([[-1, 0]], "ids lie"), ([0, 1], "pairs")):
        with pytest.raises(ValueError, match=message):
            relations.answer(torch.tensor(pairs), torch.tensor([True]))
    with pytest.raises(ValueError, match="as many answers"):
        relations.answer(torch.tensor([[0, 1]]), torch.tensor([True, True]))


def test_a_good_embedding_needs_the_fewest_possible_questions():
    relations, z = Relations(24), clusters()
    rounds = [active_round(z, IDS, relations, label_oracle(LABELS), 7) for _ in range(3)]
    assert [r["questions"] for r in rounds] == [7.0, 7.0, 7.0]
    # 24 samples in 3 classes: 21 joins, each a yes, and no question was wasted.
    assert [r["groups"] for r in rounds] == [17.0, 10.0, 3.0]
    assert all(r["same"] == 1.0 for r in rounds)
    assert torch.equal(relations.matrix(IDS), label_graph(LABELS))
    # Then the classes are told apart, and there is nothing more to ask.
    asked = 0.0
    while (report := active_round(z, IDS, relations, label_oracle(LABELS), 7))["questions"]:
        assert report["same"] == 0.0
        asked += report["questions"]
    assert asked == 3
    loss, _ = vic2((label_graph(LABELS) @ torch.eye(24)[:, :3] * 3**0.5)[None], graph=relations.matrix(IDS))
    assert loss < 1e-8

    blind = Relations(24)
    pairs = random_pairs(IDS, blind, 21, generator=torch.Generator().manual_seed(0))
    blind.answer(pairs, label_oracle(LABELS)(pairs))
    assert len(blind.component.unique()) > 10


def test_proposals_are_the_best_open_pairs():
    z = torch.randn(12, 4)
    ids = torch.randperm(40)[:12]
    cosine = torch.cosine_similarity(z[:, None], z[None], dim=-1)
    relations = Relations(40)
    relations.answer(ids[torch.tensor([[0, 1], [2, 3], [0, 2]])], torch.tensor([True, True, False]))
    for score in (disagreement, uncertainty(0.2)):
        # The answers settle all pairs of the first four.
        pairs = [(i, j) for i, j in itertools.combinations(range(12), 2) if j >= 4]
        best = max(pairs, key=lambda pair: float(score(cosine[pair])))
        assert propose_pairs(z, ids, relations, 1, score=score).tolist() == [ids[list(best)].tolist()]
        many = propose_pairs(z, ids, relations, 100, score=score, per_row=12)
        values = [float(score(cosine[ids.tolist().index(a), ids.tolist().index(b)])) for a, b in many.tolist()]
        assert values == sorted(values, reverse=True)
        assert not relations.known(many).any()
        # However the rows are cut, the questions are the same.
        assert torch.equal(many, propose_pairs(z, ids, relations, 100, score=score, per_row=12, chunk=5))
    with pytest.raises(ValueError, match="ids"):
        propose_pairs(z, ids[:3], relations, 1)
