"""Recurrence with resets against a cell stepped by hand, and the replay of a rollout."""

import pytest
import torch

from byol_ext.rl.encoders import mlp_encoder
from byol_ext.rl.policy import ActorCritic, sample_actions
from byol_ext.rl.recurrent import ActionEmbedding, ResetGRU, Trunk


def cell_of(gru: ResetGRU, inputs: int) -> torch.nn.GRUCell:
    cell = torch.nn.GRUCell(inputs, gru.width)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.gru.state_dict().items()})
    return cell


@pytest.mark.parametrize("resets", [0.0, 0.02, 0.3, 1.0])
def test_reset_gru_equals_a_cell_stepped_by_hand(resets):
    gru = ResetGRU(3, 8)
    cell = cell_of(gru, 3)
    x, start = torch.randn(20, 6, 3), torch.randn(6, 8)
    first = torch.rand(20, 6) < resets
    first[0, :3] = resets > 0
    x_mine, start_mine = x.clone().requires_grad_(), start.clone().requires_grad_()
    states, last = gru(x_mine, start_mine, first)
    x_hand, state = x.clone().requires_grad_(), start.clone().requires_grad_()
    start_hand, rows = state, []
    for t in range(20):
        state = cell(x_hand[t], torch.where(first[t, :, None], 0.0, state))
        rows.append(state)
    torch.testing.assert_close(states, torch.stack(rows), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, state, rtol=1e-5, atol=1e-6)
    weight = torch.randn(20, 6, 8)
    (states * weight).sum().backward()
    (torch.stack(rows) * weight).sum().backward()
    torch.testing.assert_close(x_mine.grad, x_hand.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(start_mine.grad, start_hand.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in cell.named_parameters():
        mine = getattr(gru.gru, f"{name}_l0").grad
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-4)


def test_one_row_and_two_halves_are_the_whole():
    gru = ResetGRU(3, 8)
    x, state, first = torch.randn(9, 4, 3), torch.randn(4, 8), torch.rand(9, 4) < 0.2
    whole, last = gru(x, state, first)
    for cut in (1, 4, 8):
        head, middle = gru(x[:cut], state, first[:cut])
        tail, end = gru(x[cut:], middle, first[cut:])
        torch.testing.assert_close(torch.cat([head, tail]), whole)
        torch.testing.assert_close(end, last)


@pytest.mark.parametrize("trainable", [False, True])
def test_no_action_is_the_zero_vector(trainable):
    embed = ActionEmbedding(4, 6, trainable=trainable)
    vectors = embed(torch.tensor([[0, 4], [3, 4]]))
    assert vectors.shape == (2, 2, 6)
    assert (vectors[:, 1] == 0).all()
    assert (vectors[:, 0] != 0).all()
    assert len(list(embed.parameters())) == trainable
    if trainable:
        vectors.sum().backward()
        assert (embed.weight.grad[4] == 0).all()
        assert (embed.weight.grad[0] == 1).all()


def test_trunk_reads_the_previous_action_only_with_memory():
    obs, action = torch.randint(256, (5, 3, 2, 3, 3), dtype=torch.uint8), torch.randint(4, (5, 3))
    first = torch.zeros(5, 3, dtype=torch.bool)
    for width in (0, 8):
        trunk = Trunk(mlp_encoder((2, 3, 3)), 4, width=width)
        state = trunk.initial_state(3)
        beliefs, last = trunk(obs, action, first, state)
        assert beliefs.shape == (5, 3, trunk.width)
        others, _ = trunk(obs, (action + 1) % 4, first, state)
        assert torch.equal(beliefs, others) == (width == 0)
        assert torch.equal(last, state if width == 0 else beliefs[-1])


@pytest.mark.parametrize("width", [0, 16])
def test_t11_replay_gives_the_stored_log_probabilities(width):
    steps, batch, actions = 40, 6, 5
    policy = ActorCritic(Trunk(mlp_encoder((3, 4, 4)), actions, width=width), actions)
    torch.nn.init.normal_(policy.output.weight)
    first = torch.rand(steps + 1, batch) < 0.1
    first[0, :3] = True
    obs = torch.randint(256, (steps + 1, batch, 3, 4, 4), dtype=torch.uint8)
    start = torch.randn(batch, width)
    prev_action = torch.full((steps + 1, batch), actions)
    action, log_prob = torch.zeros(steps, batch, dtype=torch.int64), torch.zeros(steps, batch)
    values = {head: torch.zeros(steps, batch) for head in policy.heads}
    state = start
    with torch.inference_mode():
        for t in range(steps):
            acted = policy.act(obs[t], prev_action[t], first[t], state)
            action[t], log_prob[t] = sample_actions(acted.logits_BA, torch.rand(batch))
            prev_action[t + 1] = torch.where(first[t + 1], actions, action[t])
            for head, value in acted.values.items():
                values[head][t] = value
            state = acted.state_BM
    output = policy(obs, prev_action, first, start)
    replayed = output.logits_RBA[:-1].log_softmax(-1).gather(-1, action[..., None])[..., 0]
    torch.testing.assert_close(replayed, log_prob, rtol=0, atol=1e-5)
    for head in policy.heads:
        torch.testing.assert_close(output.values[head][:-1], values[head], rtol=0, atol=1e-5)
    if width:
        # The check can fail: without the resets, or from another state, the replay differs.
        for changed in ((torch.zeros_like(first), start), (first, start + 1)):
            wrong = policy(obs, prev_action, *changed).logits_RBA[:-1].log_softmax(-1)
            assert (wrong.gather(-1, action[..., None])[..., 0] - log_prob).abs().max() > 1e-3
