"""The text room: captions, tokenizers and encoders.

Each encoder is a module with ``width`` and ``forward(**tokens) -> [B, width]``, where ``tokens`` is what the
matching tokenizer returns.

Example:
    >>> tokenizer = HashTokenizer(1024)
    >>> encoder = SmallTextEncoder(tokenizer.vocab_size, width=64)
    >>> encoder(**tokenizer(["a slow reel on a flute"])).shape
    torch.Size([1, 64])
"""

from byol_ext.text.encoders import (
    FeatureEncoder,
    HFText,
    SmallTextEncoder,
    hf_text,
    mean_pool,
    roberta_base_config,
    to_device,
)
from byol_ext.text.features import FrozenTextFeatures
from byol_ext.text.sources import MINILM, minilm_path, resolve_source
from byol_ext.text.tokenizers import HashTokenizer, HFTokenizer, Tokenizer, tokenizer_from_state
from byol_ext.text.transforms import (
    CaptionAugment,
    TruncationCount,
    choose_caption,
    normalize_caption,
    normalize_captions,
    tags_to_prompt,
    usable_captions,
)

__all__ = [
    "MINILM",
    "CaptionAugment",
    "FeatureEncoder",
    "FrozenTextFeatures",
    "HFText",
    "HFTokenizer",
    "HashTokenizer",
    "SmallTextEncoder",
    "Tokenizer",
    "TruncationCount",
    "choose_caption",
    "hf_text",
    "mean_pool",
    "minilm_path",
    "normalize_caption",
    "normalize_captions",
    "resolve_source",
    "roberta_base_config",
    "tags_to_prompt",
    "to_device",
    "tokenizer_from_state",
    "usable_captions",
]
