"""Segments: tail, selection and the way to batch-major and back."""

import dataclasses

import pytest
import torch

from byol_ext.rl.segment import Segment


def make(*, rows: int = 7, batch: int = 5, context: int = 2) -> Segment:
    """Every tensor holds other numbers, and ``row`` and ``env`` say where an element came from."""
    ramp = torch.arange(rows)[:, None] * 100 + torch.arange(batch)
    more = torch.arange(rows + 1)[:, None] * 100 + torch.arange(batch)
    return Segment(
        obs=torch.randint(256, (rows + 1, batch, 1, 3, 2), dtype=torch.uint8),
        first=torch.rand(rows + 1, batch) < 0.3,
        prev_action=more + 1,
        action=ramp + 2,
        reward=ramp + 0.25,
        terminated=torch.rand(rows, batch) < 0.3,
        truncated=torch.rand(rows, batch) < 0.3,
        real=torch.rand(rows, batch) < 0.8,
        log_prob=-ramp.float(),
        state=torch.arange(batch).float()[:, None].expand(batch, 4),
        context=context,
        memory={"filter": torch.arange(batch).float(), "tail": torch.randn(batch, 3, 2)},
        info={"cell": ramp + 9, "tracker_hits": torch.randn(rows, batch, 4)},
    )


def assert_same(a: Segment, b: Segment) -> None:
    for item in dataclasses.fields(Segment):
        mine, other = getattr(a, item.name), getattr(b, item.name)
        if isinstance(mine, dict):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[key], other[key]) for key in mine), item.name
        elif isinstance(mine, torch.Tensor):
            assert torch.equal(mine, other), item.name
        else:
            assert mine == other, item.name


def test_sizes_and_tail():
    segment = make()
    assert (segment.steps, segment.batch) == (5, 5)
    assert torch.equal(segment.tail(segment.action), segment.action[2:])
    assert torch.equal(make(context=0).tail(segment.action), segment.action)


def test_batch_major_and_back():
    segment = make()
    batch = segment.batch_major()
    tensors = [v for v in batch.values() if isinstance(v, torch.Tensor)]
    tensors += [v for part in (batch["memory"], batch["info"]) for v in part.values()]
    assert all(len(x) == segment.batch for x in tensors)
    assert batch["obs"].data_ptr() == segment.obs.data_ptr(), "views, no copies"
    assert "context" not in batch
    assert_same(Segment.from_batch(batch | {"advantage": torch.zeros(5, 5)}, context=2), segment)


@pytest.mark.parametrize("chosen", [torch.tensor([3, 0]), torch.tensor([False, True, True, False, True])])
def test_select_takes_the_same_environments_everywhere(chosen):
    segment = make()
    some = segment.select(chosen)
    picked = torch.arange(5)[chosen]
    assert some.batch == len(picked)
    assert some.context == 2
    assert torch.equal(some.action[0] - 2, picked)
    assert torch.equal(some.memory["filter"], picked.float())
    assert torch.equal(some.state[:, 0], picked.float())
    assert torch.equal(some.obs, segment.obs[:, picked])
    assert torch.equal(some.info["cell"][3] - 309, picked)


def test_select_commutes_with_batch_major():
    segment, chosen = make(), torch.tensor([4, 1, 2])
    rows = {
        key: {k: v[chosen] for k, v in value.items()} if isinstance(value, dict) else value[chosen]
        for key, value in segment.batch_major().items()
    }
    assert_same(Segment.from_batch(rows, context=2), segment.select(chosen))


def test_parts_put_together_are_the_whole():
    segment = make()
    parts = [segment.select(torch.tensor(part)) for part in ([0, 1, 2], [3, 4])]
    for name in ("obs", "prev_action", "reward", "first"):
        joined = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert torch.equal(joined, getattr(segment, name))


def test_to_device_and_frozen():
    segment = make()
    assert_same(segment.to("cpu"), segment)
    with pytest.raises(dataclasses.FrozenInstanceError):
        segment.context = 3
