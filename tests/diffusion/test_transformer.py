"""The shared Transformer against a loop over positions in float64."""

import math

import pytest
import torch
from torch import nn

from byol_ext.diffusion.transformer import FiLMLayerNorm, KeyValueCache, Transformer, TransformerConfig, _rotate

TINY = TransformerConfig(width=16, depth=2, heads=2, mlp_ratio=2.0)


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Also the parameters that start at zero, so that every path is seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net.double().eval()


def attention_by_hand(block, h_LW, *, heads, base, causal):
    """Explicit loops: complex rotation of each pair, softmax of each row."""
    length, width = h_LW.shape
    size = width // heads
    q, k, v = (h_LW @ block.qkv.weight.T + block.qkv.bias).split(width, dim=-1)
    out = torch.zeros_like(q)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)

        def turned(x, position, part=part):
            pairs = torch.complex(x[position, part][: size // 2], x[position, part][size // 2 :])
            angles = [position / base ** (2 * i / size) for i in range(size // 2)]
            return pairs * torch.tensor([complex(math.cos(a), math.sin(a)) for a in angles], dtype=torch.complex128)

        for i in range(length):
            seen = range(i + 1) if causal else range(length)
            scores = torch.stack([(turned(q, i) * turned(k, j).conj()).real.sum() / math.sqrt(size) for j in seen])
            out[i, part] = scores.softmax(0) @ v[list(seen), part]
    return out @ block.attention_out.weight.T + block.attention_out.bias


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_loops(causal):
    net = randomised(Transformer(TINY, causal=causal, condition_width=5))
    x, condition = torch.randn(1, 6, 16).double(), torch.randn(1, 5).double()
    h = x[0]
    for block in net.blocks:
        normed = block.attention_norm(h[None], condition)[0]
        h = h + attention_by_hand(block, normed, heads=2, base=10_000.0, causal=causal)
        hidden = nn.functional.gelu(block.mlp_in(block.mlp_norm(h[None], condition)[0]))
        h = h + hidden @ block.mlp_out.weight.T + block.mlp_out.bias
    torch.testing.assert_close(net(x, condition)[0], net.norm(h[None], condition)[0], rtol=1e-9, atol=1e-9)


def test_film_shifts_and_scales_the_normalised_input():
    film = randomised(FiLMLayerNorm(4, 3))
    x, condition = torch.randn(2, 5, 4).double(), torch.randn(2, 3).double()
    scale, shift = (condition @ film.film.weight.T + film.film.bias).split(4, dim=-1)
    normed = nn.functional.layer_norm(x, (4,), film.norm.weight, film.norm.bias)
    torch.testing.assert_close(film(x, condition), normed * (1 + scale[:, None]) + shift[:, None])


def test_a_condition_has_no_effect_at_initialisation_and_one_later():
    torch.manual_seed(0)
    net = Transformer(TINY, condition_width=3)
    x, first, second = torch.randn(2, 4, 16), torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(net(x, first), net(x, second))
    randomised(net)
    assert not torch.allclose(net(x.double(), first.double()), net(x.double(), second.double()))


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_position_sees(causal):
    net = randomised(Transformer(TINY, causal=causal))
    x = torch.randn(1, 6, 16).double()
    changed = x.clone()
    changed[0, 4] += torch.randn(16).double()
    moved = (net(x) - net(changed)).abs().amax(-1)[0] > 1e-12
    assert moved.tolist() == [not causal] * 4 + [True, True]


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1), (4, 1, 1), (2, 3, 1), (6,)])
def test_cache_gives_what_a_full_pass_gives(pieces):
    net = randomised(Transformer(TINY, causal=True))
    x, cache = torch.randn(3, 6, 16).double(), KeyValueCache()
    parts = [net(part, cache=cache) for part in x.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), net(x))
    assert cache.length == 6


def test_the_order_of_the_others_matters():
    net = randomised(Transformer(TINY))
    x = torch.randn(1, 5, 16).double()
    assert not torch.allclose(net(x)[:, 4], net(x[:, [1, 0, 2, 3, 4]])[:, 4])


def test_positions_are_relative():
    rotation = Transformer(TINY)._rotation(0, 10, torch.zeros(1, dtype=torch.float64))
    q, k = (_rotate(torch.randn(8).double().expand(1, 1, 10, 8), rotation)[0, 0] for _ in range(2))
    products = q @ k.T
    torch.testing.assert_close(products[0, 3], products[6, 9])
    assert not torch.isclose(products[0, 3], products[3, 0])


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    net = Transformer(TransformerConfig(width=16, depth=1, heads=2, dropout=0.5))
    x = torch.randn(1, 4, 16)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    "settings",
    [{"width": 12, "heads": 4}, {"heads": 0}, {"dropout": 1.0}, {"depth": 0}, {"rope_base": 0.5}],
    ids=str,
)
def test_bad_sizes(settings):
    with pytest.raises(ValueError):
        TransformerConfig(**settings)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="condition"):
        Transformer(TINY, condition_width=3)(torch.zeros(1, 2, 16))
    with pytest.raises(ValueError, match="condition"):
        Transformer(TINY)(torch.zeros(1, 2, 16), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="causal"):
        Transformer(TINY)(torch.zeros(1, 2, 16), cache=KeyValueCache())


def test_half_precision_autocast_keeps_positions_exact():
    net = Transformer(TINY, causal=True).eval()
    x = torch.randn(1, 6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x)
    torch.testing.assert_close(half.float(), net(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("condition_width", [None, 3])
def test_wanted_positions_are_those_of_the_whole(condition_width):
    net = randomised(Transformer(TINY, condition_width=condition_width))
    draws = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(4, 6, 16, dtype=torch.float64, generator=draws) for _ in range(2))
    condition = torch.randn(4, 3, dtype=torch.float64, generator=draws) if condition_width else None
    wanted = torch.rand(4, 6, generator=draws) < 0.5
    wanted[1] = False
    whole, alone = net(x, condition)[wanted], net(x, condition, wanted_BL=wanted)
    torch.testing.assert_close(alone, whole, rtol=1e-12, atol=1e-12)
    parameters = list(net.parameters())
    gradients = [torch.autograd.grad((h * weight[wanted]).sum(), parameters) for h in (whole, alone)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-10)
