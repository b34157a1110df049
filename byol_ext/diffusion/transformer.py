"""The Transformer that CDCD and its baselines share: pre-norm blocks, rotary positions, optional FiLM.

It maps ``[B, L, W]`` to ``[B, L, W]``: embeddings, time features and output layers belong to the models. Autoregressive
models use it causally, with a cache when they sample; masked and continuous diffusion in both directions. One
:class:`TransformerConfig` therefore means one size in all of them.

Legend: ``B`` sequences, ``L`` positions, ``W`` width, ``C`` condition width; ``H`` heads, ``D`` width of a head, ``S``
positions that are attended to; ``N`` positions, of all sequences, whose hidden states are wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class TransformerConfig:
    """Size of a Transformer. Defaults: CDCD's base model (arXiv 2211.15089, 6.1), whose heads and dropout are ours."""

    width: int = 1024
    """Width of the residual stream."""
    depth: int = 8
    """Blocks."""
    heads: int = 16
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden units of each MLP over the width."""
    dropout: float = 0.0
    """Dropout on what each attention and MLP adds to the residual stream."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotary positions, over ``2 pi``."""

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.mlp_ratio <= 0.0 or self.rope_base <= 1.0:
            raise ValueError(f"width, depth, heads and mlp_ratio must be positive and rope_base above 1, got {self}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width={self.width} must be an even multiple of heads={self.heads}: rotary positions turn pairs"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")


@dataclass
class KeyValueCache:
    """Keys and values of the positions seen so far, for sampling one position at a time.

    Attributes:
        keys: ``[B, H, S, D]`` of each block, rotated.
        values: ``[B, H, S, D]`` of each block.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Positions ``S`` seen so far."""
        return self.keys[0].shape[2] if self.keys else 0

    def extend(self, block: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of a block's new positions; returns those of all positions."""
        if block == len(self.keys):
            self.keys.append(k_BHLD)
            self.values.append(v_BHLD)
        else:
            self.keys[block] = torch.cat([self.keys[block], k_BHLD], dim=2)
            self.values[block] = torch.cat([self.values[block], v_BHLD], dim=2)
        return self.keys[block], self.values[block]


class Transformer(nn.Module):
    """Pre-norm blocks and a last norm.

    With a condition, each LayerNorm is followed by a shift and a scale that depend on it (FiLM; CDCD 4.2), zero at
    initialisation (ours), so that the condition has no effect at first.

    Args:
        config: The size.
        causal: Whether a position sees only itself and earlier ones.
        condition_width: Width ``C`` of the condition; None for none.

    Example:
        >>> net = Transformer(TransformerConfig(width=8, depth=2, heads=2), causal=True)
        >>> x_BLW, cache = torch.randn(1, 3, 8), KeyValueCache()
        >>> steps = [net(x_BLW[:, i : i + 1], cache=cache) for i in range(3)]
        >>> torch.allclose(torch.cat(steps, dim=1), net(x_BLW), atol=1e-5)
        True
    """

    def __init__(self, config: TransformerConfig, *, causal: bool = False, condition_width: int | None = None) -> None:
        super().__init__()
        self.config, self.causal, self.condition_width = config, causal, condition_width
        self.blocks = nn.ModuleList(_Block(config, condition_width) for _ in range(config.depth))
        self.norm = FiLMLayerNorm(config.width, condition_width)

    def forward(
        self,
        x_BLW: Tensor,
        condition_BC: Tensor | None = None,
        *,
        cache: KeyValueCache | None = None,
        wanted_BL: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm, ``[B, L, W]``, or ``[N, W]`` of the wanted positions.

        Args:
            x_BLW: Embedded inputs.
            condition_BC: One condition a sequence, if the network was built with one.
            cache: Earlier positions (causal networks); it is extended by these.
            wanted_BL: Bool, true at the only positions whose states are wanted; they come row by row. After the last
                attention, nothing is computed for the others.

        Raises:
            ValueError: If a condition is missing or not expected, or a cache goes with a network that is not causal.
        """
        if (condition_BC is None) != (self.condition_width is None):
            raise ValueError(f"condition_width={self.condition_width}, but the condition is {condition_BC}")
        if cache is not None and not self.causal:
            raise ValueError("a cache of earlier positions needs causal=True: here they see the later ones too")
        past = cache.length if cache is not None else 0
        rotation = self._rotation(past, past + x_BLW.shape[1], x_BLW)
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            x_BLW, condition_BC = block(
                x_BLW,
                condition_BC,
                rotation,
                causal=self.causal,
                cache=cache,
                index=index,
                wanted_BL=wanted_BL if last else None,
            )
        hidden_BLW = self.norm(x_BLW, condition_BC)
        return hidden_BLW if wanted_BL is None else hidden_BLW[:, 0]

    def _rotation(self, start: int, stop: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine ``[L, D/2]`` of each position's angles, in float32 or wider."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        half = self.config.width // self.config.heads // 2
        frequencies = self.config.rope_base ** -(torch.arange(half, device=like.device, dtype=dtype) / half)
        angles = torch.arange(start, stop, device=like.device, dtype=dtype)[:, None] * frequencies
        return angles.cos(), angles.sin()


class FiLMLayerNorm(nn.Module):
    """LayerNorm, then ``(1 + scale(c)) y + shift(c)`` if there is a condition ``c``.

    Args:
        width: Width ``W``.
        condition_width: Width ``C`` of the condition; None for a plain LayerNorm.
    """

    def __init__(self, width: int, condition_width: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = nn.Linear(condition_width, 2 * width) if condition_width is not None else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x_BLW: Tensor, condition_BC: Tensor | None) -> Tensor:
        """Normalised and modulated ``[B, L, W]``."""
        y_BLW = self.norm(x_BLW)
        if self.film is None:
            return y_BLW
        scale_B1W, shift_B1W = self.film(condition_BC)[:, None].chunk(2, dim=-1)
        return y_BLW * (1.0 + scale_B1W) + shift_B1W


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig, condition_width: int | None) -> None:
        super().__init__()
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.heads = config.heads
        self.attention_norm = FiLMLayerNorm(width, condition_width)
        self.qkv = _linear(width, 3 * width)
        # Smaller outputs keep the variance of the residual stream independent of the depth.
        self.attention_out = _linear(width, width, gain=1.0 / math.sqrt(2 * config.depth))
        self.mlp_norm = FiLMLayerNorm(width, condition_width)
        self.mlp_in = _linear(width, hidden)
        self.mlp_out = _linear(hidden, width, gain=1.0 / math.sqrt(2 * config.depth))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BLW: Tensor,
        condition_BC: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        *,
        causal: bool,
        cache: KeyValueCache | None,
        index: int,
        wanted_BL: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """States and conditions; if only some positions are wanted, each of them as a sequence of length 1."""
        qkv = self.qkv(self.attention_norm(x_BLW, condition_BC))
        q, k, v = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.heads)
        q, k = _rotate(q, rotation), _rotate(k, rotation)
        if cache is not None:
            k, v = cache.extend(index, k, v)
        attended = _attend(q, k, v, causal=causal)
        x_BLW = x_BLW + self.dropout(self.attention_out(rearrange(attended, "b h l d -> b l (h d)")))
        if wanted_BL is not None:
            x_BLW = x_BLW[wanted_BL][:, None]
            condition_BC = condition_BC[wanted_BL.nonzero()[:, 0]] if condition_BC is not None else None
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x_BLW, condition_BC)))
        return x_BLW + self.dropout(self.mlp_out(hidden)), condition_BC


def _attend(q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, causal: bool) -> Tensor:
    """Attention of the last ``L`` of ``S`` positions."""
    length, past = q_BHLD.shape[2], k_BHSD.shape[2] - q_BHLD.shape[2]
    if causal and past and length > 1:
        seen_LS = torch.ones(length, past + length, dtype=torch.bool, device=q_BHLD.device).tril(past)
        return F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, attn_mask=seen_LS)
    return F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, is_causal=causal and not past)


def _rotate(x_BHLD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pair ``(x_i, x_{i + D/2})`` of each position by its angle ``i`` (RoPE, arXiv 2104.09864)."""
    cos, sin = rotation
    first, second = x_BHLD.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x_BHLD.dtype)


def _linear(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Linear:
    """A linear layer that multiplies the variance of unit inputs by ``gain ** 2``, without bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)
    return layer
