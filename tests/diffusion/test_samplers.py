"""Samplers with exact posteriors reach the law they should; everything that a call can set does what it says."""

from itertools import pairwise

import pytest
import torch

from byol_ext.diffusion.guidance import Guidance, memoryless
from byol_ext.diffusion.samplers import Halting, VESampler
from byol_ext.diffusion.score_interpolation import ScoreInterpolator
from byol_ext.diffusion.warp import LogUniformWarp, UniformWarp

METHODS = ("euler", "heun", "ancestral", "ancestral_token")


def run(source, sampler, *, shape=(100, 200), seed=0, **options):
    noised = torch.ones(shape, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    options = {"posterior": source.posterior, "interpolator": source.interpolator, "noised_BL": noised} | options
    return sampler.sample(options.pop("posterior"), generator=generator, **options)


def total_variation(tokens, law):
    seen = torch.bincount(tokens.flatten(), minlength=law.numel()).double()
    return 0.5 * (seen / seen.sum() - law.flatten()).abs().sum().item()


@pytest.mark.parametrize("method", METHODS)
def test_law_of_independent_tokens(independent, fitted_to_independent, method):
    made = run(independent, VESampler(fitted_to_independent, steps=50, method=method))
    assert total_variation(made.tokens_BL, independent.prior_V) < 0.02
    assert (made.evaluations_B == (101 if method == "heun" else 51)).all()


def test_few_warped_steps_beat_few_linear_ones(independent, fitted_to_independent):
    warped = run(independent, VESampler(fitted_to_independent, steps=10))
    linear = run(independent, VESampler(UniformWarp(0.2, 60.0), steps=10))
    distances = [total_variation(made.tokens_BL, independent.prior_V) for made in (warped, linear)]
    assert distances[0] < 0.04
    assert distances[1] > 0.1


def test_token_draws_are_exact_at_any_number_of_steps(independent, fitted_to_independent):
    for steps in (1, 3):
        made = run(independent, VESampler(fitted_to_independent, steps=steps, method="ancestral_token"))
        assert total_variation(made.tokens_BL, independent.prior_V) < 0.02
    mean = run(independent, VESampler(fitted_to_independent, steps=1, method="ancestral"))
    assert total_variation(mean.tokens_BL, independent.prior_V) > 0.3


@pytest.mark.parametrize("method", METHODS)
def test_law_of_pairs(pairs, method):
    made = run(pairs, VESampler(LogUniformWarp(0.2, 40.0), steps=40, method=method), shape=(20_000, 2))
    index = made.tokens_BL[:, 0] * 5 + made.tokens_BL[:, 1]
    assert total_variation(index, pairs.joint_VV) < 0.03


@pytest.mark.parametrize("method", ["euler", "ancestral_token"])
def test_infilling_reaches_the_conditional_law(pairs, method):
    tokens = pairs.draw(20_000, torch.Generator().manual_seed(5))
    noised = torch.tensor([False, True]).expand(20_000, 2)
    made = run(
        pairs,
        VESampler(LogUniformWarp(0.2, 40.0), steps=25, method=method),
        posterior=pairs.given_first(tokens[:, 0]),
        noised_BL=noised,
        tokens_BL=tokens,
    )
    assert torch.equal(made.tokens_BL[:, 0], tokens[:, 0])
    assert (made.x_BLd[:, 0] == 0).all()
    index = made.tokens_BL[:, 0] * 5 + made.tokens_BL[:, 1]
    assert total_variation(index, pairs.joint_VV) < 0.03


def test_one_euler_and_heun_step_by_hand(independent):
    warp = UniformWarp(0.5, 4.0)
    noise = torch.randn(3, 2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = 0.7 * 4.0 * noise
    slope = (x - independent.posterior(x, torch.full((3,), 4.0)) @ independent.table_Vd) / (4.0 * 0.8)
    euler = x + (0.5 - 4.0) * slope
    ahead = (euler - independent.posterior(euler, torch.full((3,), 0.5)) @ independent.table_Vd) / (0.5 * 0.8)
    heun = x + (0.5 - 4.0) * (slope + ahead) / 2
    for method, expected in (("euler", euler), ("heun", heun)):
        sampler = VESampler(warp, steps=1, method=method, sigma_init=0.7, score_temperature=0.8)
        torch.testing.assert_close(run(independent, sampler, shape=(3, 2)).x_BLd, expected)


def test_sharpening_lowers_entropy(independent, fitted_to_independent):
    def entropy(**options):
        made = run(independent, VESampler(fitted_to_independent, steps=20, **options)).tokens_BL
        return torch.special.entr(torch.bincount(made.flatten()).double() / made.numel()).sum().item()

    plain = entropy()
    assert entropy(score_temperature=0.7) < plain - 0.1
    assert entropy(sigma_init=0.7) < plain - 0.1
    assert entropy(guidance=Guidance(softmax_temperature=0.5)) < plain - 0.1
    assert entropy(guidance=Guidance(top_p=0.5)) < plain - 0.1


def test_nearest_and_argmax_agree(independent, fitted_to_independent):
    short = {"shape": (20, 100)}
    made = [run(independent, VESampler(fitted_to_independent, final=final), **short) for final in ("argmax", "nearest")]
    assert torch.equal(made[0].x_BLd, made[1].x_BLd)
    assert (made[0].tokens_BL == made[1].tokens_BL).double().mean() > 0.999
    assert (made[0].evaluations_B - made[1].evaluations_B == 1).all()


def test_grid(fitted_to_independent):
    sampler = VESampler(LogUniformWarp(1.0, 16.0), steps=4)
    torch.testing.assert_close(sampler.grid(), torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0], dtype=torch.float64))
    dense = VESampler(LogUniformWarp(1.0, 16.0), steps=4, rho=2.0)
    assert dense.grid()[2].item() == pytest.approx(2.0)
    assert (VESampler(fitted_to_independent, steps=50).grid().diff() < 0).all()


