"""Text encoders ``forward(**tokens) -> [B, width]``: a small one from scratch, any Hugging Face one, cached features.

Attention runs in the ambient precision; pooling is in float32, also under autocast.

Legend: ``B`` captions, ``N`` tokens, ``D`` width, ``H`` heads, ``K`` width of a head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from byol_ext.text.sources import resolve_source

Pool = Literal["cls", "mean", "pooler"]
_ORIGIN = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})


def mean_pool(hidden_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean over the tokens that the mask keeps, in float32.

    Args:
        hidden_BND: Token vectors ``[B, N, D]``.
        mask_BN: 1 for tokens, 0 for padding.

    Returns:
        ``[B, D]`` float32; zeros for a row without tokens.

    Example:
        >>> mean_pool(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[3.]])
    """
    with torch.autocast(hidden_BND.device.type, enabled=False):
        weight_BN1 = mask_BN[..., None].float()
        return (hidden_BND.float() * weight_BN1).sum(1) / weight_BN1.sum(1).clamp_min(1.0)


class _Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, keys_B11N: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm1(x_BND)), "b n (three h k) -> three b h n k", three=3, h=self.heads)
        dropout = self.dropout if self.training else 0.0
        mixed_BHNK = F.scaled_dot_product_attention(q, k, v, attn_mask=keys_B11N, dropout_p=dropout)
        x_BND = x_BND + self.drop(self.out(rearrange(mixed_BHNK, "b h n k -> b n (h k)")))
        return x_BND + self.drop(self.mlp(self.norm2(x_BND)))


class SmallTextEncoder(nn.Module):
    """Embedding, one or two transformer layers, LayerNorm, mean pool: trains on a CPU.

    No layer couples samples, and padding does not change a caption's representation.

    Args:
        vocab_size: Ids of the tokenizer, such as ``HashTokenizer().vocab_size``.
        width: Width of tokens and of the output.
        layers: Transformer layers; 0 is a bag of words with positions.
        heads: Attention heads; must divide ``width``.
        max_tokens: Most tokens of a caption.
        dropout: Dropout in attention and after each part of a layer.

    Attributes:
        width: Width of ``y``.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    Example:
        >>> from byol_ext.text import HashTokenizer
        >>> tokenizer = HashTokenizer(1024)
        >>> encoder = SmallTextEncoder(tokenizer.vocab_size, width=32)
        >>> encoder(**tokenizer(["a slow reel", "a jig"])).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        max_tokens: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}; choose a divisor")
        self.width = width
        self.heads = heads
        self.max_tokens = max_tokens
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def state(self) -> dict[str, Any]:
        """Plain values that change the output and leave the weights as they are."""
        return {"heads": self.heads}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode captions.

        Args:
            input_ids: ``[B, N]`` int64.
            attention_mask: ``[B, N]``, 1 for tokens, 0 for padding.

        Returns:
            ``y`` ``[B, width]`` float32.

        Raises:
            ValueError: If captions are longer than ``max_tokens``.
        """
        if input_ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"{input_ids.shape[1]} tokens exceed max_tokens={self.max_tokens}; give the tokenizer the same limit"
            )
        positions_N = torch.arange(input_ids.shape[1], device=input_ids.device)
        x_BND = self.drop(self.tokens(input_ids) + self.positions(positions_N))
        # The first key is always open, so that a row without tokens gives zeros and no NaN.
        keys_B11N = rearrange(attention_mask.bool() | (positions_N == 0), "b n -> b 1 1 n")
        for block in self.blocks:
            x_BND = block(x_BND, keys_B11N)
        return mean_pool(self.norm(x_BND), attention_mask)


