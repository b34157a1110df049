"""ToneCaps: a generated audio-text set for CPUs, tests and examples; no files, no downloads (slap spec §15).

A clip of 1.5 s is a tone with five audible factors: waveform x register x tempo x envelope x noise, 216 combinations.
Its captions name all five, in several wordings. The test split holds combinations that training never hears, although
each value, and each pair of values, is heard in training; so retrieval on it asks for factors, not for memory.

Splits are by combination: with the sum of the five value indices modulo 4, residue 0 is ``test`` (54 combinations),
residue 2 without noise is ``val`` (27), the rest is ``train`` (135). A test clip is alone in its combination, so its
captions are right for it and wrong for every other clip. Chance under the multi-caption protocol with N clips of K
captions: text to audio R@k = k/N; audio to text (best of its K among all NK) R@k = 1 - C(NK-K, k) / C(NK, k). Both
give R@1 = 1/N, which is 1/54 = 1.9 % for ``test``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from byol_ext.audio.data import AudioTextDataset
from byol_ext.audio.samples import AudioTextSample
from byol_ext.rng import sample_generator

Split = Literal["train", "val", "test"]
Combination = tuple[str, str, str, str, str]

SAMPLE_RATE = 16_000
CLIP_SECONDS = 1.5
CAPTIONS = 4
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "waveform": {
        "sine": ("sine tone", "pure whistle", "sine beep"),
        "triangle": ("triangle wave", "soft flute-like tone", "triangle tone"),
        "square": ("square wave", "hollow reed-like tone", "square tone"),
        "saw": ("sawtooth wave", "bright buzz", "sawtooth tone"),
    },
    "register": {
        "low": ("low", "deep", "bass"),
        "mid": ("middle-register", "medium-pitched", "mid-range"),
        "high": ("high", "treble", "high-pitched"),
    },
    "tempo": {
        "slow": ("slow", "unhurried", "lazy"),
        "medium": ("moderate", "walking-pace", "medium-tempo"),
        "fast": ("fast", "rapid", "quick"),
    },
    "envelope": {
        "plucked": ("plucked", "struck and decaying", "percussive"),
        "swelling": ("swelling", "rising", "growing"),
        "gated": ("gated", "on-and-off", "switched"),
    },
    "noise": {
        "clean": ("without noise", "in silence", "recorded cleanly"),
        "noisy": ("with hiss", "over background noise", "in a noisy recording"),
    },
}
"""Each factor, its values, and the wordings of a value; no wording belongs to two values of one factor."""

_TEMPLATES = (
    "a {register} {waveform} in {tempo} {envelope} pulses {noise}",
    "{tempo} {envelope} notes on a {register} {waveform} {noise}",
    "{noise}, a {register} {waveform} plays {envelope} notes, {tempo}",
    "{envelope} {tempo} pulses of a {register} {waveform} {noise}",
    "a {waveform}, {register}, with {tempo} {envelope} notes {noise}",
    "{register} {waveform} {noise}; the notes are {tempo} and {envelope}",
)
_PROMPTS = {
    "waveform": ("a {}", "the sound of a {}"),
    "register": ("a {} tone", "a {} sound"),
    "tempo": ("{} notes", "{} pulses"),
    "envelope": ("{} notes", "{} pulses"),
    "noise": ("a tone {}", "notes {}"),
}
_HERTZ = {"low": 130.0, "mid": 390.0, "high": 1170.0}
_PULSES_PER_SECOND = {"slow": 2.0, "medium": 4.0, "fast": 8.0}
_SNR_DB = {"clean": 60.0, "noisy": 10.0}
_PITCH_JITTER_SEMITONES = 3.0
_TEMPO_JITTER = 0.08
_GAIN_DB = (-9.0, 0.0)
_PEAK = 0.5
_TABLE = 1 << 14
_STREAM = {"train": 1 << 31, "val": (1 << 31) + 1, "test": (1 << 31) + 2}  # epochs that no training reaches


class ToneCapsSource:
    """ToneCaps as a source of samples, for `byol_ext.audio.data.AudioTextDataset` or `write_shards`.

    Args:
        split: ``train``, ``val`` or ``test``.
        clips_per_combination: Renderings of each combination, with other pitch, tempo, phase and gain. The default
            is 12 in training and 1 in evaluation, where a second would be a false negative in retrieval.
        seed: Seed of renderings and captions.

    Raises:
        ValueError: For an unknown split or fewer than one clip.

    Example:
        >>> source = ToneCapsSource("test")
        >>> len(source), len(source.captions(0)), source[0].sr
        (54, 4, 16000)
    """

    def __init__(self, split: Split, *, clips_per_combination: int | None = None, seed: int = 0) -> None:
        if split not in _STREAM:
            raise ValueError(f"split={split!r}: expected one of {list(_STREAM)}")
        clips = clips_per_combination if clips_per_combination is not None else (12 if split == "train" else 1)
        if clips < 1:
            raise ValueError(f"clips_per_combination={clips}: expected at least 1")
        self.split = split
        self.combinations = combinations(split)
        self._seed = seed
        self._size = clips * len(self.combinations)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> AudioTextSample:
        """The sample at a position; it depends on (seed, split, position) alone."""
        if not 0 <= index < self._size:
            raise IndexError(f"sample {index} of {self._size}")
        combination = self.combinations[index % len(self.combinations)]
        rng = sample_generator(self._seed, _STREAM[self.split], index)
        captions = _captions(combination, rng)
        return AudioTextSample(
            key=f"{self.split}-{index:05d}",
            captions=captions,
            audio=render(combination, rng),
            sr=SAMPLE_RATE,
            tags=dict(zip(WORDS, combination, strict=True)),
            split=self.split,
        )

    def captions(self, index: int) -> Sequence[str]:
        """The captions of one sample, without rendering it."""
        rng = sample_generator(self._seed, _STREAM[self.split], index)
        return _captions(self.combinations[index % len(self.combinations)], rng)


class ToneCaps(Dataset[dict[str, Any]]):
    """ToneCaps as items for a network: `AudioTextDataset` over `ToneCapsSource`, kept in memory.

    Index it with ``id`` or ``(id, epoch)``. In training the caption changes with the epoch and the audio does not.

    Args:
        split: ``train``, ``val`` or ``test``.
        clips_per_combination: Renderings of each combination; 12 in training, 1 in evaluation.
        seed: Seed of renderings, captions and the choice among captions.
        train: Draw the caption; by default in the ``train`` split only.
        cache: Keep rendered clips (96 kB each, 156 MB for ``train``); else render at each access.

    Example:
        >>> item = ToneCaps("test")[0]
        >>> item["audio"].shape, item["tags"]["waveform"], item["duration"]
        ((24000,), 'sine', 1.5)
    """

    sr = SAMPLE_RATE
    clip_samples = round(SAMPLE_RATE * CLIP_SECONDS)

    def __init__(
        self,
        split: Split,
        *,
        clips_per_combination: int | None = None,
        seed: int = 0,
        train: bool | None = None,
        cache: bool = True,
    ) -> None:
        source = ToneCapsSource(split, clips_per_combination=clips_per_combination, seed=seed)
        self.source = _Kept(source) if cache else source
        self._items = AudioTextDataset(
            self.source,
            sr=SAMPLE_RATE,
            clip_seconds=CLIP_SECONDS,
            train=split == "train" if train is None else train,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of the contract; its ``tags`` hold the value of each factor."""
        return self._items[index]

    def captions(self, index: int) -> list[str]:
        """The captions of one sample."""
        return self._items.captions(index)


