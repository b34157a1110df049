"""Advantages against their definition written out, in float64."""

import numpy as np
import pytest
import torch

from byol_ext.rl.returns import explained_variance, gae, row_mean, suffix_scan


def episodes(steps: int, batch: int, seed: int = 0, ends: float = 0.3) -> dict[str, torch.Tensor]:
    """Ends of every kind in any row, as they come with auto-reset on the next step; row 0 may be a reset row."""
    torch.manual_seed(seed)
    terminated, truncated = torch.rand(2, steps, batch) < ends / 2
    real = torch.rand(steps, batch) >= ends
    for t in range(1, steps):
        real[t] = ~(real[t - 1] & (terminated | truncated)[t - 1])
    return {"terminated_TB": terminated & real, "truncated_TB": truncated & real, "real_TB": real}


def successor(real: np.ndarray, t: int, *, episodic: bool) -> int:
    """Row of the state that follows row ``t``: ``T`` at the end of the segment."""
    if episodic:
        return t + 1
    return next((s for s in range(t + 1, len(real)) if real[s]), len(real))


def gae_by_definition(rewards, values, masks, *, discount, trace, episodic) -> np.ndarray:
    """``A_t = sum_k (discount trace)^k delta_{s^k(t)}`` walked forwards from each row of each environment."""
    terminated, truncated, real = (x.numpy() for x in masks.values())
    r, v = rewards.double().numpy(), values.double().numpy()
    steps, batch = r.shape
    advantages = np.zeros((steps, batch))
    for b in range(batch):
        ended = terminated[:, b] | truncated[:, b]
        for start in range(steps):
            if not real[start, b]:
                continue
            t, weight = start, 1.0
            while t < steps and real[t, b]:
                s = successor(real[:, b], t, episodic=episodic)
                following = 0.0 if episodic and terminated[t, b] else v[s, b]
                advantages[start, b] += weight * (r[t, b] + discount * following - v[t, b])
                weight *= discount * trace
                if episodic and ended[t]:
                    break
                t = s
    return advantages


@pytest.mark.parametrize("episodic", [True, False])
@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (2, 1), (3, 2), (8, 3), (13, 4), (64, 5)])
def test_t10_gae_equals_its_definition(steps, seed, episodic):
    masks = episodes(steps, 9, seed)
    rewards, values = torch.randn(steps, 9), torch.randn(steps + 1, 9)
    options = {"discount": 0.97, "trace": 0.9, "episodic": episodic}
    expected = torch.from_numpy(gae_by_definition(rewards, values, masks, **options))
    exact = gae(rewards.double(), values.double(), **masks, **options)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)
    single = gae(rewards, values, **masks, **options)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-5)


def test_the_episodes_of_the_tests_hold_every_case():
    drawn = [episodes(steps, 9, seed).values() for steps, seed in ((8, 3), (13, 4), (64, 5))]
    cases = {
        "terminated": lambda terminated, truncated, real: terminated & ~truncated,
        "truncated": lambda terminated, truncated, real: truncated & ~terminated,
        "both": lambda terminated, truncated, real: terminated & truncated,
        "begins with a reset row": lambda terminated, truncated, real: ~real[0],
        "ends with a reset row": lambda terminated, truncated, real: ~real[-1],
        "terminated in the last row": lambda terminated, truncated, real: terminated[-1],
        "truncated in the last row": lambda terminated, truncated, real: truncated[-1],
    }
    assert {name for name, case in cases.items() if any(case(*flags).any() for flags in drawn)} == set(cases)


def test_ends_by_hand():
    no = torch.zeros(3, 1, dtype=torch.bool)
    end = torch.tensor([[True], [False], [False]])
    real = torch.tensor([[True], [False], [True]])
    rewards, values = torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    options = {"real_TB": real, "discount": 0.5, "trace": 0.5}
    last = 2.0 + 0.5 * 40 - 30
    done = gae(rewards, values, terminated_TB=end, truncated_TB=no, **options)
    assert done.flatten().tolist() == [1.0 - 10, 0.0, last]
    cut = gae(rewards, values, terminated_TB=no, truncated_TB=end, **options)
    assert cut.flatten().tolist() == [1.0 + 0.5 * 20 - 10, 0.0, last]
    for kind in ({"terminated_TB": end, "truncated_TB": no}, {"terminated_TB": no, "truncated_TB": end}):
        on = gae(rewards, values, **kind, **options, episodic=False)
        assert on.flatten().tolist() == [1.0 + 0.5 * 30 - 10 + 0.25 * last, 0.0, last]


