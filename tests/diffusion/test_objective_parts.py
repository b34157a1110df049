"""Pieces of the objectives: what the warp is fitted to, who sees a first prediction."""

import copy

import torch

from byol_ext.diffusion.objective_parts import SeenLosses, self_conditioned_rows
from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp
from byol_ext.diffusion.warp_fit import FittedWarp
from byol_ext.rng import sample_keys

T, CE = torch.tensor([1.0, 3.0]), torch.tensor([0.2, 0.8], requires_grad=True)


def test_losses_of_one_step_are_fitted_together_and_once():
    warp, seen = FittedWarp(PiecewiseLinearWarp(0.5, 8.0, bins=5)), SeenLosses()
    twin = copy.deepcopy(warp)
    seen.add(0, t_B=T, cross_entropy_B=CE)  # step 0 is skipped
    for shift in (0.0, 1.0):
        seen.add(1, t_B=T + shift, cross_entropy_B=CE + shift)
    values = seen.fit(warp, 1)
    expected = twin.fit(1, t_B=torch.cat([T, T + 1]), cross_entropy_B=torch.cat([CE, CE + 1]).detach())
    assert values == expected
    assert seen.fit(warp, 1) == {}


def test_nothing_is_fitted_to_a_step_that_was_not_taken_or_by_a_fixed_warp():
    warp, seen = FittedWarp(PiecewiseLinearWarp(0.5, 8.0, bins=5)), SeenLosses()
    seen.add(0, t_B=T, cross_entropy_B=CE)
    assert seen.fit(warp, 1) == {}
    seen.add(2, t_B=T, cross_entropy_B=CE)
    assert seen.fit(LogUniformWarp(0.5, 8.0), 2) == {}


def test_one_row_of_each_pair_and_both_as_often():
    chosen = torch.zeros(2000)
    chosen[self_conditioned_rows(sample_keys(0, 0, torch.arange(2000)))] = 1.0
    assert (chosen.view(-1, 2).sum(1) == 1).all()
    assert abs(chosen[::2].mean() - 0.5) < 4 * 0.5 / 1000**0.5
    assert all(len(self_conditioned_rows(sample_keys(seed, 0, torch.arange(1)))) <= 1 for seed in range(4))
