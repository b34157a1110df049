"""V-trace against equation 1 of its paper written out, in float64, and against what it reduces to."""

import numpy as np
import pytest
import torch

from byol_ext.rl.returns import gae
from byol_ext.rl.vtrace import vtrace, vtrace_loss


def episodes(steps: int, batch: int, seed: int = 0, ends: float = 0.3) -> dict[str, torch.Tensor]:
    """Ends of every kind in any row, as they come with auto-reset on the next step; row 0 may be a reset row."""
    torch.manual_seed(seed)
    terminated, truncated = torch.rand(2, steps, batch) < ends / 2
    real = torch.rand(steps, batch) >= ends
    for t in range(1, steps):
        real[t] = ~(real[t - 1] & (terminated | truncated)[t - 1])
    return {"terminated_TB": terminated & real, "truncated_TB": truncated & real, "real_TB": real}


def vtrace_by_definition(rewards, values, log_ratio, masks, *, discount, trace, rho_bar, c_bar, episodic):
    """``v_t = V_t + sum_k discount^k (prod_{j<k} c) delta``, each sum walked forwards; then the advantages from it."""
    terminated, truncated, real = (x.numpy() for x in masks.values())
    r, v, ratio = rewards.numpy(), values.numpy(), np.exp(log_ratio.numpy())
    rho, c = np.minimum(rho_bar, ratio), trace * np.minimum(c_bar, ratio)
    steps, batch = r.shape
    targets, advantages = v.copy(), np.zeros((steps, batch))

    def after(t: int, b: int) -> int:
        return t + 1 if episodic else next((s for s in range(t + 1, steps) if real[s, b]), steps)

    def worth(table: np.ndarray, t: int, b: int) -> float:
        return 0.0 if episodic and terminated[t, b] else table[after(t, b), b]

    for start, b in np.argwhere(real):
        t, weight = start, 1.0
        while t < steps and real[t, b]:
            targets[start, b] += weight * rho[t, b] * (r[t, b] + discount * worth(v, t, b) - v[t, b])
            weight *= discount * c[t, b]
            if episodic and (terminated[t, b] or truncated[t, b]):
                break
            t = after(t, b)
    for t, b in np.argwhere(real):
        advantages[t, b] = rho[t, b] * (r[t, b] + discount * worth(targets, t, b) - v[t, b])
    return targets[:-1], advantages


@pytest.mark.parametrize("episodic", [True, False])
@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (2, 1), (8, 3), (13, 4), (40, 5)])
def test_t10_vtrace_equals_its_definition(steps, seed, episodic):
    masks = episodes(steps, 9, seed)
    rewards, values = torch.randn(steps, 9).double(), torch.randn(steps + 1, 9).double()
    log_ratio = torch.randn(steps, 9).double()
    options = {"discount": 0.97, "trace": 0.9, "rho_bar": 1.2, "c_bar": 0.8, "episodic": episodic}
    expected = vtrace_by_definition(rewards, values, log_ratio, masks, **options)
    given = vtrace(rewards, values, log_ratio_TB=log_ratio, **masks, **options)
    for mine, oracle in zip(given, expected, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(oracle), rtol=0, atol=1e-12)
    single = vtrace(rewards.float(), values.float(), log_ratio_TB=log_ratio.float(), **masks, **options)
    torch.testing.assert_close(single.returns_TB, given.returns_TB.float(), rtol=1e-5, atol=1e-5)


def test_on_policy_it_is_the_return_to_the_end():
    """Trace 1 and ``pi = mu``: TD(1), that is discounted rewards, bootstrapped where the segment or episode is cut."""
    rewards, values = torch.randn(6, 1).double(), torch.randn(7, 1).double()
    terminated, truncated = torch.zeros(6, 1, dtype=torch.bool), torch.zeros(6, 1, dtype=torch.bool)
    truncated[2] = True
    real = torch.ones(6, 1, dtype=torch.bool)
    real[3] = False
    masks = {"terminated_TB": terminated, "truncated_TB": truncated, "real_TB": real}
    given = vtrace(rewards, values, log_ratio_TB=torch.zeros(6, 1), **masks, discount=0.9)
    r, v = rewards.flatten().tolist(), values.flatten().tolist()
    first = r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * v[3]
    second = r[4] + 0.9 * r[5] + 0.81 * v[6]
    assert given.returns_TB[0].item() == pytest.approx(first)
    assert given.returns_TB[4].item() == pytest.approx(second)
    assert given.advantages_TB[0].item() == pytest.approx(first - v[0])


