"""Training of simplex diffusion: what is masked, fed back and fitted; learning, exact posteriors, resuming."""

import copy

import pytest
import torch
import torch.nn.functional as F

from byol_ext.bootstrap import Ctx
from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.masks import all_noised, prefix_mask
from byol_ext.diffusion.objective import CDCDConfig
from byol_ext.diffusion.simplex import SimplexDiffusion
from byol_ext.diffusion.simplex_denoiser import SimplexDenoiser, SimplexDenoiserConfig
from byol_ext.diffusion.simplex_likelihood import simplex_bound
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.simplex_samplers import bridge_step, generate, log_times
from byol_ext.diffusion.times import TokenContext
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp
from byol_ext.diffusion.warp_fit import FittedWarp
from byol_ext.rng import sample_keys
from byol_ext.training import Run, Trainable, TrainConfig, fit
from byol_ext.training.source import LoaderSource, ResumableSampler

V, L = 6, 8
SIZE = TransformerConfig(width=16, depth=1, heads=2)
SIMPLEX, WARP = SimplexDiffusion(V), LogUniformWarp(0.1, 8.0)


def fitted():
    return FittedWarp(PiecewiseLinearWarp(0.1, 8.0, bins=10))


def make(config=None, *, warp=WARP, mask=None, output_prior=False, seed=0):
    torch.manual_seed(seed)
    net = SimplexDenoiser(SimplexDenoiserConfig(V, SIZE, time_units=8, time_frequencies=8, output_prior=output_prior))
    model = SimplexModel(net, SIMPLEX, warp, config, **({} if mask is None else {"mask": mask}))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def make_batch(count=8, *, first=0):
    tokens = torch.randint(V, (count, L), generator=torch.Generator().manual_seed(first))
    return {"tokens": tokens, "id": torch.arange(first, first + count), "epoch": 0}


def calls_of(denoiser):
    """Arguments of each call of a denoiser from here on."""
    calls = []
    denoiser.register_forward_pre_hook(lambda m, args, named: calls.append((*args, named)), with_kwargs=True)
    return calls


def test_is_a_trainable_whose_optimiser_sees_the_denoiser_alone():
    model = make(warp=fitted())
    assert isinstance(model, Trainable)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in model.denoiser.parameters()}


def test_loss_is_the_mean_over_noised_positions_of_each_sequence():
    model = make(CDCDConfig(self_conditioning=False))
    views, ctx = TokenContext(0)(make_batch(), 0)
    seen = []
    model.denoiser.register_forward_hook(lambda m, a, kw, out: seen.append((a, kw, out)), with_kwargs=True)
    out = model(views, ctx)
    ((y, t), inputs, logits), tokens = seen[0], views["tokens"]
    assert torch.equal(t, WARP.times(ctx.data["u"]))
    assert torch.equal(y, SIMPLEX.keyed_noise(tokens, t, keys_B=ctx.data["keys"]))
    assert torch.equal(inputs["noised_BL"], model.mask(ctx.data["keys"], L))
    rows, each = [], iter(logits)
    for b in range(len(tokens)):
        terms = [-next(each).log_softmax(-1)[tokens[b, i]] for i in range(L) if inputs["noised_BL"][b, i]]
        rows.append(torch.stack(terms).mean())
    assert next(each, None) is None
    torch.testing.assert_close(out.elements["cross_entropy"], torch.stack(rows))
    torch.testing.assert_close(out.loss, torch.stack(rows).mean())


def test_predictions_do_not_read_the_noised_tokens():
    model = make()
    views, ctx = TokenContext(0)(make_batch(), 0)
    calls = calls_of(model.denoiser)
    model(views, ctx)
    y, t, inputs = calls[-1]
    other = torch.where(inputs["noised_BL"], (inputs["given_BL"] + 1) % V, inputs["given_BL"])
    assert torch.equal(model.denoiser(y, t, **inputs | {"given_BL": other}), model.denoiser(y, t, **inputs))