def test_previous_estimate_is_handed_on(independent):
    seen = []

    def posterior(x, t, previous):
        p = independent.posterior(x, t)
        seen.append((previous, p @ independent.table_Vd))
        return p

    for method in METHODS:
        seen.clear()
        run(
            independent, VESampler(LogUniformWarp(0.2, 60.0), steps=3, method=method), shape=(2, 3), posterior=posterior
        )
        assert (seen[0][0] == 0).all()
        assert all(torch.equal(later[0], earlier[1]) for earlier, later in pairwise(seen))


def test_halting_saves_evaluations_and_keeps_tokens(independent, fitted_to_independent):
    full = run(independent, VESampler(fitted_to_independent, steps=100), shape=(50, 20))
    for halting, agreement in ((Halting(patience=20), 0.95), (Halting(entropy=1e-2), 0.99)):
        short = run(independent, VESampler(fitted_to_independent, steps=100, halting=halting), shape=(50, 20))
        assert short.evaluations_B.double().mean() < 95
        assert (short.tokens_BL == full.tokens_BL).double().mean() > agreement


def test_unchanged_tokens_do_not_count_at_high_noise(independent):
    warp = LogUniformWarp(0.02, 600.0)  # half of the grid is above the noise at which anything is decided
    made = [
        run(independent, VESampler(warp, steps=40, halting=Halting(patience=4, from_quantile=u)), shape=(8, 20))
        for u in (1.0, 0.5)
    ]
    assert (made[0].tokens_BL == 0).all(), "ends with the most frequent token"
    assert made[1].tokens_BL.unique().numel() > 3


def test_done_sequences_keep_still(independent):
    """A sequence with nothing to fill needs no evaluation, beside one that needs all."""
    noised = torch.tensor([[False, False], [True, True]])
    tokens = torch.tensor([[3, 4], [0, 0]])
    sampler = VESampler(LogUniformWarp(0.2, 60.0), steps=5)
    made = run(independent, sampler, noised_BL=noised, tokens_BL=tokens)
    assert made.tokens_BL[0].tolist() == [3, 4]
    assert made.evaluations_B.tolist() == [0, 6]


def test_observer_sees_every_step(independent):
    seen = []
    sampler = VESampler(LogUniformWarp(0.2, 60.0), steps=3)
    run(independent, sampler, shape=(2, 3), observe=lambda k, t, estimate: seen.append((k, t, estimate.p_BLV.shape)))
    assert [k for k, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == pytest.approx(sampler.grid().tolist())
    assert all(shape == (2, 3, 12) for _, _, shape in seen)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_network_gives_the_same_tokens(independent, fitted_to_independent, method):
    """A toy network whose matrix product runs in bfloat16; the rest of the sampler stays in float32."""
    table = independent.table_Vd.float()
    layer = torch.nn.Linear(16, 12, bias=False)
    layer.weight.data.copy_(table)
    log_prior = independent.prior_V.log().float()

    def network(bf16):
        def posterior(x, t):
            scale = (t**2 + 1.0).sqrt()[:, None, None]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                product = layer(x / scale)
            assert product.dtype == (torch.bfloat16 if bf16 else torch.float32)
            return (log_prior + product.float() * scale / t[:, None, None] ** 2).softmax(-1)

        return memoryless(posterior)

    sampler = VESampler(fitted_to_independent, steps=50, method=method)
    options = {"interpolator": ScoreInterpolator(table), "shape": (20, 100)}
    made = [run(independent, sampler, posterior=network(bf16), **options) for bf16 in (False, True)]
    assert made[0].x_BLd.dtype == made[1].x_BLd.dtype == torch.float32
    assert (made[0].tokens_BL != made[1].tokens_BL).double().mean() < 0.02


def test_autocast_around_the_sampler_leaves_its_sums_alone(independent):
    sampler = VESampler(LogUniformWarp(0.2, 60.0), steps=5, final="nearest")
    options = {"interpolator": ScoreInterpolator(independent.table_Vd.float()), "shape": (4, 10)}
    plain = run(independent, sampler, **options)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(independent, sampler, **options)
    assert torch.equal(plain.x_BLd, inside.x_BLd)


def test_seeded(independent):
    sampler = VESampler(LogUniformWarp(0.2, 60.0), steps=5, method="ancestral_token")
    made = [run(independent, sampler, shape=(4, 10), seed=seed).x_BLd for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_bad_arguments(independent):
    warp = LogUniformWarp(0.2, 60.0)
    wrong = (
        {"method": "sde"},
        {"final": "x"},
        {"steps": 0},
        {"score_temperature": 0.0},
        {"sigma_init": 0.0},
        {"rho": 0},
    )
    for options in wrong:
        with pytest.raises(ValueError, match="|".join(options)):
            VESampler(warp, **options)
    for options in ({"patience": 0}, {"entropy": 0.0}, {"from_quantile": 2.0}):
        with pytest.raises(ValueError, match="|".join(options)):
            Halting(**options)
    sampler = VESampler(warp, steps=1)
    with pytest.raises(ValueError, match="tokens_BL is None"):
        run(independent, sampler, noised_BL=torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="differ in shape"):
        run(independent, sampler, shape=(2, 3), tokens_BL=torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="must be bool"):
        run(independent, sampler, noised_BL=torch.ones(2, 3))
    with pytest.raises(ValueError, match="unconditional"):
        run(independent, VESampler(warp, steps=1, guidance=Guidance(scale=2.0)), shape=(2, 3))
