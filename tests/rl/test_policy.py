"""The actor-critic: one step equals a segment's row, heads, initialisation; sampling by inverse transform."""

import pytest
import torch

from byol_ext.rl.encoders import mlp_encoder, nature_cnn
from byol_ext.rl.policy import ActorCritic, sample_actions
from byol_ext.rl.recurrent import Trunk


def make(*, width: int = 16, hidden: int = 0, heads=("extrinsic", "intrinsic")) -> ActorCritic:
    policy = ActorCritic(Trunk(mlp_encoder((3, 4, 4)), 5, width=width), 5, heads=heads, hidden=hidden)
    # Larger outputs than at the start, so that differences show.
    torch.nn.init.normal_(policy.output.weight)
    return policy


def step_inputs(policy: ActorCritic, batch: int = 6):
    obs = torch.randint(256, (batch, 3, 4, 4), dtype=torch.uint8)
    first = torch.arange(batch) % 2 == 0
    prev_action = torch.where(first, 5, torch.randint(5, (batch,)))
    return obs, prev_action, first, torch.randn(batch, policy.trunk.state_width)


@pytest.mark.parametrize("hidden", [0, 12])
@pytest.mark.parametrize("width", [0, 16])
def test_act_is_a_row_of_forward(width, hidden):
    policy = make(width=width, hidden=hidden)
    obs, prev_action, first, state = step_inputs(policy)
    with torch.inference_mode():
        acted = policy.act(obs, prev_action, first, state)
    replayed = policy(obs[None], prev_action[None], first[None], state)
    torch.testing.assert_close(acted.logits_BA, replayed.logits_RBA[0], rtol=0, atol=1e-5)
    for head in policy.heads:
        torch.testing.assert_close(acted.values[head], replayed.values[head][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(acted.state_BM, replayed.state_BM, rtol=0, atol=1e-5)


def test_act_forgets_where_an_episode_begins():
    policy = make()
    obs, prev_action, first, state = step_inputs(policy)
    states = policy.act(obs, prev_action, first, state).state_BM
    others = policy.act(obs, prev_action, first, state + 1).state_BM
    changed = (states != others).any(-1)
    assert torch.equal(changed, ~first)


def test_outputs_by_head_and_width():
    policy = make(heads=("one", "two", "three"), hidden=12)
    obs, prev_action, first, state = step_inputs(policy)
    acted = policy.act(obs, prev_action, first, state)
    assert list(acted.values) == ["one", "two", "three"]
    assert acted.logits_BA.shape == (6, 5)
    h = policy.widen(acted.state_BM).relu()
    out = policy.output(h + policy.residual(h).relu())
    torch.testing.assert_close(torch.cat([acted.logits_BA, torch.stack(list(acted.values.values()), -1)], -1), out)


def test_initial_outputs_are_nearly_uniform_and_values_have_unit_rows():
    policy = ActorCritic(Trunk(mlp_encoder((3, 4, 4)), 5, width=16), 5)
    gram = policy.output.weight[:5] @ policy.output.weight[:5].T
    torch.testing.assert_close(gram, 1e-4 * torch.eye(5), rtol=0, atol=1e-9)
    torch.testing.assert_close(policy.output.weight[5:].norm(dim=1), torch.ones(2))
    assert (policy.output.bias == 0).all()
    assert torch.equal(policy.initial_state(3), torch.zeros(3, 16))
    assert ActorCritic(Trunk(mlp_encoder((4,)), 5, width=0), 5).initial_state(3).shape == (3, 0)


def test_given_beliefs_the_trunk_rests():
    policy = make()
    obs, prev_action, first, state = (x[None] for x in step_inputs(policy))
    beliefs, last = policy.trunk(obs, prev_action, first, state[0])
    policy.trunk.register_forward_hook(lambda *_: pytest.fail("the trunk ran"))
    output = policy(obs, prev_action, first, state[0], beliefs=beliefs)
    assert torch.equal(output.state_BM, last)
    torch.testing.assert_close(output.logits_RBA, policy.output(beliefs)[..., :5])
    (gradient,) = torch.autograd.grad(output.logits_RBA.square().sum(), beliefs)
    assert gradient.abs().max() > 0


def test_outputs_keep_float32_under_autocast():
    policy = make()
    inputs = step_inputs(policy)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        acted = policy.act(*inputs)
        replayed = policy(*(x[None] for x in inputs[:3]), inputs[3])
    assert acted.logits_BA.dtype == acted.values["extrinsic"].dtype == acted.state_BM.dtype == torch.float32
    torch.testing.assert_close(acted.logits_BA, replayed.logits_RBA[0], rtol=0, atol=0.05)
    exact = policy.output(acted.state_BM.clone())[:, :5]
    torch.testing.assert_close(acted.logits_BA, exact, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_act_compiles_whole():
    policy = ActorCritic(Trunk(nature_cnn((1, 36, 36), 32), 5, width=16), 5, hidden=8)
    obs, prev_action, first, state = step_inputs(policy)
    obs = torch.randint(256, (6, 1, 36, 36), dtype=torch.uint8)
    compiled = torch.compile(policy.act, fullgraph=True)
    with torch.inference_mode(), torch._dynamo.config.patch(allow_rnn=True):
        mine, plain = compiled(obs, prev_action, first, state), policy.act(obs, prev_action, first, state)
    torch.testing.assert_close(mine.logits_BA, plain.logits_BA, rtol=0, atol=1e-5)
    torch.testing.assert_close(mine.state_BM, plain.state_BM, rtol=0, atol=1e-5)


def test_sampling_frequencies():
    probability = torch.tensor([0.5, 0.02, 0.3, 0.0, 0.18])
    n = 200_000
    uniform = torch.rand(n)
    action, log_prob = sample_actions(probability.log().expand(n, 5), uniform)
    counts = torch.bincount(action, minlength=5)
    assert counts[3] == 0
    deviation = (n * probability * (1 - probability)).sqrt()
    assert ((counts - n * probability).abs() <= 4 * deviation).all()
    torch.testing.assert_close(log_prob.exp(), probability[action])
    # Independent of the order of the rows, and of the batch they come in.
    again, _ = sample_actions(probability.log().expand(10, 5), uniform[:10])
    assert torch.equal(again, action[:10])


@pytest.mark.parametrize("uniform", [0.0, 1e-8, 0.5, 1 - 2.0**-24, 1.0])
def test_sampling_never_draws_what_cannot_be(uniform):
    torch.manual_seed(1)
    logits = torch.randn(2000, 18) * 4
    logits[:, [0, 7, 17]] = -torch.inf
    action, log_prob = sample_actions(logits, torch.full((2000,), uniform))
    assert log_prob.isfinite().all()
    if uniform == 0.0:
        assert (action == 1).all()
    if uniform >= 1 - 2.0**-24:
        beyond = 1 - logits.double().softmax(-1).cumsum(-1).gather(-1, action[:, None])
        assert beyond.max() < 1e-6


def test_sampling_takes_half_precision_and_any_leading_dims():
    logits = torch.randn(3, 2, 4).bfloat16()
    action, log_prob = sample_actions(logits, torch.rand(3, 2))
    assert (action.shape, action.dtype, log_prob.dtype) == ((3, 2), torch.int64, torch.float32)
    expected = logits.float().log_softmax(-1).gather(-1, action[..., None])[..., 0]
    torch.testing.assert_close(log_prob, expected)
