"""T5, T9, T16 of the exploration spec, and the anti-diagonal of T1."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import curiosity_rollouts as rollouts
import numpy as np
import pytest
import torch

from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser, RunningMeanStd, transition_sums


@pytest.mark.parametrize(("steps", "batch", "horizon"), [(7, 3, 4), (5, 2, 1), (3, 4, 9)])
def test_anti_diagonal_equals_a_triple_loop(steps: int, batch: int, horizon: int) -> None:
    ell, valid = torch.rand(steps, batch, horizon), torch.rand(steps, batch, horizon) < 0.7
    expected = torch.zeros(steps, batch)
    for t in range(steps):
        for b in range(batch):
            for q in range(1, min(horizon, t + 1) + 1):
                p = t + 1 - q
                expected[t, b] += ell[p, b, q - 1] if valid[p, b, q - 1] else 0
    ell[~valid] = torch.nan
    torch.testing.assert_close(transition_sums(ell, valid), expected)


def test_anti_diagonal_refuses_a_mask_of_another_shape() -> None:
    with pytest.raises(ValueError, match="must both be"):
        transition_sums(torch.zeros(3, 2, 4), torch.zeros(3, 4, dtype=torch.bool))


def batches(count: int, steps: int = 9, batch: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.rand(steps, batch).exp(), torch.rand(steps, batch) < 0.8) for _ in range(count)]


@pytest.mark.parametrize("prioritise", [True, False])
def test_normaliser_equals_the_formulas(prioritise: bool) -> None:
    normaliser, decay = RewardNormaliser(prioritise=prioritise), 0.99
    m1 = m2 = m = 0.0
    for c, (u, real) in enumerate(batches(5), start=1):
        given = u.masked_fill(~real, torch.nan)
        values = u[real].double().numpy()
        m1 = decay * m1 + (1 - decay) * values.mean()
        m2 = decay * m2 + (1 - decay) * (values**2).mean()
        correction = 1 - decay**c
        sigma = np.sqrt(max(m2 / correction - (m1 / correction) ** 2, 0) + 1e-8)
        m = decay * m + (1 - decay) * (values / sigma).mean()
        expected = u.double() / sigma
        if prioritise:
            expected = (expected - m / correction).clamp_min(0)
        found = normaliser(given, real)
        torch.testing.assert_close(found, torch.where(real, expected, 0.0).float())
        assert (found[~real] == 0).all()


def test_first_batch_is_bias_corrected() -> None:
    u, real = torch.rand(20, 5), torch.ones(20, 5, dtype=torch.bool)
    expected = ((u - u.mean()) / u.std(correction=0)).clamp_min(0)
    torch.testing.assert_close(RewardNormaliser()(u, real), expected, rtol=1e-4, atol=1e-5)


def test_constant_novelty_pays_nothing() -> None:
    normaliser, real = RewardNormaliser(), torch.ones(16, 3, dtype=torch.bool)
    for _ in range(30):
        assert normaliser(torch.full((16, 3), 0.37), real).max() < 1e-3  # of v = 0.37 / sqrt(eps) = 3700


def test_rewards_do_not_depend_on_the_scale_of_novelty() -> None:
    one, seven, changed = RewardNormaliser(), RewardNormaliser(), RewardNormaliser()
    for u, real in batches(600):
        torch.testing.assert_close(seven(7 * u, real), one(u, real), rtol=1e-5, atol=1e-5)
        changed(u, real)
    for u, real in batches(1500):
        expected, found = one(u, real), changed(7 * u, real)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_normaliser_without_update_stands_still() -> None:
    normaliser, real = RewardNormaliser(), torch.ones(4, 2, dtype=torch.bool)
    assert (normaliser(torch.rand(4, 2), real, update=False) == 0).all()
    normaliser(torch.rand(4, 2), real)
    before = {name: value.clone() for name, value in normaliser.state_dict().items()}
    assert normaliser(torch.rand(3, 7) + 5, torch.ones(3, 7, dtype=torch.bool), update=False).min() > 0
    assert all(torch.equal(value, before[name]) for name, value in normaliser.state_dict().items())


def test_a_nan_shows_but_does_not_stay() -> None:
    normaliser, real = RewardNormaliser(), torch.ones(4, 2, dtype=torch.bool)
    u = torch.rand(4, 2)
    normaliser(u, real)
    bad = u.clone()
    bad[1, 1] = torch.nan
    assert normaliser(bad, real)[1, 1].isnan()
    assert int(normaliser.count) == 1
    assert normaliser(u, real).isfinite().all()


def test_no_transition_at_all_leaves_the_statistics() -> None:
    none = torch.zeros(4, 2, dtype=torch.bool)
    normaliser, scale = RewardNormaliser(), ForwardFilter(2)
    assert (normaliser(torch.rand(4, 2), none) == 0).all()
    assert (scale(torch.rand(4, 2), none) == 0).all()
    assert int(normaliser.count) == 0
    assert float(scale.stats.count) == 0


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_running_statistics_equal_those_of_everything(kind: str) -> None:
    stats = RunningMeanStd((2, 3))
    parts = [torch.randint(0, 256, (n, 2, 3), dtype=torch.uint8) for n in (1, 700, 0, 33)]
    parts = parts if kind == "uint8" else [(p / 77 + 3).to(getattr(torch, kind)) for p in parts]
    for part in parts:
        stats.update(part)
    everything = torch.cat(parts).double()
    torch.testing.assert_close(stats.mean, everything.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(stats.var, everything.var(0, correction=0), rtol=1e-11, atol=0)
    x = torch.cat(parts)[:5]
    expected = (x.double() - everything.mean(0)) / everything.std(0, correction=0)
    torch.testing.assert_close(stats.normalise(x, clip=1.0), expected.clamp(-1, 1).float())


def test_a_constant_pixel_is_normalised_to_zero() -> None:
    stats = RunningMeanStd((1,))
    for _ in range(3):
        stats.update(torch.full((50, 1), 17, dtype=torch.uint8))
    assert stats.normalise(torch.full((2, 1), 17, dtype=torch.uint8), clip=5.0).abs().max() == 0


def filter_reference(values: np.ndarray, real: np.ndarray, gamma: float) -> np.ndarray:
    """RND's filter, in plain loops over environments and then over time."""
    filtered = []
    for b in range(values.shape[1]):
        f = 0.0
        for t in range(values.shape[0]):
            if real[t, b]:
                f = gamma * f + values[t, b]
                filtered.append(f)
    return np.where(real, values / np.std(filtered), 0.0)


