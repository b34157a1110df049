"""Sequences, likelihoods and marginals of the four kinds of text model, from untrained networks of one block."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from byol_ext.diffusion.objective import CDCDConfig
from byol_ext.text.language_data import PackedSequences, StreamFacts, TokenStream
from recipes.cdcd_config import CdcdConfig, NetworkConfig, SampleConfig, WarpConfig
from recipes.cdcd_generate import TextModel, draw_sequences, face, prompts
from recipes.cdcd_model import build

KINDS = {
    "cdcd": CdcdConfig(),
    "simplex": CdcdConfig(process="simplex"),
    "mdlm": CdcdConfig(method="mdlm"),
    "ar": CdcdConfig(method="ar"),
}
BIDIRECTIONAL = ["cdcd", "simplex", "mdlm"]
V, L = 5, 6
HOW = SampleConfig(steps=7)


def trainable(kind: str, *, vocab: int = V, self_conditioning: bool = True) -> nn.Module:
    """A model whose probabilities are far from uniform."""
    config = replace(
        KINDS[kind],
        network=NetworkConfig(width=16, depth=1, heads=2, time_units=8, embedding_width=4),
        warp=WarpConfig(kind="loguniform"),
        objective=CDCDConfig(self_conditioning=self_conditioning),
    )
    model = build(config, vocab).eval()
    with torch.no_grad():
        model.average.output.weight.mul_(10.0)
    return model


def model_of(kind: str, **changes: object) -> TextModel:
    return face(trainable(kind, **changes))  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def canvas(batch: int = 3) -> tuple[Tensor, Tensor]:
    tokens_BL = torch.randint(V, (batch, L), generator=generator(7))
    noised_BL = torch.tensor([True, False, True, True, False, True]).expand(batch, -1).clone()
    noised_BL[0, 0] = False
    return tokens_BL, noised_BL


def held_out(count: int = 10) -> PackedSequences:
    tokens = np.random.default_rng(0).integers(0, V, count * L)
    return PackedSequences(TokenStream(tokens, StreamFacts(1, len(tokens), len(tokens), "", "")), L)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_given_tokens(kind: str) -> None:
    model = model_of(kind)
    assert (model.name, model.exact) == (kind, kind == "ar")
    tokens_BL, noised_BL = canvas()
    made = model.sample(tokens_BL, noised_BL, how=HOW, generator=generator())
    assert made.tokens_BL.dtype == torch.int64
    assert torch.equal(made.tokens_BL[~noised_BL], tokens_BL[~noised_BL])
    assert 0 <= int(made.tokens_BL.min()) <= int(made.tokens_BL.max()) < V
    assert made.film is None


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_tokens_are_not_read_and_a_film_changes_nothing(kind: str) -> None:
    model = model_of(kind)
    tokens_BL, noised_BL = canvas(8)
    first = model.sample(tokens_BL, noised_BL, how=HOW, generator=generator())
    other_BL = torch.where(noised_BL, (tokens_BL + 1) % V, tokens_BL)
    second = model.sample(other_BL, noised_BL, how=HOW, generator=generator(), film=4)
    assert torch.equal(first.tokens_BL, second.tokens_BL)
    assert first.evaluations == second.evaluations
    third = model.sample(tokens_BL, noised_BL, how=HOW, generator=generator(1))
    assert not torch.equal(first.tokens_BL, third.tokens_BL)


@pytest.mark.parametrize(
    ("kind", "how", "evaluations"),
    [
        ("cdcd", HOW, 8),
        ("cdcd", replace(HOW, sampler="heun"), 15),
        ("cdcd", replace(HOW, final="nearest"), 7),
        ("cdcd", replace(HOW, guidance=2.0), 16),
        ("simplex", HOW, 8),
        ("simplex", replace(HOW, simplex_sampler="ode", unwarped=True), 8),
        ("ar", HOW, 4),
    ],
)
def test_evaluations_are_counted(kind: str, how: SampleConfig, evaluations: int) -> None:
    calls = []
    model = trainable(kind)
    model.average.transformer.register_forward_hook(lambda *_: calls.append(1))
    tokens_BL, noised_BL = canvas()
    assert face(model).sample(tokens_BL, noised_BL, how=how, generator=generator()).evaluations == evaluations
    assert len(calls) == evaluations


def test_evaluations_of_mdlm_are_those_of_the_longest_sequence() -> None:
    model = trainable("mdlm")
    tokens_BL = torch.zeros(4, L, dtype=torch.int64)
    noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    noised_BL[1:, 1:] = False
    sizes = []
    model.average.transformer.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    made = face(model).sample(tokens_BL, noised_BL, how=replace(HOW, steps=100), generator=generator(3))
    # Six tokens at six of a hundred steps, one more step each for the other three.
    assert made.evaluations == L
    assert sum(sizes) == L + 3


@pytest.mark.parametrize("kind", BIDIRECTIONAL)
def test_film_shows_the_first_sequence(kind: str) -> None:
    tokens_BL, noised_BL = canvas()
    made = model_of(kind).sample(tokens_BL, noised_BL, how=HOW, generator=generator(), film=3)
    film = made.film
    assert film is not None
    assert len(film) == 3
    assert [shot.step for shot in film] == sorted({shot.step for shot in film})
    assert film[0].t > film[-1].t
    assert film[0].step == 0
    for shot in film:
        assert torch.equal(shot.tokens_L[~noised_BL[0]], tokens_BL[0][~noised_BL[0]])
        assert (shot.p_L[~noised_BL[0]] == 1.0).all()
        assert (shot.entropy_L[~noised_BL[0]] == 0.0).all()
        assert ((shot.p_L > 0.0) & (shot.p_L <= 1.0)).all()
        assert ((shot.entropy_L >= 0.0) & (shot.entropy_L <= math.log(V) + 1e-5)).all()
    assert (film[0].entropy_L[noised_BL[0]] > 0.0).all()
    assert torch.equal(film[-1].tokens_L, made.tokens_BL[0])


def test_film_of_mdlm_hides_less_and_less() -> None:
    noised_BL = torch.ones(2, L, dtype=torch.bool)
    zeros_BL = torch.zeros(2, L, dtype=torch.int64)
    made = model_of("mdlm").sample(zeros_BL, noised_BL, how=HOW, generator=generator(), film=99)
    assert made.film is not None
    shares = [shot.t for shot in made.film]
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert shares == sorted(set(shares), reverse=True)
    for shot in made.film:
        assert int((shot.entropy_L > 0.0).sum()) == round(shot.t * L)


def test_ar_likelihood_is_that_of_a_law() -> None:
    model = model_of("ar", vocab=3)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    nats_B = model.nats(every, draws=1, passes=0, generator=generator())
    assert nats_B.dtype == torch.float64
    assert float((-nats_B).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    suffix = torch.tensor([False, False, True, True]).expand_as(every)
    start = every[:, :2].unique(dim=0)
    for row in start:
        chosen = (every[:, :2] == row).all(1)
        given = model.nats(every[chosen], noised_BL=suffix[chosen], draws=1, passes=0, generator=generator())
        assert float((-given).exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", BIDIRECTIONAL)
def test_bounds_sum_to_less_than_a_law(kind: str) -> None:
    model = model_of(kind, vocab=2)
    every = torch.tensor(list(itertools.product(range(2), repeat=3)))
    estimates = [model.nats(every, draws=60, passes=1, generator=generator(seed)) for seed in range(4)]
    assert estimates[0].dtype == torch.float64
    assert float((-torch.stack(estimates).mean(0)).exp().sum()) < 1.01


@pytest.mark.parametrize("kind", KINDS)
def test_nats_of_fewer_tokens(kind: str) -> None:
    model = model_of(kind)
    tokens_BL, noised_BL = canvas()
    few, many = (
        model.nats(tokens_BL, noised_BL=mask, draws=8, passes=0, generator=generator()) for mask in (noised_BL, None)
    )
    assert few.shape == (3,)
    assert (few > 0.0).all()
    if kind == "ar":
        assert (few < many).all()


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_are_laws_and_blind_to_what_is_hidden(kind: str) -> None:
    model = model_of(kind)
    tokens_BL, noised_BL = canvas()
    other_BL = torch.where(noised_BL, (tokens_BL + 1) % V, tokens_BL)
    log_p, other = (model.marginals(rows, noised_BL, generator=generator()) for rows in (tokens_BL, other_BL))
    assert log_p.shape == (3, L, V)
    assert torch.allclose(log_p[noised_BL].exp().sum(-1), torch.ones(1), atol=1e-5)
    assert torch.equal(log_p[noised_BL], other[noised_BL]) == (kind != "ar")


def test_marginals_of_ar_are_its_conditionals() -> None:
    model = model_of("ar")
    tokens_BL, noised_BL = canvas()
    log_p = model.marginals(tokens_BL, noised_BL, generator=generator())
    picked = log_p.gather(-1, tokens_BL[..., None])[..., 0].double().sum(1)
    assert torch.allclose(-picked, model.nats(tokens_BL, draws=1, passes=0, generator=generator()), atol=1e-5)


@pytest.mark.parametrize("kind", ["cdcd", "simplex"])
def test_a_network_without_self_conditioning_sees_no_prediction(kind: str) -> None:
    tokens_BL, noised_BL = canvas()
    model = model_of(kind, self_conditioning=False)
    none, two = (model.nats(tokens_BL, draws=4, passes=k, generator=generator()) for k in (0, 2))
    assert torch.equal(none, two)
    plain = model.sample(tokens_BL, noised_BL, how=HOW, generator=generator())
    trained_with = trainable(kind)
    seen = []
    trained_with.average.input.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    face(trained_with).sample(tokens_BL, noised_BL, how=HOW, generator=generator())
    start, end = (8, 12) if kind == "cdcd" else (V, 2 * V)
    assert not seen[0][..., start:end].any()
    assert seen[1][..., start:end].any()
    without = trainable(kind, self_conditioning=False)
    seen.clear()
    without.average.input.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    again = face(without).sample(tokens_BL, noised_BL, how=HOW, generator=generator())
    assert not any(inputs[..., start:end].any() for inputs in seen)
    assert torch.equal(again.tokens_BL, plain.tokens_BL)


@pytest.mark.parametrize(
    ("kind", "knob"),
    [
        ("ar", {"score_temperature": 0.9}),
        ("mdlm", {"guidance": 2.0}),
        ("simplex", {"sigma_init": 0.5}),
        ("simplex", {"halt_patience": 3}),
        ("ar", {"unwarped": True}),
    ],
)
def test_a_knob_that_would_do_nothing_is_refused(kind: str, knob: dict[str, object]) -> None:
    tokens_BL, noised_BL = canvas()
    how = replace(HOW, **knob)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=next(iter(knob))):
        model_of(kind).sample(tokens_BL, noised_BL, how=how, generator=generator())


@pytest.mark.parametrize(
    ("kind", "knob"),
    [
        ("cdcd", {"score_temperature": 0.5}),
        ("cdcd", {"sigma_init": 0.3}),
        ("cdcd", {"softmax_temperature": 0.2}),
        ("cdcd", {"sampler": "ancestral_token"}),
        ("cdcd", {"unwarped": True}),
        ("cdcd", {"rho": 3.0}),
        ("cdcd", {"guidance": 8.0}),
        ("simplex", {"rho": 3.0}),
        ("simplex", {"softmax_temperature": 0.2}),
        ("simplex", {"simplex_sampler": "sde"}),
        ("mdlm", {"softmax_temperature": 0.2}),
        ("mdlm", {"steps": 2}),
        ("ar", {"softmax_temperature": 0.2}),
        ("ar", {"top_p": 0.5}),
    ],
)
def test_a_knob_changes_what_is_drawn(kind: str, knob: dict[str, object]) -> None:
    model = model_of(kind)
    tokens_BL, noised_BL = canvas(32)
    made = [
        model.sample(tokens_BL, noised_BL, how=how, generator=generator()).tokens_BL
        for how in (HOW, replace(HOW, **knob))  # type: ignore[arg-type]
    ]
    assert not torch.equal(*made)


def test_draw_sequences_in_batches_with_prompts() -> None:
    model, source = model_of("cdcd"), held_out()
    how = SampleConfig(count=5, batch=2, prompt=0.5, steps=3)
    drawn = draw_sequences(model, source, how=how, seed=1, film=2)
    assert drawn.tokens_NL.shape == (5, L)
    assert drawn.noised_NL.sum().item() == 5 * 3
    assert drawn.evaluations == 4
    assert drawn.film is not None
    assert torch.equal(drawn.film[-1].tokens_L, drawn.tokens_NL[0])
    rows = [row.tolist() for row in source.rows()[:, :3]]
    assert all(row[:3].tolist() in rows for row in drawn.tokens_NL)
    again = draw_sequences(model, source, how=how, seed=1)
    assert torch.equal(again.tokens_NL, drawn.tokens_NL)
    colder = draw_sequences(model, source, how=replace(how, score_temperature=0.5), seed=1)
    assert torch.equal(colder.tokens_NL[:, :3], drawn.tokens_NL[:, :3])
    assert not torch.equal(draw_sequences(model, source, how=how, seed=2).tokens_NL, drawn.tokens_NL)


def test_prompts_are_different_sequences_until_there_are_no_more() -> None:
    source = held_out(4)
    tokens_NL, noised_NL = prompts(source, count=6, share=0.99, seed=0)
    assert sorted(tokens_NL[:4, :5].tolist()) == sorted(source.rows()[:, :5].tolist())
    assert torch.equal(tokens_NL[4:], tokens_NL[:2])
    assert noised_NL.sum().item() == 6
    nothing, every = prompts(source, count=2, share=0.0, seed=0)
    assert not nothing.any()
    assert every.all()


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear generates no text"):
        face(nn.Linear(1, 1))
