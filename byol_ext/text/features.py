"""Outputs of a frozen text encoder, computed once a caption.

Captions are few and fixed (data spec): a frozen encoder need not run twice on the same text.

Legend: ``B`` captions of a batch, ``C`` captions in the cache, ``D`` width.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from byol_ext.text.encoders import to_device
from byol_ext.text.tokenizers import Tokenizer
from byol_ext.text.transforms import normalize_captions


class FrozenTextFeatures:
    """Captions to ``{"features": [B, width]}`` through a frozen encoder, cached by caption text.

    It is called like a tokenizer, and its output goes into a :class:`~byol_ext.text.encoders.FeatureEncoder`: the
    trainable side of the branch sees features only. Captions not seen before are encoded on the spot, in batches
    sorted by length, so a query at evaluation time works too.

    Args:
        encoder: The frozen encoder, with ``width``; it is put into evaluation mode and never trained here. If settings
            that are no weights change its output, its ``state()`` returns them as plain values.
        tokenizer: Its tokenizer.
        batch_size: Captions encoded at a time.
        device: Where the encoder runs; features come back on the CPU.

    Attributes:
        width: Width of the features.

    Example:
        >>> from byol_ext.text import FeatureEncoder, HashTokenizer, SmallTextEncoder
        >>> features = FrozenTextFeatures(SmallTextEncoder(512, width=32), HashTokenizer(512))
        >>> batch = features(["a slow reel", "a jig", "a slow reel"])
        >>> batch["features"].shape, len(features), FeatureEncoder(32)(**batch).shape
        (torch.Size([3, 32]), 2, torch.Size([3, 32]))
    """

    def __init__(
        self, encoder: nn.Module, tokenizer: Tokenizer, *, batch_size: int = 64, device: str | torch.device = "cpu"
    ) -> None:
        self.encoder = encoder.to(device).eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.device = device
        self.width = int(encoder.width)  # type: ignore[arg-type]
        self._row: dict[str, int] = {}
        self._features_CD = torch.empty(0, self.width)

    def __len__(self) -> int:
        return len(self._row)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Features of captions.

        Args:
            texts: Captions.

        Returns:
            ``{"features": [B, width]}`` float32 on the CPU.

        Raises:
            ValueError: If a caption is empty or not a string; names the row.
        """
        normal = normalize_captions(texts)
        self.add(normal)
        return {"features": self._features_CD[[self._row[text] for text in normal]]}

    def add(self, texts: Iterable[str], *, progress: Callable[[int, int], None] | None = None) -> int:
        """Encode the captions that are not in the cache.

        Args:
            texts: Captions; repetitions cost nothing.
            progress: Called with (captions encoded, captions to encode) after each batch.

        Returns:
            How many were encoded.

        Raises:
            ValueError: If a caption is empty or not a string.
        """
        given = list(texts)
        new = [text for text in dict.fromkeys(normalize_captions(given) if given else ()) if text not in self._row]
        new.sort(key=lambda text: (len(text), text))
        chunks = [self._features_CD]
        for first in range(0, len(new), self.batch_size):
            chunk = new[first : first + self.batch_size]
            with torch.inference_mode():
                chunks.append(self.encoder(**to_device(self.tokenizer(chunk), self.device)).float().cpu())
            if progress is not None:
                progress(first + len(chunk), len(new))
        if new:
            start = len(self._row)
            self._features_CD = torch.cat(chunks).clone()
            self._row.update((text, start + i) for i, text in enumerate(new))
        return len(new)

    def fingerprint(self) -> str:
        """Hash of all that decides the features: a cache is valid for one encoder and one tokenizer only.

        It covers the tokenizer's ``fingerprint()``, the encoder's weights, and its ``state()`` if it has one (settings
        that are no weights, such as the pooling). No path goes in, so a cache moves between machines.
        """
        state = getattr(self.encoder, "state", None)
        settings = {
            "tokenizer": self.tokenizer.fingerprint(),
            "encoder": type(self.encoder).__qualname__,
            "state": state() if state is not None else {},
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, value in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the cache as safetensors, atomically; of several processes that write, the last one's file stays.

        Args:
            path: The file.
        """
        target = Path(path)
        metadata = {"texts": json.dumps(list(self._row), ensure_ascii=False), "fingerprint": self.fingerprint()}
        # A folder and not a temporary file, whose permissions would keep other users out.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            temporary = Path(folder) / target.name
            save_file({"features": self._features_CD}, temporary, metadata)
            temporary.replace(target)

    def load(self, path: str | Path) -> int:
        """Add the captions of a saved cache.

        Args:
            path: A file that :meth:`save` wrote.

        Returns:
            Captions added.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it was made with another encoder or tokenizer.
        """
        source = Path(path)
        if not source.exists():
            raise FileNotFoundError(f"no cached text features at {source}; write them with save()")
        with safe_open(source, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata()
            features_CD = file.get_tensor("features")
        if metadata["fingerprint"] != self.fingerprint():
            raise ValueError(f"{source} was made with another text encoder or tokenizer; delete it and encode again")
        new = [(i, text) for i, text in enumerate(json.loads(metadata["texts"])) if text not in self._row]
        start = len(self._row)
        self._features_CD = torch.cat([self._features_CD, features_CD[[i for i, _ in new]]])
        self._row.update((text, start + j) for j, (_, text) in enumerate(new))
        return len(new)
