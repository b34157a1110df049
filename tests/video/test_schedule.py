"""The schedule against its table, its exact frequencies, and a graph that runs it."""

import itertools
import random
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch, Target
from byol_ext.predictors import mlp_predictor
from byol_ext.video.schedule import DerivativeSchedule

STEPS = 4000
TABLE = {
    0: ((1, 1), (2, 2)),
    1: ((0, 1), (1, 2)),
    2: ((1, 0), (2, 1)),
    3: ((0, 0), (1, 1)),
}
"""Orders of the two clips by phase, for h = 0 and h = 1."""
FREQUENCIES = {frozenset({0}): 1 / 8, frozenset({1}): 1 / 4, frozenset({2}): 1 / 8, frozenset({0, 1}): 1 / 4}
FREQUENCIES[frozenset({1, 2})] = 1 / 4


def within(count: int, p: float, n: int = STEPS) -> bool:
    """Whether a count lies within four standard deviations of a binomial's mean."""
    return abs(count - n * p) <= 4 * (n * p * (1 - p)) ** 0.5


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("coin", [0, 1])
def test_table(phase, coin):
    schedule = DerivativeSchedule(period="step", phases=(phase,), p_double=float(coin))
    assert {schedule.orders(step) for step in range(20)} == {TABLE[phase][coin]}


def test_frequencies_of_the_rule_are_exact():
    counts: Counter = Counter()
    for phase, p_double in itertools.product(range(4), (0.0, 1.0)):
        schedule = DerivativeSchedule(period="step", phases=(phase,), p_double=p_double)
        counts[frozenset(schedule.orders(0))] += Fraction(1, 8)
    assert counts == FREQUENCIES


@pytest.mark.parametrize("seed", [0, 1, 233])
@pytest.mark.parametrize("period", ["step", "epoch", "pass"])
def test_frequencies_over_many_steps(seed, period):
    schedule = DerivativeSchedule(seed, period=period, steps_per_epoch=10)
    orders = [schedule.orders(step) for step in range(STEPS)]
    pairs = Counter(frozenset(pair) for pair in orders)
    assert set(pairs) == set(FREQUENCIES)
    for pair, p in FREQUENCIES.items():
        assert within(pairs[pair], p)
    for clip in range(2):
        seen = Counter(pair[clip] for pair in orders)
        assert all(within(seen[order], p) for order, p in ((0, 1 / 4), (1, 1 / 2), (2, 1 / 4)))


@pytest.mark.parametrize("p_double", [0.5, 0.2])
def test_the_coin_is_fair_in_every_phase_and_has_no_memory(p_double):
    schedule = DerivativeSchedule(period="step", p_double=p_double)
    coins = [schedule.orders(step) == TABLE[step % 4][1] for step in range(STEPS)]
    for phase in range(4):
        assert within(sum(coins[phase::4]), p_double, STEPS // 4)
    both = sum(a and b for a, b in itertools.pairwise(coins))
    assert within(both, p_double**2)


@pytest.mark.parametrize("phases", [(0, 1, 2, 3), (3, 1, 2, 0)])
@pytest.mark.parametrize("period", ["epoch", "pass"])
def test_the_phase_changes_after_each_pass(period, phases):
    schedule = DerivativeSchedule(period=period, steps_per_epoch=9, phases=phases, p_double=0.0)
    for step in range(2 * 4 * 9):
        assert schedule.orders(step) == TABLE[phases[step // 9 % 4]][0]
    assert schedule.cycle_steps == 36


def test_orders_depend_on_seed_and_step_alone():
    schedule = DerivativeSchedule(7, period="step")
    forward = [schedule.orders(step) for step in range(200)]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    resumed = DerivativeSchedule(7, period="step")
    assert [resumed.orders(step) for step in reversed(range(200))] == forward[::-1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [DerivativeSchedule(8, period="step").orders(step) for step in range(200)] != forward


def test_base_never_differences():
    schedule = DerivativeSchedule.base()
    assert {schedule.orders(step) for step in range(100)} == {(0, 0)}
    assert (schedule.max_order, schedule.cycle_steps) == (0, 1)


def test_ablations():
    fixed = Counter(DerivativeSchedule.fixed_pair().orders(step) for step in range(STEPS))
    assert set(fixed) == {(0, 1), (1, 2)}
    assert within(fixed[0, 1], 0.5)
    drawn = Counter(DerivativeSchedule.random_pairs().orders(step) for step in range(STEPS))
    assert set(drawn) == set(itertools.product(range(3), repeat=2))
    assert all(within(count, 1 / 9) for count in drawn.values())
    first_order = DerivativeSchedule(period="step", p_double=0.0)
    assert {first_order.orders(step) for step in range(40)} == {(1, 1), (0, 1), (1, 0), (0, 0)}
    assert (first_order.max_order, DerivativeSchedule(period="step").max_order) == (1, 2)
    assert DerivativeSchedule(period="step", phases=(3,)).max_order == 1
    assert DerivativeSchedule.random_pairs().max_order == 2


def test_macro_steps_are_the_staircase_of_four_passes():
    schedule = DerivativeSchedule(period="pass", steps_per_epoch=8)
    counts = [schedule.macro_step(step) for step in range(3 * 4 * 8)]
    assert counts == [8 * macro + step for macro in range(3) for _ in range(4) for step in range(8)]
    with pytest.raises(ValueError, match="pass"):
        DerivativeSchedule(period="epoch", steps_per_epoch=8).macro_step(0)


def test_short_epochs_warn():
    with pytest.warns(UserWarning, match="an epoch has 7 steps"):
        DerivativeSchedule(steps_per_epoch=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DerivativeSchedule(steps_per_epoch=8)
        DerivativeSchedule(period="step", steps_per_epoch=7)
        DerivativeSchedule(steps_per_epoch=7, p_double=0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "steps_per_epoch"),
        ({"period": "pass", "steps_per_epoch": 0}, "steps_per_epoch"),
        ({"period": "batch"}, "period"),
        ({"period": "step", "pairs": "some"}, "pairs"),
        ({"period": "step", "phases": (0, 4)}, "phases"),
        ({"period": "step", "phases": ()}, "phases"),
        ({"period": "step", "p_double": 1.5}, "p_double"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DerivativeSchedule(**arguments)


def test_a_graph_runs_the_plan_and_names_its_terms_by_the_orders():
    schedule = DerivativeSchedule(period="step")
    branches = {"video": Branch(nn.Linear(4, 4), nn.Linear(4, 3))}
    model = Bootstrap(
        branches,
        {"first": "video", "second": "video"},
        target=Target(branches),
        predictors={"video": mlp_predictor(3, 8)},
        plan=schedule.plan("video"),
    )
    views = {"first": torch.randn(4, 4), "second": torch.randn(4, 4)}
    for step in range(16):
        first, second = schedule.orders(step)
        out = model(views, step=step)
        names = {f"first.d{first}->second.d{second}", f"second.d{second}->first.d{first}"}
        assert set(out.terms) == names
        torch.testing.assert_close(out.loss, sum(out.terms.values()))
