"""PPO's loss and gradient against ones written out in float64; rows that are no transitions; advantages."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from byol_ext.rl.encoders import mlp_encoder
from byol_ext.rl.policy import ActorCritic
from byol_ext.rl.ppo import mix_advantages, normalise_advantage, ppo_loss
from byol_ext.rl.recurrent import Trunk
from byol_ext.rl.returns import explained_variance, gae
from byol_ext.rl.segment import Segment

COEFFICIENTS = {"clip": 0.2, "value_coef": 0.7, "entropy_coef": 0.05}


def episodes(steps: int, batch: int, seed: int = 0, ends: float = 0.3) -> dict[str, torch.Tensor]:
    """Ends of every kind in any row, as they come with auto-reset on the next step; row 0 may be a reset row."""
    torch.manual_seed(seed)
    terminated, truncated = torch.rand(2, steps, batch) < ends / 2
    real = torch.rand(steps, batch) >= ends
    for t in range(1, steps):
        real[t] = ~(real[t - 1] & (terminated | truncated)[t - 1])
    return {"terminated_TB": terminated & real, "truncated_TB": truncated & real, "real_TB": real}


def inputs_for(real: torch.Tensor, *, actions: int = 4, dtype=torch.float64):
    steps, batch = real.shape
    logits = torch.randn(steps, batch, actions, dtype=dtype)
    action = torch.randint(actions, (steps, batch))
    log_prob = logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]
    return {
        "logits_TBA": logits.requires_grad_(),
        "values": {head: torch.randn(steps, batch, dtype=dtype).requires_grad_() for head in ("e", "i")},
        "action_TB": action,
        # Ratios inside and outside the clip, on both sides.
        "old_log_prob_TB": (log_prob.detach() + 0.3 * torch.randn(steps, batch, dtype=dtype)),
        "advantage_TB": torch.randn(steps, batch, dtype=dtype),
        "returns": {head: torch.randn(steps, batch, dtype=dtype) for head in ("e", "i")},
        "real_TB": real,
    }


def loss_by_hand(inputs, *, clip: float, value_coef: float, entropy_coef: float):
    """Loss, gradients of logits and values, and terms, row by row with the derivatives taken on paper."""
    logits = inputs["logits_TBA"].detach().numpy()
    steps, batch, _ = logits.shape
    n = steps * batch
    d_logits, d_values = np.zeros_like(logits), {head: np.zeros((steps, batch)) for head in inputs["values"]}
    terms = dict.fromkeys(("policy", "entropy", "approx_kl", "clip_fraction", "value/e", "value/i"), 0.0)
    for t, b in np.argwhere(inputs["real_TB"].numpy()):
        z, a, advantage = logits[t, b], inputs["action_TB"][t, b], inputs["advantage_TB"][t, b].item()
        log_p = z - np.log(np.exp(z).sum())
        p = np.exp(log_p)
        log_ratio = log_p[a] - inputs["old_log_prob_TB"][t, b].item()
        ratio = np.exp(log_ratio)
        clipped = np.clip(ratio, 1 - clip, 1 + clip)
        entropy = -(p * log_p).sum()
        terms["policy"] -= min(ratio * advantage, clipped * advantage) / n
        terms["entropy"] += entropy / n
        terms["approx_kl"] += (ratio - 1 - log_ratio) / n
        terms["clip_fraction"] += (abs(ratio - 1) > clip) / n
        if ratio * advantage <= clipped * advantage:
            d_logits[t, b] -= ratio * advantage * ((np.arange(len(z)) == a.item()) - p) / n
        d_logits[t, b] += entropy_coef * p * (log_p + entropy) / n
        for head, value in inputs["values"].items():
            error = value[t, b].item() - inputs["returns"][head][t, b].item()
            terms[f"value/{head}"] += error**2 / n
            d_values[head][t, b] = value_coef * 2 * error / n
    loss = terms["policy"] + value_coef * (terms["value/e"] + terms["value/i"]) - entropy_coef * terms["entropy"]
    return loss, d_logits, d_values, terms


def test_loss_and_gradient_equal_ones_written_out():
    inputs = inputs_for(episodes(9, 7, 2)["real_TB"])
    loss, d_logits, d_values, expected = loss_by_hand(inputs, **COEFFICIENTS)
    total, terms = ppo_loss(**inputs, **COEFFICIENTS)
    total.backward()
    assert total.item() == pytest.approx(loss, abs=1e-12)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, abs=1e-12), name
    assert 0.1 < expected["clip_fraction"] < 0.9, "both sides of the clip are tried"
    torch.testing.assert_close(inputs["logits_TBA"].grad, torch.from_numpy(d_logits), rtol=0, atol=1e-12)
    for head, value in inputs["values"].items():
        torch.testing.assert_close(value.grad, torch.from_numpy(d_values[head]), rtol=0, atol=1e-12)
        expected_variance = explained_variance(
            values_TB=value.detach(), returns_TB=inputs["returns"][head], real_TB=inputs["real_TB"]
        )
        assert terms[f"explained_variance/{head}"] == expected_variance
    assert not any(term.requires_grad for term in terms.values())


def test_float32_also_under_autocast():
    inputs = inputs_for(episodes(9, 7, 2)["real_TB"], dtype=torch.float32)
    plain, _ = ppo_loss(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = ppo_loss(**inputs)
    assert total.dtype == torch.float32
    assert torch.equal(total, plain)
    half, _ = ppo_loss(**{**inputs, "logits_TBA": inputs["logits_TBA"].bfloat16()})
    assert half.dtype == torch.float32


def test_minibatches_of_environments_add_up():
    inputs = inputs_for(episodes(9, 8, 2)["real_TB"])

    def part(value, environments):
        return {k: v[:, environments] for k, v in value.items()} if isinstance(value, dict) else value[:, environments]

    whole, terms = ppo_loss(**inputs)
    halves = [ppo_loss(**{k: part(v, s) for k, v in inputs.items()}) for s in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, whole)
    for name in ("policy", "value/e", "entropy", "approx_kl", "clip_fraction"):
        torch.testing.assert_close((halves[0][1][name] + halves[1][1][name]) / 2, terms[name])


def test_heads_must_agree():
    inputs = inputs_for(episodes(2, 2)["real_TB"])
    with pytest.raises(ValueError, match=r"heads \['e', 'i'\] cannot learn returns of \['e'\]"):
        ppo_loss(**{**inputs, "returns": {"e": inputs["returns"]["e"]}})
    with pytest.raises(ValueError, match=r"\['a'\] have weights for \['b'\]"):
        mix_advantages({"a": torch.ones(1, 1)}, {"b": 1.0})


def segment_of(masks, policy: ActorCritic) -> Segment:
    real = masks["real_TB"]
    steps, batch = real.shape
    action = torch.randint(5, (steps, batch))
    first = torch.cat([real[:1] & (torch.rand(1, batch) < 0.5), ~real])
    return Segment(
        obs=torch.randint(256, (steps + 1, batch, 2, 4, 4), dtype=torch.uint8),
        first=first,
        prev_action=torch.cat([torch.full((1, batch), 5), torch.where(real, action, 5)]),
        action=action,
        reward=torch.randn(steps, batch) * real,
        terminated=masks["terminated_TB"],
        truncated=masks["truncated_TB"],
        real=real,
        log_prob=-torch.rand(steps, batch) - 1,
        state=torch.randn(batch, policy.trunk.state_width),
    )


def learn(policy: ActorCritic, segment: Segment):
    """Advantages, loss and gradient as an agent computes them."""
    policy.zero_grad()
    output = policy(segment.obs, segment.prev_action, segment.first, segment.state)
    masks = {"terminated_TB": segment.terminated, "truncated_TB": segment.truncated, "real_TB": segment.real}
    advantages = {
        head: gae(segment.reward, value.detach(), **masks, discount=0.99, episodic=head == "extrinsic")
        for head, value in output.values.items()
    }
    mixed = normalise_advantage(mix_advantages(advantages, {"extrinsic": 2.0, "intrinsic": 1.0}), segment.real)
    values = {head: value[:-1] for head, value in output.values.items()}
    total, terms = ppo_loss(
        logits_TBA=output.logits_RBA[:-1],
        values=values,
        action_TB=segment.action,
        old_log_prob_TB=segment.log_prob,
        advantage_TB=mixed,
        returns={head: advantages[head] + values[head].detach() for head in advantages},
        real_TB=segment.real,
    )
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    return {"loss": total.detach(), "advantage": mixed, "gradient": gradient, **advantages, **terms}


@pytest.mark.parametrize("width", [0, 16])
def test_t4_rows_that_are_not_real_change_neither_loss_nor_advantages(width):
    policy = ActorCritic(Trunk(mlp_encoder((2, 4, 4)), 5, width=width), 5)
    segment = segment_of(episodes(24, 6, 7), policy)
    clean = learn(policy, segment)
    fake = ~segment.real
    assert fake.any()
    # Observation t + 1 is the last of the episode, whose value a truncation needs; after a termination nobody does.
    after_terminal = torch.zeros(25, 6, dtype=torch.bool)
    after_terminal[1:] = segment.terminated
    after_terminal[-1] = False  # no reset follows in this segment: the stream that goes on bootstraps here
    corrupt = {
        "obs": torch.where(after_terminal[..., None, None, None], 255 - segment.obs, segment.obs),
        "action": torch.where(fake, (segment.action + 3) % 5 + 90, segment.action),
        "reward": torch.where(fake, torch.nan, segment.reward),
        "terminated": segment.terminated | (fake & (torch.rand(24, 6) < 0.5)),
        "truncated": segment.truncated | (fake & (torch.rand(24, 6) < 0.5)),
        "log_prob": torch.where(fake, torch.nan, segment.log_prob),
    }
    corrupted = learn(policy, Segment(**{**vars(segment), **corrupt}))
    for name, value in clean.items():
        torch.testing.assert_close(corrupted[name], value, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    # The check can fail: a real row does count.
    touched = Segment(**{**vars(segment), "reward": segment.reward + segment.real})
    assert (learn(policy, touched)["advantage"] - clean["advantage"]).abs().max() > 1e-3


def test_normalised_advantage_has_moments_of_real_rows():
    real = episodes(20, 6, 1)["real_TB"]
    advantage = torch.where(real, 5 + 3 * torch.randn(20, 6), torch.nan)
    normal = normalise_advantage(advantage, real)
    given = advantage[real].double().numpy()
    np.testing.assert_allclose(normal[real].numpy(), (given - given.mean()) / given.std(), rtol=1e-5, atol=1e-6)
    assert (normal[~real] == 0).all()
    assert (normalise_advantage(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool)) == 0).all()
    assert (normalise_advantage(torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.bool)) == 0).all()


def test_synchronised_moments_are_those_of_all_processes(monkeypatch):
    real = episodes(20, 6, 1)["real_TB"]
    advantage = 1e4 + torch.randn(20, 6) * torch.arange(1, 7)
    whole = normalise_advantage(advantage, real)
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda moments: sent.append(moments.clone()))
    parts = (slice(0, 2), slice(2, 6))
    for part in parts:
        normalise_advantage(advantage[:, part], real[:, part], synchronise=True)
    monkeypatch.setattr(dist, "all_reduce", lambda moments: moments.copy_(sent[0] + sent[1]))
    split = [normalise_advantage(advantage[:, part], real[:, part], synchronise=True) for part in parts]
    torch.testing.assert_close(torch.cat(split, 1), whole, rtol=0, atol=1e-6)
    alone = normalise_advantage(advantage[:, :2], real[:, :2])
    assert (alone - whole[:, :2]).abs().max() > 0.1


def test_a_bandit_is_learned():
    """The sign is right: the action that pays ends up likely."""
    logits = torch.zeros(1, 3, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        with torch.no_grad():
            old = logits.log_softmax(-1)[0]
        action = torch.multinomial(old.exp(), 64, replacement=True, generator=generator)[:, None]
        advantage = normalise_advantage((action == 1).float(), torch.ones_like(action, dtype=torch.bool))
        for _ in range(4):
            total, _ = ppo_loss(
                logits_TBA=logits.expand(64, 1, 3),
                values={"v": torch.zeros(64, 1)},
                action_TB=action,
                old_log_prob_TB=old[action],
                advantage_TB=advantage,
                returns={"v": torch.zeros(64, 1)},
                real_TB=torch.ones(64, 1, dtype=torch.bool),
                clip=0.2,
            )
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
    assert logits.softmax(-1)[0, 1] > 0.8
