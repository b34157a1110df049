"""The contrastive estimate and its critics against loops, and test T7 of exploration spec 3."""

import math

import pytest
import torch
from torch import Tensor, nn

from byol_ext.rl.curiosity.invariance import CosineCritic, Invariance, JointCritic, contrast


def by_loop(critic, belief, action, z, valid, drawn=None) -> Tensor:
    """The estimate, one cell at a time, on ``[K, S, B, ...]`` float64 inputs."""
    horizon, starts, batch = z.shape[:3]
    inv = torch.zeros(starts, batch, horizon, dtype=torch.float64)
    for s in range(starts):
        for k in range(horizon):
            for m in range(batch):
                if drawn is None:
                    columns = [(s, n) for n in range(batch) if n != m and valid[s, n, k]]
                else:
                    places = [divmod(int(place), batch) for place in drawn[k]]
                    columns = [(t, n) for t, n in places if n != m and valid[t, n, k]]
                columns = [(s, m), *columns]
                if not valid[s, m, k] or len(columns) < 8:
                    continue
                row = critic.rows(belief[k, s, m][None], action[k, s, m][None])
                scores = torch.cat([critic.pairs(row, critic.columns(z[k, t, n][None])) for t, n in columns])
                inv[s, m, k] = scores[0].double() - scores.double().exp().mean().log()
    return inv


@pytest.mark.parametrize("negatives", ["batch", "batch_time"])
@pytest.mark.parametrize("form", ["cosine", "joint"])
@pytest.mark.parametrize("chunk_pairs", [1, 2**18])
def test_estimates_equal_a_loop_over_cells(negatives, form, chunk_pairs):
    critic = CosineCritic((4, 2, 3), (6,)) if form == "cosine" else JointCritic((4, 2, 3), (6, 5))
    module = Invariance(critic, negatives=negatives, draws=12, chunk_pairs=chunk_pairs)
    belief, action, z = (torch.randn(2, 3, 9, width) for width in (4, 2, 3))
    valid = torch.rand(3, 9, 2) < 0.9
    valid[1, :3, 0] = False  # so that this cell has too few columns in a batch
    seeded = torch.Generator().manual_seed(3)
    drawn = module._draw(valid.permute(0, 2, 1), seeded) if negatives == "batch_time" else None
    inv, accuracy = module(
        belief_KSBM=belief,
        action_KSBE=action,
        z_KSBZ=z,
        valid_SBK=valid,
        random=torch.Generator().manual_seed(3),
    )
    with torch.no_grad():
        expected = by_loop(critic, belief, action, z, valid, drawn)
    torch.testing.assert_close(inv.double(), expected, atol=1e-5, rtol=1e-4)
    assert negatives == "batch_time" or not inv[1, :, 0].any()
    assert 0 <= accuracy <= 1


def test_bounds_of_the_joint_critic():
    rows, columns = 100 * torch.randn(50, 6), 100 * torch.randn(50, 6)
    for bound, low, high in (("sigmoid", 0.0, 1.0), ("tanh5", -5.0, 5.0)):
        scores = JointCritic((4, 2, 3), (6,), bound=bound).table(rows, columns)
        assert low <= scores.min() < scores.max() <= high
    cosine = CosineCritic((4, 2, 3), (6,)).table(rows, columns)
    assert -5 <= cosine.min() < cosine.max() <= 5
    assert JointCritic((4, 2, 3), (6,), bound="none").table(rows, columns).abs().max() > 5


def test_contrast_survives_rows_without_columns():
    others = torch.randn(4, 9, requires_grad=True)
    estimate, _ = contrast(own=torch.zeros(4), others=others, allowed=torch.zeros(4, 9, dtype=torch.bool))
    estimate.sum().backward()
    assert not estimate.any()
    assert not others.grad.any()


@pytest.mark.parametrize("make", [CosineCritic, JointCritic])
def test_t7_critic_finds_dependence_and_nothing_else(make):
    """After 200 steps the bound is above half a nat on dependent pairs, below 0.05 on independent ones."""
    for dependent in (True, False):
        module = Invariance(make((4, 2, 4), (64, 64)))
        generator = nn.Linear(4, 4)  # of z from what should stay out of it
        nn.init.eye_(generator.weight)

        def bound(module=module, generator=generator, dependent=dependent) -> Tensor:
            x = torch.randn(1, 1, 64, 4)
            z = generator(x if dependent else torch.randn_like(x)) + 0.3 * torch.randn_like(x)
            inv, _ = module(
                belief_KSBM=x,
                action_KSBE=torch.zeros(1, 1, 64, 2),
                z_KSBZ=z,
                valid_SBK=torch.ones(1, 64, 1, dtype=torch.bool),
                random=torch.Generator(),
            )
            return inv.mean()

        def train(parameters, steps: int, lr: float, bound=bound) -> float:
            optimizer = torch.optim.Adam(parameters, lr)
            for _ in range(steps):
                optimizer.zero_grad()
                bound().backward()
                optimizer.step()
            with torch.no_grad():
                return float(torch.stack([bound() for _ in range(20)]).mean())

        learned = train(module.parameters(), 200, 3e-3)
        if dependent:
            assert 0.5 < learned < math.log(64)
            assert train(generator.parameters(), 20, 3e-2) < 0.7 * learned
        else:
            assert abs(learned) < 0.05