class _Kept:
    """A source that remembers the samples it has given."""

    def __init__(self, source: ToneCapsSource) -> None:
        self._source = source
        self._samples: dict[int, AudioTextSample] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> AudioTextSample:
        sample = self._samples.get(index)
        if sample is None:
            sample = self._samples[index] = self._source[index]
        return sample

    def captions(self, index: int) -> Sequence[str]:
        return self._source.captions(index)


def combinations(split: Split | None = None) -> list[Combination]:
    """The combinations of a split in a fixed order, or all 216.

    Example:
        >>> [len(combinations(split)) for split in ("train", "val", "test", None)]
        [135, 27, 54, 216]
    """
    values = [list(words) for words in WORDS.values()]
    chosen = []
    for indices in itertools.product(*(range(len(names)) for names in values)):
        residue = sum(indices) % 4
        owner = "test" if residue == 0 else ("val" if residue == 2 and indices[-1] == 0 else "train")
        if split is None or owner == split:
            waveform, register, tempo, envelope, noise = (names[i] for names, i in zip(values, indices, strict=True))
            chosen.append((waveform, register, tempo, envelope, noise))
    return chosen


def class_prompts(factor: str) -> dict[str, list[str]]:
    """Texts for zero-shot classification of a factor: for each value, every wording in every template.

    Raises:
        ValueError: For an unknown factor.

    Example:
        >>> class_prompts("register")["low"][:2]
        ['a low tone', 'a deep tone']
    """
    if factor not in WORDS:
        raise ValueError(f"factor={factor!r}: expected one of {list(WORDS)}")
    return {
        value: [template.format(word) for template in _PROMPTS[factor] for word in words]
        for value, words in WORDS[factor].items()
    }


