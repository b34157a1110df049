"""V-MPO's loss against one written out in float64, its dual steps, and rows that are no transitions."""

import numpy as np
import pytest
import torch

from byol_ext.rl.vmpo import VMPOLoss, best_half


def inputs_for(real: torch.Tensor, *, actions: int = 4):
    steps, batch = real.shape

    def draw(*shape):
        return torch.randn(steps, batch, *shape).double()

    return {
        "logits_TBA": draw(actions).requires_grad_(),
        "old_logits_TBA": draw(actions),
        "values": {"v": draw().requires_grad_()},
        "action_TB": torch.randint(actions, (steps, batch)),
        "advantage_TB": draw(),
        "returns": {"v": draw()},
        "real_TB": real,
    }


def by_hand(inputs, *, eta, alpha, eps_eta, eps_alpha, value_coef):
    """The parts of the loss, and the gradients of both multipliers."""
    rows = [tuple(row) for row in np.argwhere(inputs["real_TB"].numpy())]
    n = inputs["real_TB"].numel()
    advantage = {row: inputs["advantage_TB"][row].item() for row in rows}
    best = sorted(rows, key=lambda row: -advantage[row])[: len(rows) // 2]
    exponentials = np.array([np.exp(advantage[row] / eta) for row in best])
    psi = exponentials / exponentials.sum()
    new, old = (inputs[k].detach().log_softmax(-1).numpy() for k in ("logits_TBA", "old_logits_TBA"))
    policy = -sum(w * new[row][inputs["action_TB"][row]] for w, row in zip(psi, best, strict=True))
    temperature = eta * eps_eta + eta * np.log(exponentials.mean())
    kl = {row: (np.exp(old[row]) * (old[row] - new[row])).sum() for row in rows}
    penalty = sum(alpha * (eps_alpha - kl[row]) + alpha * kl[row] for row in rows) / n
    value = sum((inputs["values"]["v"][row].item() - inputs["returns"]["v"][row].item()) ** 2 for row in rows) / n
    return {
        "policy": policy,
        "temperature": temperature,
        "kl_penalty": penalty,
        "kl": sum(kl.values()) / n,
        "value/v": value,
        "total": policy + temperature + penalty + value_coef * value,
        "d_eta": eps_eta - (psi * np.log(psi * len(psi))).sum(),
        "d_alpha": sum(eps_alpha - kl[row] for row in rows) / n,
        "best": best,
        "psi": psi,
    }


def test_loss_and_dual_gradients_equal_ones_written_out():
    inputs = inputs_for(torch.rand(9, 7) < 0.8)
    loss = VMPOLoss(eta=0.7, alpha=3.0, eps_eta=0.05, eps_alpha=0.01).double()
    total, terms = loss(**inputs, value_coef=0.4)
    options = {"eta": loss.eta.item(), "alpha": 3.0, "eps_eta": 0.05, "eps_alpha": 0.01, "value_coef": 0.4}
    expected = by_hand(inputs, **options)
    assert total.item() == pytest.approx(expected["total"], abs=1e-10)
    for name in ("policy", "temperature", "kl_penalty", "kl", "value/v"):
        assert terms[name].item() == pytest.approx(expected[name], abs=1e-10), name
    total.backward()
    assert loss.eta.grad.item() == pytest.approx(expected["d_eta"], abs=1e-10)
    assert loss.alpha.grad.item() == pytest.approx(expected["d_alpha"], abs=1e-10)
    # Gradient of the logits: -psi (onehot - p) in the better half, alpha (p - p_old) / n in every real row.
    p, old = (inputs[k].detach().softmax(-1) for k in ("logits_TBA", "old_logits_TBA"))
    gradient = torch.where(inputs["real_TB"][..., None], 3.0 * (p - old) / 63, 0.0)
    for weight, row in zip(expected["psi"], expected["best"], strict=True):
        gradient[row] += weight * p[row]
        gradient[row][inputs["action_TB"][row]] -= weight
    torch.testing.assert_close(inputs["logits_TBA"].grad, gradient, rtol=0, atol=1e-10)


def test_best_half_is_of_real_rows():
    advantage = torch.tensor([[5.0, 4.0, 3.0], [2.0, 1.0, 1.0]])
    real = torch.tensor([[False, True, True], [True, True, True]])
    assert best_half(advantage, real).tolist() == [[False, True, True], [False, False, False]]
    only = torch.tensor([[False, False, True]])
    assert best_half(torch.full((1, 3), -9.0), only).tolist() == [[False, False, True]]
    assert best_half(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)).sum() == 3