class HFText(nn.Module):
    """A Hugging Face text encoder with pooling; build it with :func:`hf_text`.

    Args:
        net: A model whose output has ``last_hidden_state``.
        pool: ``"cls"`` (first token), ``"mean"`` or ``"pooler"``.
        freeze: Without gradient and always in evaluation mode.

    Attributes:
        width: Width of ``y``.

    Raises:
        ValueError: For ``pool="pooler"`` on a model without a pooler.
    """

    def __init__(self, net: nn.Module, *, pool: Pool = "mean", freeze: bool = False) -> None:
        super().__init__()
        config: Any = net.config
        self.width = int(config.hidden_size)
        self.pool = pool
        self.frozen = freeze
        if pool == "pooler" and getattr(net, "pooler", None) is None:
            raise ValueError(f"{type(net).__name__} has no pooler; use pool='cls' or pool='mean'")
        if pool != "pooler" and getattr(net, "pooler", None) is not None:
            net.pooler = None  # type: ignore[assignment]
        self.net = net
        if freeze:
            self.net.requires_grad_(False)
            self.net.eval()

    def train(self, mode: bool = True) -> HFText:
        """Set the mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.net.eval()
        return self

    def state(self) -> dict[str, Any]:
        """Plain values that change the output and leave the weights as they are: pooling and architecture.

        Names, paths and versions are left out: they say where the weights came from, not what they compute.
        """
        config: Any = self.net.config
        settings: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
        return {"pool": self.pool, "config": {name: settings[name] for name in settings.keys() - _ORIGIN}}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode captions.

        Args:
            input_ids: ``[B, N]`` int64.
            attention_mask: ``[B, N]``, 1 for tokens, 0 for padding.

        Returns:
            ``y`` ``[B, width]`` float32.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            out = self.net(input_ids=input_ids, attention_mask=attention_mask)
            if self.pool == "pooler":
                return out.pooler_output.float()
            if self.pool == "cls":
                return out.last_hidden_state[:, 0].float()
            return mean_pool(out.last_hidden_state, attention_mask)


def roberta_base_config() -> Any:
    """Sizes of RoBERTa-base, the text encoder of SLAP (slap spec §2): 12 layers, 768, vocabulary 50,265, 512 tokens.

    Returns:
        A ``transformers.RobertaConfig``; ``hf_text(roberta_base_config(), pretrained=False)`` needs no file.
    """
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=50265,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )


def hf_text(source: Any, *, pool: Pool = "mean", pretrained: bool = True, freeze: bool = False) -> HFText:
    """A Hugging Face text encoder by name, folder, package or configuration.

    SLAP uses RoBERTa-base with ``pool="pooler"``, LAION-CLAP likewise, open_clip's CLAP ``"mean"`` (slap spec §2).
    The hub's ``roberta-base`` ships no trained pooler: it starts random. Unless it is used, the pooler is removed,
    so that every parameter gets a gradient. Of an encoder-decoder model (T5) the encoder is taken. Weights are
    float32.

    Args:
        source: Hub name, folder, :data:`~byol_ext.text.sources.MINILM`, or a ``transformers`` configuration.
        pool: ``"cls"``, ``"mean"`` or ``"pooler"``.
        pretrained: Load the weights; False starts at random from the configuration alone.
        freeze: Without gradient and always in evaluation mode.

    Returns:
        The encoder.

    Raises:
        ValueError: For a configuration with ``pretrained=True``, or a pooler that the model lacks.
        ImportError: If the source is a package that is not installed.
        OSError: From ``transformers``, if the files are not there.

    Example:
        >>> from transformers import BertConfig
        >>> config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> hf_text(config, pretrained=False).width
        32
    """
    from transformers import AutoConfig, AutoModel

    if not isinstance(source, str | Path):
        if pretrained:
            raise ValueError("a configuration holds no weights; give a name or path, or pass pretrained=False")
        net = AutoModel.from_config(source)
    elif pretrained:
        net = AutoModel.from_pretrained(resolve_source(source), dtype=torch.float32)
    else:
        net = AutoModel.from_config(AutoConfig.from_pretrained(resolve_source(source)))
    if net.config.is_encoder_decoder:
        net = net.get_encoder()
    return HFText(net, pool=pool, freeze=freeze)


class FeatureEncoder(nn.Module):
    """An encoder over cached features: nothing, or a small residual adapter that trains.

    Pair it with :class:`~byol_ext.text.features.FrozenTextFeatures`, which stands where a tokenizer would:
    captions become ``{"features": [B, width]}``, and ``Branch(FeatureEncoder(384), projector)`` trains on them
    without running the frozen network.

    Args:
        width: Width of the features and of ``y``; 384 for MiniLM.
        hidden: Hidden width of the adapter ``x + MLP(LayerNorm(x))``, whose last layer starts at zero; 0 for none.

    Attributes:
        width: Width of ``y``.

    Example:
        >>> features = torch.randn(2, 384)
        >>> torch.equal(FeatureEncoder(384, hidden=64)(features=features), features)
        True
    """

    def __init__(self, width: int, *, hidden: int = 0) -> None:
        super().__init__()
        self.width = width
        self.adapter: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.adapter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), last)

    def forward(self, features: Tensor) -> Tensor:
        """Pass features on, or adapt them.

        Args:
            features: ``[B, width]``.

        Returns:
            ``y`` ``[B, width]`` float32.

        Raises:
            ValueError: If the features have another width.
        """
        if features.shape[-1] != self.width:
            raise ValueError(f"features of width {features.shape[-1]}; this encoder expects {self.width}")
        return (features if self.adapter is None else features + self.adapter(features)).float()


def to_device(tokens: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Move what a tokenizer returned to a device.

    Args:
        tokens: Tensors by name.
        device: The device.
    """
    return {name: value.to(device) for name, value in tokens.items()}