@pytest.mark.parametrize("episodic", [True, False])
def test_an_end_stops_the_trace_without_a_reset_row_too(episodic):
    """Environments that reset in the same step: the row after an end is a transition."""
    masks = episodes(16, 9, 1)
    masks["real_TB"] = torch.ones(16, 9, dtype=torch.bool)
    rewards, values = torch.randn(16, 9).double(), torch.randn(17, 9).double()
    options = {"discount": 0.97, "trace": 0.9, "episodic": episodic}
    expected = torch.from_numpy(gae_by_definition(rewards, values, masks, **options))
    torch.testing.assert_close(gae(rewards, values, **masks, **options), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("episodic", [True, False])
def test_t4_rows_that_are_not_real_do_not_count(episodic):
    terminated, truncated, real = episodes(32, 7, 1).values()
    rewards, values = torch.randn(32, 7), torch.randn(33, 7)
    options = {"real_TB": real, "discount": 0.99, "episodic": episodic}
    clean = gae(rewards, values, terminated_TB=terminated, truncated_TB=truncated, **options)
    noise = torch.rand(32, 7) < 0.5
    corrupt_values = values.clone()
    # A truncated episode bootstraps with the value of its last observation, which stands in the reset row.
    used = torch.zeros_like(real)
    used[1:] = episodic & truncated[:-1] & ~terminated[:-1]
    corrupt_values[:-1][~real & ~used] = torch.nan
    corrupt = gae(
        torch.where(real, rewards, torch.nan),
        corrupt_values,
        terminated_TB=torch.where(real, terminated, noise),
        truncated_TB=torch.where(real, truncated, ~noise),
        **options,
    )
    assert torch.equal(clean, corrupt)
    assert (clean[~real] == 0).all()


def test_gae_takes_half_precision_values_and_refuses_wrong_shapes():
    masks = episodes(4, 3)
    assert gae(torch.ones(4, 3), torch.ones(5, 3).bfloat16(), **masks, discount=0.9).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\[T \+ 1, B\].*\(4, 3\) and \(4, 3\)"):
        gae(torch.ones(4, 3), torch.ones(4, 3), **masks, discount=0.9)


def test_suffix_scan_is_a_geometric_sum():
    scanned = suffix_scan(torch.ones(100, 1, dtype=torch.float64), torch.full((100, 1), 0.9, dtype=torch.float64))
    terms_left = torch.arange(100, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(scanned.flatten(), (1 - 0.9**terms_left) / (1 - 0.9))


def test_row_means_of_parts_add_up():
    real = episodes(6, 8)["real_TB"]
    x = torch.where(real, torch.randn(6, 8), torch.nan)
    torch.testing.assert_close(row_mean(x, real), x[real].sum() / 48)
    halves = row_mean(x[:, :4], real[:, :4]) + row_mean(x[:, 4:], real[:, 4:])
    torch.testing.assert_close(halves / 2, row_mean(x, real))


def test_explained_variance_equals_numpy():
    real = episodes(20, 5)["real_TB"]
    returns, noise = torch.randn(20, 5), 0.5 * torch.randn(20, 5)
    values = torch.where(real, returns + noise, torch.nan)
    r, v = returns[real].numpy(), values[real].numpy()
    given = explained_variance(values_TB=values, returns_TB=returns, real_TB=real)
    assert given.item() == pytest.approx(1 - np.var(r - v) / np.var(r), abs=1e-5)
    flat = torch.ones(20, 5)
    assert explained_variance(values_TB=values, returns_TB=flat, real_TB=real).item() == 0