def render(combination: Combination, rng: np.random.Generator) -> np.ndarray:
    """One rendering of a combination; pitch, tempo, phase, onset and gain are drawn.

    Args:
        combination: Waveform, register, tempo, envelope, noise.
        rng: Source of the draws.

    Returns:
        ``[24000]`` float32 at 16 kHz, within [-1, 1].

    Example:
        >>> wave = render(("saw", "low", "fast", "gated", "clean"), np.random.default_rng(0))
        >>> wave.shape, wave.dtype
        ((24000,), dtype('float32'))
    """
    waveform, register, tempo, envelope, noise = combination
    semitones, stretch, phase, onset, gain = rng.uniform(
        [-_PITCH_JITTER_SEMITONES, 1 - _TEMPO_JITTER, 0.0, 0.0, _GAIN_DB[0]],
        [_PITCH_JITTER_SEMITONES, 1 + _TEMPO_JITTER, 1.0, 1.0, _GAIN_DB[1]],
    )
    hertz = _HERTZ[register] * 2 ** (semitones / 12)
    seconds = np.arange(round(SAMPLE_RATE * CLIP_SECONDS)) / SAMPLE_RATE
    position = (seconds * hertz + phase) * _TABLE
    tone = _cycle(waveform, hertz)[position.astype(np.int64) % _TABLE]
    pulse = np.modf(seconds * _PULSES_PER_SECOND[tempo] * stretch + onset)[0]
    wave = tone * _envelope(envelope, pulse)
    level = np.sqrt(np.mean(wave**2))
    wave = wave + rng.standard_normal(wave.size) * level * 10 ** (-_SNR_DB[noise] / 20)
    return (np.clip(_PEAK * 10 ** (gain / 20) * wave, -1, 1)).astype(np.float32)


def _cycle(waveform: str, hertz: float) -> np.ndarray:
    """One period of a band-limited waveform with RMS 0.5, as a table."""
    harmonics = np.arange(1, max(2, int(0.95 * SAMPLE_RATE / 2 / hertz) + 1))
    odd = harmonics % 2
    amplitudes = {
        "sine": (harmonics == 1).astype(np.float64),
        "triangle": odd * (-1.0) ** (harmonics // 2) / harmonics**2,
        "square": odd / harmonics,
        "saw": 1.0 / harmonics,
    }[waveform]
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    spectrum[harmonics] = -1j * amplitudes
    cycle = np.fft.irfft(spectrum, _TABLE)
    scaled: np.ndarray = cycle * 0.5 / np.sqrt(np.mean(cycle**2))
    return scaled


def _envelope(envelope: str, pulse: np.ndarray) -> np.ndarray:
    """Loudness over the position in a pulse, 0 to 1."""
    if envelope == "plucked":
        return np.minimum(pulse / 0.02, 1.0) * np.exp(-5.0 * pulse)
    if envelope == "swelling":
        return pulse**2 * np.minimum((1.0 - pulse) / 0.05, 1.0)
    return np.clip(np.minimum(pulse, 0.6 - pulse) / 0.03, 0.0, 1.0)


def _captions(combination: Combination, rng: np.random.Generator) -> tuple[str, ...]:
    """`CAPTIONS` different captions, each with another template and freely chosen wordings."""
    rng = np.random.default_rng(rng.integers(2**63))
    texts = []
    for template in rng.choice(len(_TEMPLATES), size=CAPTIONS, replace=False):
        words = {
            factor: str(rng.choice(WORDS[factor][value])) for factor, value in zip(WORDS, combination, strict=True)
        }
        texts.append(_TEMPLATES[template].format(**words))
    return tuple(texts)


def describes(caption: str) -> Combination | None:
    """The combination that a caption of this set names, or None: the oracle for retrieval.

    Example:
        >>> describes(ToneCapsSource("test").captions(0)[0]) == combinations("test")[0]
        True
    """
    found = [
        [value for value, words in values.items() if any(_names(word, caption) for word in words)]
        for values in WORDS.values()
    ]
    if any(len(values) != 1 for values in found):
        return None
    waveform, register, tempo, envelope, noise = (values[0] for values in found)
    return waveform, register, tempo, envelope, noise


def _names(word: str, caption: str) -> bool:
    """Whether a wording stands in a caption as whole words: "low" is not in "hollow", "high" not in "high-pitched"."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", caption) is not None
