"""CDCD's objective: gradients, self-conditioning, the bound, the warp, resuming (spec 12.6, 12.8, 12.11, 12.13)."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from byol_ext.bootstrap import Ctx
from byol_ext.diffusion.denoiser import Denoiser, DenoiserConfig
from byol_ext.diffusion.masks import all_noised, prefix_mask
from byol_ext.diffusion.objective import CDCD, CDCDConfig
from byol_ext.diffusion.times import TokenContext
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.diffusion.warp import LogUniformWarp, PiecewiseLinearWarp
from byol_ext.diffusion.warp_fit import FittedWarp
from byol_ext.rng import sample_keys
from byol_ext.training import Run, Trainable, TrainConfig, fit
from byol_ext.training.source import LoaderSource, ResumableSampler

V, L, D = 6, 8, 8
TINY = DenoiserConfig(V, D, TransformerConfig(width=16, depth=1, heads=2), time_units=8, time_frequencies=8)
WARP = LogUniformWarp(0.15, 40.0)


def make(config=None, *, denoiser=TINY, warp=WARP, mask=None, seed=0):
    torch.manual_seed(seed)
    model = CDCD(Denoiser(denoiser), warp, config, **({} if mask is None else {"mask": mask}))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def make_batch(count=8, *, length=L, first=0):
    ids = torch.arange(first, first + count)
    tokens = torch.randint(V, (count, length), generator=torch.Generator().manual_seed(first))
    return {"tokens": tokens, "id": ids, "epoch": 0}


def calls_of(denoiser):
    """Arguments of each call of a denoiser from here on."""
    calls = []
    denoiser.register_forward_pre_hook(lambda m, args, named: calls.append((*args, named)), with_kwargs=True)
    return calls


def step_of(model, optimizer, prepare, step, batch):
    out = model(*prepare(batch, step), step)
    optimizer.zero_grad()
    out.loss.backward()
    optimizer.step()
    return model.after_step(step)


def test_is_a_trainable_whose_optimiser_sees_the_denoiser_alone():
    model = make(warp=FittedWarp(PiecewiseLinearWarp(0.15, 40.0)))
    assert isinstance(model, Trainable)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in model.denoiser.parameters()}


def test_loss_is_the_mean_over_noised_positions_of_each_sequence():
    model = make(CDCDConfig(self_conditioning=False))
    views, ctx = TokenContext(0)(make_batch(), 0)
    seen = []
    model.denoiser.register_forward_hook(lambda m, a, kw, out: seen.append((kw, out)), with_kwargs=True)
    out = model(views, ctx)
    (inputs, logits), tokens = seen[0], views["tokens"]
    rows, each = [], iter(logits)
    for b in range(len(tokens)):
        terms = [-next(each).log_softmax(-1)[tokens[b, i]] for i in range(L) if inputs["noised_BL"][b, i]]
        rows.append(torch.stack(terms).mean())
    assert next(each, None) is None
    torch.testing.assert_close(out.elements["cross_entropy"], torch.stack(rows))
    torch.testing.assert_close(out.loss, torch.stack(rows).mean())


def test_noised_positions_are_predicted_and_no_others():
    model = make()
    logits = []
    model.denoiser.register_forward_hook(lambda m, args, out: logits.append(out))
    views, ctx = TokenContext(0)(make_batch(), 0)
    loss = model(views, ctx).loss
    (gradient,) = torch.autograd.grad(loss, logits[-1])
    assert len(gradient) == model.mask(ctx.data["keys"], L).sum()
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("count", [8, 7, 1])
def test_half_of_the_batch_sees_a_first_prediction_without_gradient(count):
    model = make(mask=all_noised)
    calls, shares = calls_of(model.denoiser), []
    for step in range(6):
        calls.clear()
        model(*TokenContext(step)(make_batch(count), step), step)
        x, t, inputs = calls[-1]
        previous = inputs["previous_BLd"]
        assert x.requires_grad
        assert not previous.requires_grad
        shown = (previous != 0).any(-1).any(-1)
        shares.append(int(shown.sum()))
        assert len(calls) == 1 + bool(shares[-1])
        if shares[-1]:
            logits = model.denoiser(x[shown], t[shown], **calls[0][-1] | {"only_noised": False})
            assert calls[0][-1]["previous_BLd"] is None
            torch.testing.assert_close(previous[shown], logits.softmax(-1) @ model.denoiser.embedding.table())
    assert set(shares) <= {count // 2, (count + 1) // 2}
    assert count > 1 or set(shares) == {0, 1}


def test_gradient_is_that_of_a_constant_first_prediction():
    model = make(mask=all_noised)
    views, ctx = TokenContext(0)(make_batch(), 0)
    model(views, ctx).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.denoiser.named_parameters()}
    model.zero_grad()
    calls = calls_of(model.denoiser)
    model(views, ctx)
    x, t, inputs = calls[-1]
    constant = {"previous_BLd": inputs["previous_BLd"].detach(), "only_noised": False}
    logits = model.denoiser(x, t, **inputs | constant)
    F.cross_entropy(logits.movedim(-1, 1), views["tokens"]).backward()
    for name, parameter in model.denoiser.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


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
    dropped = (inputs["given_BLd"] == 0).all(-1).all(-1)
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(inputs["noised_BL"], prefix_mask(ctx.data["keys"], L))
    assert (~inputs["noised_BL"][dropped]).any()


def test_micro_batches_add_up_to_the_batch():
    model, whole = make(), make_batch(8)
    views, ctx = TokenContext(0)(whole, 0)
    parts = [
        model({"tokens": views["tokens"][rows]}, Ctx(data={name: value[rows] for name, value in ctx.data.items()}))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(part.loss for part in parts) / 2, model(views, ctx).loss)
    torch.testing.assert_close(
        torch.cat([part.elements["cross_entropy"] for part in parts]), model(views, ctx).elements["cross_entropy"]
    )


def bayes_model(config, *, log_prior, warp=WARP):
    """A denoiser that is the exact posterior of independent tokens."""
    model = make(config, denoiser=DenoiserConfig(V, D, TINY.transformer, output_prior=True), warp=warp, mask=all_noised)
    with torch.no_grad():
        model.denoiser.output.weight.zero_()
        model.denoiser.output.bias.copy_(log_prior)
        model.denoiser.prior_weight.fill_(1.0)
    return model


def test_bound_of_the_exact_posterior_is_the_entropy():
    prior = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    model = bayes_model(CDCDConfig(loss="likelihood", self_conditioning=False), log_prior=prior.log())
    tokens = torch.multinomial(prior, 40_000, replacement=True).view(-1, 2)
    with torch.no_grad():
        out = model(*TokenContext(0)({"tokens": tokens, "id": torch.arange(20_000), "epoch": 0}, 0))
    cross_entropy = -prior.log()[tokens].mean().item()
    assert out.loss.item() == pytest.approx(cross_entropy, abs=0.05)
    assert out.terms["bound"].item() == pytest.approx(out.loss.item())


def test_bound_trains_the_network_and_the_embeddings():
    model = make(CDCDConfig(loss="likelihood"))
    model(*TokenContext(0)(make_batch(64), 0)).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.denoiser.parameters())


def test_a_collapsed_table_gives_the_unigram_entropy():
    prior = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0, 0.0])
    model = bayes_model(CDCDConfig(self_conditioning=False), log_prior=(prior + 1e-12).log())
    with torch.no_grad():
        model.denoiser.embedding.weight[:] = model.denoiser.embedding.weight[0]
    tokens = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]).repeat(4, 1)
    out = model(*TokenContext(0)({"tokens": tokens, "id": torch.arange(4), "epoch": 0}, 0))
    assert out.loss.item() == pytest.approx(1.75 * math.log(2), abs=1e-5)


def test_a_collapsed_table_cannot_be_learned_beyond_the_unigram_entropy():
    model = make(CDCDConfig(self_conditioning=False), mask=all_noised)
    with torch.no_grad():
        model.denoiser.embedding.weight[:] = model.denoiser.embedding.weight[0]
    model.denoiser.embedding.requires_grad_(False)
    trained = [p for p in model.denoiser.parameters() if p.requires_grad]
    optimizer, prepare = torch.optim.Adam(trained, lr=1e-2), TokenContext(0)
    draws = torch.Generator().manual_seed(0)
    prior, losses = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0, 0.0]), []
    for step in range(80):
        tokens = torch.multinomial(prior, 64 * L, replacement=True, generator=draws).view(64, L)
        out = model(*prepare({"tokens": tokens, "id": torch.arange(64), "epoch": step}, step), step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert sum(losses[-20:]) / 20 == pytest.approx(1.75 * math.log(2), abs=0.03)


def test_the_warp_is_fitted_to_what_the_window_saw():
    warp = FittedWarp(PiecewiseLinearWarp(0.15, 40.0, bins=10))
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
    assert all(torch.equal(a, b) for a, b in zip(warp.live.parameters(), twin.live.parameters(), strict=True))


def test_the_warp_forgets_skipped_steps():
    warp = FittedWarp(PiecewiseLinearWarp(0.15, 40.0, bins=10))
    twin, model, prepare = copy.deepcopy(warp), make(warp=warp), TokenContext(0)
    model(*prepare(make_batch(first=8), 0), 0)
    views, ctx = prepare(make_batch(), 1)
    entropies = model(views, ctx, 1).elements["cross_entropy"]
    expected = twin.fit(1, t_B=twin.times(ctx.data["u"]), cross_entropy_B=entropies)
    assert model.after_step(1)["warp/loss"] == expected["warp/loss"]
    assert "warp/loss" not in model.after_step(2)


def test_after_step_raises_the_prior_and_moves_the_average():
    model = make(CDCDConfig(prior_steps=4), denoiser=DenoiserConfig(V, D, TINY.transformer, output_prior=True))
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
    tokens, keys, t = make_batch()["tokens"], sample_keys(0, 0, torch.arange(8)), torch.full((8,), 2.0)
    calls = calls_of(model.average)
    values = [model.cross_entropy(tokens, keys_B=keys, t_B=t, passes=passes) for passes in (0, 2)]
    assert [call[-1]["previous_BLd"] is None for call in calls] == [True, True, False, False]
    assert not torch.equal(values[0], values[1])
    x, t, inputs = calls[0]
    logits = model.average(x, t, **inputs | {"only_noised": False})
    torch.testing.assert_close(values[0], F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none").mean(1))


def test_overfitting_64_sequences():
    """A lone token would leave .31 of the entropy at this noise; its neighbours tell it (spec 12.11)."""
    tokens = torch.tensor([[first] * 4 + [second] * 4 for first in range(8) for second in range(8)])
    size = TransformerConfig(width=48, depth=1, heads=4)
    config = DenoiserConfig(8, 16, size, time_units=32, time_frequencies=16, embedding_init_std=0.1)
    model, prepare = CDCD(Denoiser(config), LogUniformWarp(0.1, 30.0)), TokenContext(0)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), betas=(0.9, 0.99))
    batch = {"tokens": tokens, "id": torch.arange(64)}
    middle, keys = model.warp.times(torch.full((64,), 0.5)), sample_keys(1, 0, torch.arange(64))
    before = model.cross_entropy(tokens, keys_B=keys, t_B=middle).mean()
    for step in range(240):
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / 240)
        step_of(model, optimizer, prepare, step, batch | {"epoch": step})
    assert model.cross_entropy(tokens, keys_B=keys, t_B=middle).mean() < 0.1 * before


class Sequences(torch.utils.data.Dataset):
    fingerprint = "sequences"

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"tokens": (torch.arange(L) * (index[0] + 1)) % V, "id": index[0], "epoch": index[1]}


def test_a_stopped_and_resumed_training_is_bit_equal(tmp_path):
    def train(name, steps, *, resume=False):
        model = make(
            denoiser=DenoiserConfig(V, D, TINY.transformer, output_prior=True),
            warp=FittedWarp(PiecewiseLinearWarp(0.15, 40.0, bins=10)),
        )
        config = TrainConfig(steps=steps, schedule="const", warmup=0.0, accumulate_steps=2, trackers=(), device="cpu")
        run = Run.create(tmp_path / name, recipe="toy", config=config, resume_command="again", resume=resume)
        source = LoaderSource(Sequences(), ResumableSampler(16, 4, rank=0, world_size=1))
        fit(model, source, config, prepare=TokenContext(0), run=run, resume=resume)
        return model

    straight = train("straight", 6).state_dict()
    train("stopped", 3)
    resumed = train("stopped", 6, resume=True).state_dict()
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed[name]), name
    for a, b in zip(*(state["warp._extra_state"]["state"].values() for state in (straight, resumed)), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "settings",
    [{"loss": "mse"}, {"post": "round"}, {"condition_dropout": 1.5}, {"reconstruction_share": 0.0}, {"prior_steps": 0}],
    ids=str,
)
def test_bad_settings(settings):
    with pytest.raises(ValueError):
        CDCDConfig(**settings)
