"""Precomputed features (log-mel frames or representations ``y``) in shards that know which front-end made them.

A folder holds ``features.json`` (kind, front-end hash, shards) and the shards: ``NNNNNN.safetensors``, or
``NNNNNN.npy`` with ``NNNNNN.json`` beside it. Arrays may differ in length along their first axis. Reading with another
front-end than the one that wrote is an error. Legend: ``T`` frames, ``F`` mel bins, ``D`` width.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import Dataset

from byol_ext.audio.decode import BadAudio
from byol_ext.audio.samples import BadCaption, SampleSource, position_and_epoch, usable_texts
from byol_ext.rng import sample_generator

Kind = Literal["mel", "y"]


def write_features(
    features: Iterable[tuple[str, np.ndarray]],
    dst: str | Path,
    *,
    kind: Kind,
    front_end: str,
    shard_size: int = 1024,
    format: Literal["safetensors", "npy"] = "safetensors",  # noqa: A002
) -> int:
    """Write features in shards.

    Args:
        features: Key and array of each sample: ``[T, F]`` for ``mel``, ``[D]`` for ``y``, all of one dtype.
        dst: An empty or new folder.
        kind: ``mel`` or ``y``.
        front_end: Hash of what made them, such as ``MelConfig.hash()``; for ``y`` include the model's fingerprint.
        shard_size: Samples a shard.
        format: ``safetensors`` or ``npy``.

    Returns:
        The number of samples written.

    Raises:
        ValueError: If the folder already holds features, a key comes twice, or an array has a wrong shape.
    """
    root = Path(dst)
    root.mkdir(parents=True, exist_ok=True)
    index = root / "features.json"
    if index.exists():
        raise ValueError(f"{root} already holds features; use another folder or delete it")
    iterator = iter(features)
    shards: list[dict[str, Any]] = []
    seen: set[str] = set()
    axes = 2 if kind == "mel" else 1
    while chunk := list(itertools.islice(iterator, shard_size)):
        for key, array in chunk:
            if key in seen or array.ndim != axes or array.size == 0:
                raise ValueError(f"{key!r}: shape {array.shape}, expected {axes} axes, not empty, and each key once")
            seen.add(key)
        name = f"{len(shards):06d}.{format}"
        _write_shard(root / name, chunk, axes)
        shards.append({"file": name, "count": len(chunk)})
    content = {"version": 1, "kind": kind, "front_end": front_end, "format": format, "shards": shards}
    temporary = index.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(index)
    return len(seen)


class FeatureShards:
    """Random access to what `write_features` wrote; files are memory-mapped.

    Args:
        root: The folder.
        front_end: Hash of the front-end in use; must equal the stored one.
        kind: ``mel`` or ``y``; must equal the stored one.

    Attributes:
        keys: Keys in order.

    Raises:
        FileNotFoundError: If there are no features in ``root``.
        ValueError: If the front-end or the kind differs.
    """

    def __init__(self, root: str | Path, *, front_end: str, kind: Kind) -> None:
        self._root = Path(root)
        try:
            content = json.loads((self._root / "features.json").read_text())
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self._root} holds no features.json; write it with write_features") from error
        for name, given in (("front_end", front_end), ("kind", kind)):
            if content[name] != given:
                raise ValueError(
                    f"{self._root}: features were made with {name} {content[name]!r}, now it is {given!r}; "
                    "make them again or use the settings that made them"
                )
        self.kind = kind
        self._shards = [self._root / shard["file"] for shard in content["shards"]]
        self.keys: list[str] = []
        places: list[tuple[int, int, int]] = []
        for number, path in enumerate(self._shards):
            keys, offsets = _read_index(path)
            self.keys.extend(keys)
            places.extend((number, int(a), int(b)) for a, b in itertools.pairwise(offsets))
        self._places = places
        self._position = {key: position for position, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> np.ndarray:
        """Features at a position: ``[T, F]`` or ``[D]``, in the stored dtype."""
        number, first, last = self._places[index]
        rows = _read_rows(self._shards[number], first, last)
        return rows if self.kind == "mel" else rows[0]

    def of(self, key: str) -> np.ndarray:
        """Features of a key.

        Raises:
            KeyError: If there are none.
        """
        return self[self._position[key]]

    def __contains__(self, key: object) -> bool:
        return key in self._position


class FeatureTextDataset(Dataset[dict[str, Any]]):
    """Items with precomputed features in the place of audio, joined to captions by key.

    Args:
        features: The features.
        source: The samples; only keys, captions and tags are used.
        frames: Length of the crop along time for ``mel``; shorter ones are padded with ``pad_value``. None keeps all.
        train: Random crop and caption keyed by (seed, epoch, id); else the middle and the first.
        seed: Seed of the run.
        normalize: Applied to each caption.
        pad_value: Value of padded frames: the level of silence in the units of the features (-100 dB, slap spec §2).

    Raises:
        ValueError: If a sample of ``source`` has no features, naming it, or ``frames`` is below 1.
    """

    def __init__(
        self,
        features: FeatureShards,
        source: SampleSource,
        *,
        frames: int | None,
        train: bool,
        seed: int = 0,
        normalize: Callable[[str], str] | None = None,
        pad_value: float = -100.0,
    ) -> None:
        if frames is not None and frames < 1:
            raise ValueError(f"frames={frames}: expected at least 1")
        missing = [key for key in (source[i].key for i in range(len(source))) if key not in features]
        if missing:
            raise ValueError(f"{len(missing)} of {len(source)} samples have no features, such as {missing[:3]}")
        self.features, self.source = features, source
        self._frames, self._train, self._seed = frames, train, seed
        self._normalize, self._pad_value = normalize, pad_value

    def __len__(self) -> int:
        return len(self.source)

    def captions(self, index: int) -> list[str]:
        """Normalised captions of one sample."""
        return usable_texts(self.source.captions(index), self._normalize)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an id or of ``(id, epoch)``: as in `AudioTextDataset`, with ``features`` for ``audio``.

        Raises:
            IndexError: If there is no such id.
            BadCaption: If no caption is usable.
            BadAudio: If the features hold NaN or Inf.
        """
        position, epoch = position_and_epoch(index, size=len(self))
        sample, captions = self.source[position], self.captions(position)
        if not captions:
            raise BadCaption("caption_missing", sample.key)
        rng = sample_generator(self._seed, epoch, position) if self._train else None
        caption = captions[int(rng.integers(len(captions)))] if rng is not None else captions[0]
        array = self.features.of(sample.key).astype(np.float32)
        if not np.isfinite(array).all():
            raise BadAudio("non_finite", "stored features are NaN or infinite", source=sample.key)
        return {
            "id": position,
            "epoch": epoch,
            "key": sample.key,
            "features": self._crop(array, rng) if self.features.kind == "mel" else array,
            "captions": captions,
            "caption": caption,
            "tags": dict(sample.tags),
            "duration": float("nan") if sample.duration is None else sample.duration,
            "silent": False,
            "bad": {},
            "errors": [],
        }

    def _crop(self, mel_TF: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if self._frames is None:
            return mel_TF
        slack = len(mel_TF) - self._frames
        if slack <= 0:
            return np.pad(mel_TF, ((0, -slack), (0, 0)), constant_values=self._pad_value)
        start = int(rng.integers(slack + 1)) if rng is not None else slack // 2
        return mel_TF[start : start + self._frames]


def _write_shard(path: Path, chunk: Sequence[tuple[str, np.ndarray]], axes: int) -> None:
    rows = [array if axes == 2 else array[None] for _, array in chunk]
    values = np.concatenate(rows)
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    keys = [key for key, _ in chunk]
    if path.suffix == ".npy":
        np.save(path, values)
        path.with_suffix(".json").write_text(json.dumps({"keys": keys, "offsets": offsets.tolist()}))
    else:
        save_file({"values": values, "offsets": offsets}, path, metadata={"keys": json.dumps(keys)})


def _read_index(path: Path) -> tuple[list[str], Sequence[int]]:
    if path.suffix == ".npy":
        content = json.loads(path.with_suffix(".json").read_text())
        return content["keys"], content["offsets"]
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["keys"]), file.get_tensor("offsets").tolist()


def _read_rows(path: Path, first: int, last: int) -> np.ndarray:
    if path.suffix == ".npy":
        return np.array(np.load(path, mmap_mode="r")[first:last])
    with safe_open(path, framework="np") as file:
        rows: np.ndarray = file.get_slice("values")[first:last]
    return rows
