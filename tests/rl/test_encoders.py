"""Observation encoders on any leading dims, and the size of the residual stack."""

import pytest
import torch

from byol_ext.rl.encoders import InputStatistics, impala_cnn, mlp_encoder, nature_cnn

ENCODERS = {
    "mlp": (lambda: mlp_encoder((2, 5, 5), (16, 8)), (2, 5, 5), 8),
    "vector": (lambda: mlp_encoder((7,), scale=1.0), (7,), 64),
    "nature": (lambda: nature_cnn((1, 36, 40), 24), (1, 36, 40), 24),
    "impala": (lambda: impala_cnn((3, 20, 17), 12, channels=(4, 8)), (3, 20, 17), 12),
    "impala without norm": (lambda: impala_cnn((3, 20, 17), 12, channels=(4,), norm="none"), (3, 20, 17), 12),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_leading_dims_do_not_matter(name):
    make, shape, width = ENCODERS[name]
    encoder = make()
    assert encoder.width == width
    obs = torch.randint(256, (3, 1, 5, *shape), dtype=torch.uint8)
    encoded = encoder(obs)
    assert encoded.shape == (3, 1, 5, width)
    torch.testing.assert_close(encoder(obs[2, 0, 4]), encoded[2, 0, 4])
    torch.testing.assert_close(encoder(obs[0, 0]), encoded[0, 0])
    torch.testing.assert_close(encoder(obs.transpose(0, 2)), encoded.transpose(0, 2))
    assert encoder(obs[:, :0]).shape == (3, 0, 5, width)


@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_are_scaled_and_gradient_reaches_every_parameter(name):
    make, shape, _ = ENCODERS[name]
    encoder = make()
    obs = torch.randint(256, (4, *shape), dtype=torch.uint8)
    torch.testing.assert_close(encoder(obs), encoder.net(obs.float() * encoder.scale))
    encoder(obs).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


def test_wrong_observations_are_named():
    with pytest.raises(ValueError, match=r"takes observations \(1, 36, 40\), got \(2, 40, 36, 1\)"):
        nature_cnn((1, 36, 40))(torch.zeros(2, 40, 36, 1))


@pytest.mark.parametrize(("channels", "millions"), [((16, 32, 32), 2.08), ((32, 64, 64), 4.35)])
def test_size_of_the_residual_stack(channels, millions):
    encoder = impala_cnn((1, 84, 84), 512, channels=channels)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_size_of_the_nature_network():
    count = sum(p.numel() for p in nature_cnn((4, 84, 84), 512).parameters())
    assert count == (4 * 64 * 32 + 32) + (32 * 16 * 64 + 64) + (64 * 9 * 64 + 64) + (64 * 49 * 512 + 512)


def test_statistics_are_those_of_all_that_was_observed_and_count_after_a_refresh():
    statistics = InputStatistics((2, 3), spread=255.0, clip=2.0)
    seen = torch.randint(256, (7, 5, 2, 3), dtype=torch.uint8)
    torch.testing.assert_close(statistics(seen), seen / 255)
    statistics.refresh()  # nothing to take
    torch.testing.assert_close(statistics(seen), seen / 255)
    statistics.observe(seen[:3])
    statistics.observe(seen[3:])
    torch.testing.assert_close(statistics(seen), seen / 255)
    statistics.refresh()
    rows = seen.flatten(0, 1).double()
    expected = ((rows - rows.mean(0)) / rows.std(0, unbiased=False)).clamp(-2, 2)
    torch.testing.assert_close(statistics(seen).flatten(0, 1), expected.float())


@pytest.mark.parametrize("make", [mlp_encoder, nature_cnn, impala_cnn])
def test_standardised_encoders_do_not_see_offset_and_scale(make):
    """Pictures and the same ones darker and flatter, each by statistics of their own."""
    seen = torch.randint(256, (40, 1, 40, 40), dtype=torch.uint8)
    encoder = make((1, 40, 40), standardise=True)
    encodings = []
    for pictures in (seen.float(), seen.float() * 0.25 + 10):
        encoder.statistics = InputStatistics((1, 40, 40))
        encoder.statistics.observe(pictures)
        encoder.statistics.refresh()
        encodings.append(encoder(pictures[:3]))
    torch.testing.assert_close(*encodings, atol=1e-4, rtol=1e-4)
