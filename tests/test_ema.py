"""EMA details: groups, ties, name matching, standing alone (core-ssl 2)."""

import copy

import pytest
import torch
from torch import nn

from byol_ext.ema import EMA
from byol_ext.schedules import linear


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_equals_a_loop_over_parameters():
    source = net()
    average = EMA(source, 0.7)
    reference = copy.deepcopy(average.module)
    for step in range(5):
        with torch.no_grad():
            for p in source.parameters():
                p.add_(torch.randn_like(p))
            for r, p in zip(reference.parameters(), source.parameters(), strict=True):
                r.mul_(0.7).add_(p, alpha=0.3)
        average.update(step)
    for r, a in zip(reference.parameters(), average.module.parameters(), strict=True):
        torch.testing.assert_close(r, a)


def test_schedule_and_groups():
    source = net()
    average = EMA(source, linear(0.0, 1.0, 10), groups={"2.": 0.0})
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1.0)
    assert average.update(10) == 1.0
    moved = dict(average.module.named_parameters())
    for name, p in source.named_parameters():
        difference = (p - moved[name]).abs().max()
        assert torch.isclose(difference, torch.tensor(0.0 if name.startswith("2.") else 1.0))


def test_tied_parameters_update_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    source = Tied()
    average = EMA(source, 0.5)
    assert average.module.a.weight is average.module.b.weight
    start = average.module.a.weight.clone()
    with torch.no_grad():
        source.a.weight.add_(1.0)
    average.update(0)
    torch.testing.assert_close(average.module.a.weight, start + 0.5)


def test_deep_copy_follows_its_own_source():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 2)
            self.ema = EMA(self.net, 0.0)

    model = Model()
    model.ema.update(0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.net.weight.fill_(5.0)
    twin.ema.update(1)
    assert (twin.ema.module.weight == 5).all()
    assert not (model.ema.module.weight == 5).any()


def test_moves_with_its_owner_after_an_update():
    source = nn.Linear(2, 2)
    average = EMA(source, 0.5)
    average.update(0)
    source.double()
    average.double()
    with torch.no_grad():
        source.weight.zero_()
    before = average.module.weight.clone()
    average.update(1)
    torch.testing.assert_close(average.module.weight, before / 2)


def test_errors():
    source = net()
    with pytest.raises(ValueError, match="matches no parameter"):
        EMA(source, 0.9, groups={"nope": 0.5})
    with pytest.raises(ValueError, match="buffers='sync'"):
        EMA(source, 0.9, buffers="sync")
    with pytest.raises(ValueError, match="outside"):
        EMA(source, 1.5).update(0)
    average = EMA(source, 0.9)
    source.append(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="differ by name"):
        average.update(0)
    average = EMA(net(), 0.9)
    average._source[0][2] = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="shape"):
        average.update(0)


def test_follows_parameters_that_were_replaced():
    source = nn.Linear(2, 2)
    average = EMA(source, 0.0)
    average.update(0)
    source.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, assign=True)
    average.update(1)
    assert torch.equal(average.module.weight, torch.ones(2, 2))


def test_an_average_on_its_own_copies_buffers():
    source = nn.BatchNorm1d(4)
    average = EMA(source, 0.9)
    source(torch.randn(8, 4))
    average.update(0)
    assert torch.equal(average.module.running_mean, source.running_mean)