@pytest.mark.parametrize("episodic", [True, False])
@pytest.mark.parametrize("trace", [1.0, 0.8])
def test_on_policy_it_is_gae(trace, episodic):
    masks = episodes(20, 6)
    rewards, values = torch.randn(20, 6), torch.randn(21, 6)
    options = {**masks, "discount": 0.95, "trace": trace, "episodic": episodic}
    returns = vtrace(rewards, values, log_ratio_TB=torch.zeros(20, 6), **options).returns_TB
    torch.testing.assert_close(returns - values[:-1], gae(rewards, values, **options), rtol=1e-5, atol=1e-5)


def loss_inputs(masks):
    torch.manual_seed(0)
    steps, batch = masks["real_TB"].shape
    return {
        "logits_TBA": torch.randn(steps, batch, 4).double().requires_grad_(),
        "values": {head: torch.randn(steps + 1, batch).double().requires_grad_() for head in "ei"},
        "action_TB": torch.randint(4, (steps, batch)),
        "old_log_prob_TB": -torch.rand(steps, batch).double() * 2,
        "rewards": {head: torch.randn(steps, batch).double() for head in "ei"},
        **masks,
        "discounts": {"e": 0.99, "i": 0.9},
        "weights": {"e": 2.0, "i": 0.5},
        "episodic": {"e": True, "i": False},
        "trace": 0.9,
    }


def test_loss_equals_one_written_out():
    masks = episodes(7, 5, 2)
    real = masks["real_TB"]
    inputs = loss_inputs(masks)
    total, terms = vtrace_loss(**inputs, value_coef=0.3, entropy_coef=0.02)
    log_pi = inputs["logits_TBA"].detach().log_softmax(-1)
    policy, value, entropy = 0.0, 0.0, 0.0
    log_prob = log_pi.gather(-1, inputs["action_TB"][..., None])[..., 0]
    for head in "ei":
        targets, advantages = vtrace_by_definition(
            inputs["rewards"][head],
            inputs["values"][head].detach(),
            log_prob - inputs["old_log_prob_TB"],
            masks,
            discount=inputs["discounts"][head],
            trace=0.9,
            rho_bar=1.0,
            c_bar=1.0,
            episodic=inputs["episodic"][head],
        )
        for t, b in real.nonzero().tolist():
            policy -= inputs["weights"][head] * advantages[t, b] * log_prob[t, b].item() / 35
            value += (inputs["values"][head][t, b].item() - targets[t, b]) ** 2 / 35
    for t, b in real.nonzero().tolist():
        entropy -= (log_pi[t, b].exp() * log_pi[t, b]).sum().item() / 35
    assert total.item() == pytest.approx(policy + 0.3 * value - 0.02 * entropy)
    assert terms["policy"].item() == pytest.approx(policy)
    total.backward()
    for head in "ei":
        grad = inputs["values"][head].grad
        assert (grad[-1] == 0).all(), "the bootstrap value is no prediction"
        assert (grad[:-1][real] != 0).all()
    assert (inputs["logits_TBA"].grad[~real] == 0).all()


def test_t4_rows_that_are_not_real_do_not_count():
    masks = episodes(16, 5, 3)
    real = masks["real_TB"]
    clean = vtrace_loss(**loss_inputs(masks))
    corrupt = loss_inputs(masks)
    corrupt["action_TB"] = torch.where(real, corrupt["action_TB"], -7)
    corrupt["old_log_prob_TB"] = torch.where(real, corrupt["old_log_prob_TB"], torch.nan)
    corrupt["rewards"] = {k: torch.where(real, v, torch.nan) for k, v in corrupt["rewards"].items()}
    corrupt["terminated_TB"] = masks["terminated_TB"] | ~real
    corrupted = vtrace_loss(**corrupt)
    assert torch.equal(clean[0], corrupted[0])
    assert all(torch.equal(clean[1][name], corrupted[1][name]) for name in clean[1])


def test_heads_must_agree():
    inputs = loss_inputs(episodes(3, 2))
    with pytest.raises(ValueError, match="same heads"):
        vtrace_loss(**{**inputs, "discounts": {"e": 0.9}})