def test_filter_runs_over_time() -> None:
    """T9: with B != T; the first rollout, whose statistics are its own."""
    values, real = torch.rand(11, 3), torch.rand(11, 3) < 0.8
    expected = filter_reference(values.double().numpy(), real.numpy(), 0.9)
    found = ForwardFilter(3, gamma=0.9)(values.masked_fill(~real, torch.nan), real)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    transposed = filter_reference(values.T.double().numpy(), real.T.numpy(), 0.9).T
    assert np.abs(found.numpy() - transposed).max() > 1e-2


def test_filter_goes_on_over_rollouts() -> None:
    values, real = torch.rand(20, 3), torch.rand(20, 3) < 0.8
    whole, parts = ForwardFilter(3), ForwardFilter(3)
    whole(values, real)
    for rows in (slice(0, 6), slice(6, 7), slice(7, 20)):
        found = parts(values[rows], real[rows])
    torch.testing.assert_close(found, whole(values[7:], real[7:], update=False))
    torch.testing.assert_close(parts.filtered, whole.filtered)


def test_filter_refuses_a_transposed_rollout() -> None:
    with pytest.raises(ValueError, match="num_envs=3"):
        ForwardFilter(3)(torch.rand(3, 11), torch.ones(3, 11, dtype=torch.bool))


@pytest.mark.parametrize("make", [RewardNormaliser, lambda: RunningMeanStd((4,)), lambda: ForwardFilter(4)])
def test_a_saved_state_goes_on_bit_by_bit(make) -> None:
    def feed(module: torch.nn.Module, u: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if isinstance(module, RunningMeanStd):
            module.update(u)
            return module.normalise(u)
        return module(u, real)

    straight, saved = make(), make()
    data = batches(6)
    for u, real in data[:3]:
        feed(straight, u, real)
        feed(saved, u, real)
    resumed = make()
    resumed.load_state_dict(saved.state_dict())
    for u, real in data[3:]:
        assert torch.equal(feed(resumed, u, real), feed(straight, u, real))


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """T16 for every statistic and bonus of the room, with a step of descent between rollouts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "numpy"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    processes = [context.Process(target=rollouts.work, args=(rank, 2, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for group, results in rollouts.all_results(slice(None)).items():
        for name, expected in results.items():
            parts = [half[group][name] for half in halves]
            if name.startswith("loss"):
                found = (parts[0] + parts[1]) / 2
            else:
                found = torch.cat(parts, dim=1) if expected.ndim == 2 else parts[0]
            torch.testing.assert_close(
                found, expected, rtol=1e-5, atol=1e-5, msg=lambda m, g=group, n=name: f"{g} {n} {m}"
            )
