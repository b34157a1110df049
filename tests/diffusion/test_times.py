"""Low-discrepancy quantiles: one to a stratum, across processes and micro-batches too (spec 12.9)."""

import pytest
import torch
from scipy import stats

from byol_ext.diffusion.times import TokenContext, radical_inverse, stratified_quantiles
from byol_ext.rng import sample_keys


def batch(ids, length=4):
    return {"tokens": torch.zeros(len(ids), length, dtype=torch.int64), "id": torch.tensor(ids), "epoch": 2}


def strata(u_B):
    return (u_B.double() * len(u_B)).sort().values.floor().tolist()


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999999999])
@pytest.mark.parametrize("total", [1, 7, 64])
def test_one_quantile_to_a_stratum(offset, total):
    u = stratified_quantiles(offset, torch.arange(total), total)
    assert u.dtype == torch.float32
    assert ((u >= 0) & (u < 1)).all()
    first = (u.double() * total).sort().values
    torch.testing.assert_close(first.diff(), torch.ones(total - 1, dtype=torch.float64), rtol=0, atol=1e-4)


def test_processes_share_the_strata_of_one_batch():
    whole = TokenContext(seed=5, rank=0, world_size=1)(batch(range(12)), 3)[1].data["u"]
    parts = [
        TokenContext(seed=5, rank=r, world_size=3)(batch(range(4 * r, 4 * r + 4)), 3)[1].data["u"] for r in range(3)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)
    assert strata(whole) == list(range(12))


@pytest.mark.parametrize("micro", [2, 4])
def test_micro_batches_of_a_window_fill_the_strata(micro):
    prepare = TokenContext(seed=1)
    for step in (0, 1):
        u = torch.cat([prepare(batch(range(8)), step)[1].data["u"] for _ in range(micro)]).double().sort().values
        torch.testing.assert_close(u.diff(), torch.full_like(u[1:], 1 / len(u)), rtol=0, atol=1e-6)


def test_offsets_are_uniform_over_steps_and_repeat():
    prepare = TokenContext(seed=0)
    offsets = [prepare(batch([0]), step)[1].data["u"].item() for step in range(400)]
    assert stats.kstest(offsets, "uniform").pvalue > 1e-3
    again = TokenContext(seed=0)
    assert [again(batch([0]), step)[1].data["u"].item() for step in (7, 399)] == [offsets[7], offsets[399]]
    assert TokenContext(seed=1)(batch([0]), 7)[1].data["u"].item() != offsets[7]


def test_keys_are_those_of_seed_epoch_and_id():
    views, ctx = TokenContext(seed=9)(batch([4, 1]), 0)
    assert torch.equal(ctx.data["keys"], sample_keys(9, 2, torch.tensor([4, 1])))
    assert views["tokens"].shape == (2, 4)


def test_radical_inverse_fills_dyadic_gaps():
    assert sorted(radical_inverse(n) for n in range(8)) == [n / 8 for n in range(8)]


def test_bad_batches_are_named():
    with pytest.raises(ValueError, match=r"id \[B\]"):
        TokenContext(seed=0)({"tokens": torch.zeros(2, 3, dtype=torch.int64), "id": torch.arange(3), "epoch": 0}, 0)
    with pytest.raises(ValueError, match="total=0"):
        stratified_quantiles(0.0, torch.arange(0), 0)