def dual_step(*, spread: float, shift: float) -> tuple[float, float]:
    """One gradient step: how eta and alpha move for advantages of that spread, a policy moved by that shift."""
    real = torch.ones(20, 5, dtype=torch.bool)
    inputs = inputs_for(real)
    inputs["advantage_TB"] = spread * torch.randn(20, 5)
    inputs["logits_TBA"] = (inputs["old_logits_TBA"] + shift * torch.randn(20, 5, 4)).requires_grad_()
    loss = VMPOLoss(eps_eta=0.05, eps_alpha=0.005)
    before = loss.eta.item(), loss.alpha.item()
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.01)
    loss(**inputs)[0].backward()
    optimiser.step()
    return loss.eta.item() - before[0], loss.alpha.item() - before[1]


def test_dual_steps_go_the_right_way():
    eta, alpha = dual_step(spread=5.0, shift=1.0)
    assert eta > 0, "weights too peaked: the temperature rises"
    assert alpha > 0, "the policy moved too far: the penalty rises"
    eta, alpha = dual_step(spread=0.01, shift=0.0)
    assert eta < 0
    assert alpha < 0


def test_temperature_settles_where_the_constraint_holds():
    inputs = inputs_for(torch.ones(40, 10, dtype=torch.bool))
    loss = VMPOLoss(eps_eta=0.1)
    optimiser = torch.optim.Adam([loss.eta], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        loss(**inputs)[0].backward()
        optimiser.step()
        loss.project()
    best = inputs["advantage_TB"][best_half(inputs["advantage_TB"], inputs["real_TB"])]
    psi = (best / loss.eta.item()).softmax(0)
    assert (psi * (psi * len(psi)).log()).sum().item() == pytest.approx(0.1, abs=0.005)


def test_projection_and_small_temperatures_stay_finite():
    loss = VMPOLoss()
    with torch.no_grad():
        loss.eta.fill_(-3.0)
        loss.alpha.fill_(-0.1)
    loss.project()
    assert loss.eta.item() == loss.alpha.item() == pytest.approx(1e-8)
    inputs = inputs_for(torch.rand(9, 7) < 0.8)
    total, terms = loss(**inputs)
    total.backward()
    assert total.isfinite()
    assert loss.eta.grad.isfinite()
    assert inputs["logits_TBA"].grad.isfinite().all()
    assert all(term.isfinite() for term in terms.values())


def test_t4_rows_that_are_not_real_do_not_count():
    real = torch.rand(12, 5) < 0.8
    inputs, loss = inputs_for(real), VMPOLoss()
    clean, terms = loss(**inputs)
    corrupt = {
        "action_TB": torch.where(real, inputs["action_TB"], 77),
        "advantage_TB": torch.where(real, inputs["advantage_TB"], torch.nan),
        "returns": {"v": torch.where(real, inputs["returns"]["v"], torch.nan)},
    }
    corrupted, others = loss(**{**inputs, **corrupt})
    assert torch.equal(clean, corrupted)
    assert all(torch.equal(terms[name], others[name]) for name in terms)
    corrupted.backward()
    assert (inputs["logits_TBA"].grad[~real] == 0).all()
    assert (inputs["values"]["v"].grad[~real] == 0).all()


def test_numbers_must_be_positive():
    with pytest.raises(ValueError, match="eta=0"):
        VMPOLoss(eta=0.0)