@pytest.mark.parametrize("count", [8, 7, 1])
def test_half_of_the_batch_sees_a_first_prediction_without_gradient(count):
    model = make(mask=all_noised)
    calls, shares = calls_of(model.denoiser), []
    for step in range(6):
        calls.clear()
        model(*TokenContext(step)(make_batch(count), step), step)
        y, t, inputs = calls[-1]
        previous = inputs["previous_BLV"]
        assert not previous.requires_grad
        shown = (previous != 0).any(-1).any(-1)
        shares.append(int(shown.sum()))
        assert len(calls) == 1 + bool(shares[-1])
        if shares[-1]:
            assert calls[0][-1]["previous_BLV"] is None
            logits = model.denoiser(y[shown], t[shown], **calls[0][-1] | {"only_noised": False})
            torch.testing.assert_close(previous[shown], logits.softmax(-1))
    assert set(shares) <= {count // 2, (count + 1) // 2}
    assert count > 1 or set(shares) == {0, 1}


def test_half_precision_does_not_lose_gradients_to_the_first_pass():
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(*TokenContext(0)(make_batch(), 0)).loss
    loss.backward()
    assert loss.dtype == torch.float32
    lost = [name for name, p in model.denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert lost == []


def test_condition_dropout_drops_the_tokens_and_keeps_the_mask():
    model = make(CDCDConfig(condition_dropout=0.3, self_conditioning=False), mask=prefix_mask)
    calls = calls_of(model.denoiser)
    views, ctx = TokenContext(0)(make_batch(2000), 0)
    with torch.no_grad():
        model(views, ctx)
    inputs = calls[0][-1]
    assert inputs["dropped_B"].double().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(inputs["noised_BL"], prefix_mask(ctx.data["keys"], L))
    assert (~inputs["noised_BL"][inputs["dropped_B"]]).any()


def test_micro_batches_add_up_to_the_batch():
    model, whole = make(), make_batch(8)
    views, ctx = TokenContext(0)(whole, 0)
    parts = [
        model({"tokens": views["tokens"][rows]}, Ctx(data={name: value[rows] for name, value in ctx.data.items()}))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(part.loss for part in parts) / 2, model(views, ctx).loss)


def test_the_warp_is_fitted_to_what_the_window_saw():
    warp = fitted()
    twin, model, prepare = copy.deepcopy(warp), make(warp=warp), TokenContext(0)
    times, entropies = [], []
    for first in (0, 8):
        views, ctx = prepare(make_batch(first=first), 0)
        times.append(warp.times(ctx.data["u"]))
        entropies.append(model(views, ctx, 0).elements["cross_entropy"])
    model.eval()(*prepare(make_batch(), 0), 0)  # an evaluation leaves nothing behind
    values = model.after_step(0)
    expected = twin.fit(0, t_B=torch.cat(times), cross_entropy_B=torch.cat(entropies))
    assert {name: values[name] for name in expected} == expected
    assert "warp/loss" not in model.after_step(1)


def test_after_step_raises_the_prior_and_moves_the_average():
    model = make(CDCDConfig(prior_steps=4), output_prior=True)
    with torch.no_grad():
        model.denoiser.output.bias += 1.0
    before = model.average.output.bias.clone()
    assert model.after_step(0) == {"ema/decay": pytest.approx(0.1)}
    torch.testing.assert_close(model.average.output.bias, 0.1 * before + 0.9 * model.denoiser.output.bias)
    weights = [model.average.prior_weight.item()]
    for step in range(1, 6):
        model.after_step(step)
        weights.append(model.average.prior_weight.item())
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cross_entropy_feeds_predictions_back():
    model = make(mask=all_noised)
    tokens, keys, t = make_batch()["tokens"], sample_keys(0, 0, torch.arange(8)), torch.full((8,), 1.0)
    calls = calls_of(model.average)
    values = [model.cross_entropy(tokens, keys_B=keys, t_B=t, passes=passes) for passes in (0, 2)]
    assert [call[-1]["previous_BLV"] is None for call in calls] == [True, True, False, False]
    assert not torch.equal(values[0], values[1])
    y, t, inputs = calls[0]
    logits = model.average(y, t, **inputs | {"only_noised": False})
    torch.testing.assert_close(values[0], F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none").mean(1))


def test_the_exact_network_reaches_the_entropy_in_loss_bound_and_samples():
    prior = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    model = make(CDCDConfig(self_conditioning=False), mask=all_noised, output_prior=True)
    with torch.no_grad():
        for net in (model.denoiser, model.average):
            net.output.weight.zero_()
            net.output.bias.copy_(prior.log())
            net.prior_weight.fill_(1.0)
    tokens = torch.multinomial(prior, 16_000, True, generator=torch.Generator().manual_seed(0)).view(-1, 4)
    keys = sample_keys(0, 0, torch.arange(4000))
    generator = torch.Generator().manual_seed(1)
    last, first = (model.cross_entropy(tokens, keys_B=keys, t_B=torch.full((4000,), t)).mean() for t in (8.0, 0.1))
    entropy = torch.special.entr(prior).sum().item()
    assert last.item() == pytest.approx(-prior.log()[tokens].mean().item(), abs=0.01)
    assert first < 1e-3
    posterior = model.posterior(noised_BL=torch.ones_like(tokens, dtype=torch.bool))
    bound = simplex_bound(posterior, tokens_BL=tokens, simplex=SIMPLEX, warp=WARP, generator=generator)
    assert abs(bound.nats_per_token - entropy) < 3 * bound.standard_error
    like = torch.zeros(4000, 4, V)
    sample = generate(SIMPLEX, posterior, log_times(SIMPLEX, 8), like_BLV=like, step=bridge_step, generator=generator)
    frequencies = torch.bincount(sample.tokens_BL.flatten(), minlength=V) / 16_000
    assert 0.5 * (frequencies - prior).abs().sum() < 0.015


def test_overfitting_64_sequences():
    """Neighbours tell a token that a lone state leaves open."""
    tokens = torch.tensor([[first] * 4 + [second] * 4 for first in range(8) for second in range(8)])
    size = TransformerConfig(width=48, depth=1, heads=4)
    torch.manual_seed(0)
    net = SimplexDenoiser(SimplexDenoiserConfig(8, size, time_units=32, time_frequencies=16))
    simplex = SimplexDiffusion(8)
    model, prepare = SimplexModel(net, simplex, WARP), TokenContext(0)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), betas=(0.9, 0.99))
    middle, keys = torch.full((64,), 1.0), sample_keys(1, 0, torch.arange(64))
    lone = simplex.posterior(simplex.keyed_noise(tokens, middle, keys_B=keys), middle)
    lone_ce = -lone.gather(-1, tokens[..., None]).log().mean()
    for step in range(240):
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / 240)
        out = model(*prepare({"tokens": tokens, "id": torch.arange(64), "epoch": step}, step), step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        model.after_step(step)
    after = model.cross_entropy(tokens, keys_B=keys, t_B=middle).mean()
    assert after < 0.1 * torch.tensor(8.0).log()
    assert after < 0.5 * lone_ce


class Sequences(torch.utils.data.Dataset):
    fingerprint = "sequences"

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"tokens": (torch.arange(L) * (index[0] + 1)) % V, "id": index[0], "epoch": index[1]}


