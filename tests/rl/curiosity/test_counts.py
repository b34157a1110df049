"""Visit counts against a dictionary."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import curiosity_rollouts as rollouts
import pytest
import torch

from byol_ext.rl.curiosity.counts import CountBonus, NoBonus


def test_counts_equal_a_dictionary() -> None:
    bonus, seen = CountBonus(), Counter()
    segment = rollouts.rollout(60, 3)
    segment = replace(segment, info={"cell": segment.info["cell"] - 5 * 2**40})
    for start in range(0, 60, 12):
        part = rollouts.cut(segment, start, start + 12)
        cells = part.info["cell"]
        seen.update(cells[part.real].tolist())
        reward = bonus.reward(part)
        for t in range(12):
            for b in range(3):
                expected = seen[int(cells[t, b])] ** -0.5 if part.real[t, b] else 0.0
                assert float(reward.scaled[t, b]) == pytest.approx(expected)
    assert int(reward.terms["cells"]) == len(seen)
    assert bonus.visits_of(torch.tensor([[-1, 0]])).tolist() == [[0, seen[0]]]


def test_context_is_not_counted_again() -> None:
    segment, bonus = rollouts.rollout(20, 3), CountBonus()
    bonus.reward(rollouts.cut(segment, 0, 10))
    bonus.reward(rollouts.cut(segment, 10, 20, context=6))
    assert int(bonus.visits.sum()) == int(segment.real.sum())


def test_unknown_cells_pay_one_without_update() -> None:
    segment, bonus = rollouts.rollout(5, 2), CountBonus()
    assert torch.equal(bonus.reward(segment, update=False).scaled, segment.real.float())
    assert len(bonus.cells) == 0


def test_state_holds_the_table_whatever_its_size() -> None:
    bonus, fresh = CountBonus(), CountBonus()
    fresh.load_state_dict(bonus.state_dict())
    bonus.reward(rollouts.rollout(20, 3))
    state = bonus.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    fresh.load_state_dict(state)
    assert torch.equal(fresh.cells, bonus.cells)
    assert torch.equal(fresh.visits, bonus.visits)


def test_missing_cells_are_named() -> None:
    segment = replace(rollouts.rollout(4, 2), info={"room": torch.zeros(4, 2)})
    with pytest.raises(KeyError, match=r"info\['cell'\].*room"):
        CountBonus().reward(segment)


@pytest.mark.parametrize("bonus", [CountBonus(), NoBonus()])
def test_losses_are_zero_and_can_be_differentiated(bonus: CountBonus | NoBonus) -> None:
    segment = rollouts.rollout(4, 2)
    weight = torch.ones((), requires_grad=True)
    total = bonus.loss(segment).total
    (weight * 2 + total).backward()
    assert total.item() == 0
    assert weight.grad.item() == 2
    bonus.loss(segment).total.backward()


def test_no_bonus_pays_nothing() -> None:
    reward = NoBonus().reward(rollouts.cut(rollouts.rollout(9, 2), 4, 9, context=2))
    assert reward.scaled.shape == (5, 2)
    assert not reward.scaled.any()
