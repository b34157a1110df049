"""Float64 draws against their law; the nucleus against a loop; cross-entropy against its formula."""

import pytest
import torch
from scipy import stats

from byol_ext.diffusion.categorical import cross_entropy, draw, nucleus, probabilities


def test_draws_follow_the_law():
    p_V = torch.tensor([0.02, 0.0, 0.5, 0.18, 0.3, 0.0], dtype=torch.float64)
    n = 40_000
    drawn = draw(p_V.expand(n, -1), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=6)
    assert counts[1] == counts[5] == 0
    kept = p_V > 0
    assert stats.chisquare(counts[kept].numpy(), (n * p_V[kept]).numpy()).pvalue > 1e-3


def test_weights_need_no_normalisation_and_half_precision_is_summed_in_float64():
    p_BV = torch.rand(500, 300).to(torch.bfloat16)
    a = draw(p_BV, torch.Generator().manual_seed(1))
    b = draw(p_BV.double() * 4.0, torch.Generator().manual_seed(1))
    assert torch.equal(a, b)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.61, 0.999, 1.0])
def test_nucleus_against_a_loop(top_p):
    p_BV = torch.rand(8, 7, dtype=torch.float64).softmax(-1)
    expected = torch.zeros_like(p_BV)
    for row, out in zip(p_BV, expected, strict=True):
        mass = 0.0
        for i in sorted(range(7), key=lambda i: -float(row[i])):
            if mass >= top_p:
                break
            out[i] = row[i]
            mass += float(row[i])
    torch.testing.assert_close(nucleus(p_BV, top_p), expected / expected.sum(-1, keepdim=True), rtol=1e-12, atol=0)


def test_temperature():
    logits = torch.tensor([1.0, 3.0, 3.0])
    assert probabilities(logits, temperature=0.0).tolist() == [0.0, 1.0, 0.0]
    torch.testing.assert_close(probabilities(logits, temperature=0.5), (logits.double() * 2).softmax(-1))
    assert probabilities(logits).dtype == torch.float64


def test_cross_entropy_is_float32_also_in_half_precision():
    logits, tokens = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    expected = logits.logsumexp(-1) - logits.gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(cross_entropy(logits, tokens), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = cross_entropy(logits.bfloat16(), tokens)
    torch.testing.assert_close(half, cross_entropy(logits.bfloat16().float(), tokens), rtol=0, atol=0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="temperature=-1"):
        probabilities(torch.zeros(2), temperature=-1.0)
    with pytest.raises(ValueError, match="top_p=0"):
        probabilities(torch.zeros(2), top_p=0.0)