def test_a_stopped_and_resumed_training_is_bit_equal(tmp_path):
    def train(name, steps, *, resume=False):
        model = make(warp=fitted(), output_prior=True)
        config = TrainConfig(steps=steps, schedule="const", warmup=0.0, accumulate_steps=2, trackers=(), device="cpu")
        run = Run.create(tmp_path / name, recipe="toy", config=config, resume_command="again", resume=resume)
        source = LoaderSource(Sequences(), ResumableSampler(16, 4, rank=0, world_size=1))
        fit(model, source, config, prepare=TokenContext(0), run=run, resume=resume)
        return model.state_dict()

    straight = train("straight", 6)
    train("stopped", 3)
    resumed = train("stopped", 6, resume=True)
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed[name]), name
    for a, b in zip(*(state["warp._extra_state"]["state"].values() for state in (straight, resumed)), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_state_dict_round_trip():
    first, second = make(warp=fitted()), make(warp=fitted(), seed=1)
    for step in range(2):
        first(*TokenContext(0)(make_batch(), step), step)
        first.after_step(step)
    second.load_state_dict(first.state_dict())
    batch = TokenContext(0)(make_batch(), 2)
    for model in (first, second):
        model.eval()
    assert torch.equal(first(*batch).loss, second(*batch).loss)
    assert torch.equal(first.warp.times(torch.linspace(0, 1, 9)), second.warp.times(torch.linspace(0, 1, 9)))


def test_what_does_not_go_together_is_refused():
    net = SimplexDenoiser(SimplexDenoiserConfig(V, SIZE))
    with pytest.raises(ValueError, match="the network has 6 tokens, the process 7"):
        SimplexModel(net, SimplexDiffusion(7), WARP)
    with pytest.raises(ValueError, match="covers"):
        SimplexModel(net, SIMPLEX, LogUniformWarp(0.1, 9.0))
    for settings in ({"loss": "likelihood"}, {"post": "renorm"}):
        with pytest.raises(ValueError, match="simplex_bound"):
            SimplexModel(net, SIMPLEX, WARP, CDCDConfig(**settings))
    with pytest.raises(ValueError, match="multiple of 1/2"):
        SimplexModel(net, SimplexDiffusion(V, CIR(0.7)), WARP)(*TokenContext(0)(make_batch(), 0))
