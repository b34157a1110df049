"""The ring buffer, alone and as the state of a set term."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch, Ctx
from byol_ext.graph import SetTerm
from byol_ext.losses.soft_targets import soft_info_nce
from byol_ext.queue import Queue, queued
from byol_ext.target import Target


@pytest.mark.parametrize("sizes", [[3, 3, 3], [1, 4, 2], [9], [5, 7], [2]])
def test_it_holds_the_newest_rows_as_a_list_would(sizes):
    queue, rows, labels = Queue(5, 2), [], []
    for start, size in enumerate(sizes):
        latents, label = torch.randn(size, 2), torch.arange(size) + 10 * start
        queue.push(latents, label)
        rows, labels = [*rows, *latents], [*labels, *label]
        kept, kept_labels = queue.rows()
        torch.testing.assert_close(kept, torch.stack(rows[-5:]))
        torch.testing.assert_close(kept_labels, torch.stack(labels[-5:]))
        assert queue.valid.tolist() == [i < len(rows) for i in range(5)]


def test_rows_enter_at_commit_and_a_skipped_step_leaves_none():
    queue = Queue(8, 2)
    queue.stage(torch.zeros(3, 2))
    queue.stage(torch.ones(2, 2, requires_grad=True), torch.tensor([4, -1]))
    assert int(queue.pushed) == 0
    queue.commit()
    queue.commit()
    assert torch.equal(queue.rows()[0], torch.ones(2, 2))
    queue.stage(torch.zeros(3, 2), torch.tensor([-1, 2, -1]), labelled_only=True)
    queue.commit()
    assert queue.rows()[1].tolist() == [4, -1, 2]
    queue.eval().stage(torch.zeros(3, 2))
    queue.commit()
    assert int(queue.pushed) == 3


def test_shapes_are_checked():
    queue = Queue(4, 2)
    with pytest.raises(ValueError, match="rows \\[B, 2\\]"):
        queue.push(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="as many labels"):
        queue.stage(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="positive"):
        Queue(0, 2)


def moco() -> Bootstrap:
    torch.manual_seed(3)
    branches = {"image": Branch(nn.Linear(6, 4))}
    term = SetTerm(
        "ascl",
        ["a", "b"],
        queued(partial(soft_info_nce, neighbours=2)),
        keys=["q", "target"],
        on=["z", "target"],
        data=["label"],
        scale=Queue(8, 4),
    )
    return Bootstrap(branches, {"a": "image", "b": "image"}, target=Target(branches, tau=0.9), set_terms=[term])


def step(model: Bootstrap, optimizer: torch.optim.Optimizer, k: int, *, taken: bool = True) -> float:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(k))
    out = model({"a": x, "b": x + 0.1}, Ctx(data={"label": torch.arange(3) + k}), k)
    optimizer.zero_grad()
    out.loss.backward()
    if taken:
        optimizer.step()
        model.after_step(k)
    return out.loss.item()


def test_a_bootstrap_saves_and_commits_it():
    model = moco()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert step(model, optimizer, 0) == 0.0
    assert step(model, optimizer, 9, taken=False) > 0.0
    losses = [step(model, optimizer, k) for k in (1, 2)]
    assert min(losses) > 0.0
    queue = model.set_terms[0].scale
    assert queue.rows()[1].tolist() == [1, 2, 1, 2, 3, 2, 3, 4]
    assert not queue.latents.requires_grad

    resumed = moco()
    resumed.load_state_dict(model.state_dict())
    again = torch.optim.SGD(resumed.parameters(), lr=0.1)
    assert step(resumed, again, 3) == step(model, optimizer, 3)
    clone = copy.deepcopy(model)
    step(clone, torch.optim.SGD(clone.parameters(), lr=0.1), 4)
    assert int(clone.set_terms[0].scale.pushed) == int(queue.pushed) + 3
