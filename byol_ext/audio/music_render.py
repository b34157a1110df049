"""Notes to sound with FluidSynth: one melody, one General MIDI instrument, one constant tempo.

Legend: ``N`` notes, ``S`` samples.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from ctypes import c_int, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from byol_ext._extras import require
from byol_ext.audio.abc_tunes import Tune, notes_of, stable_hash
from byol_ext.audio.decode import BadAudio
from byol_ext.audio.music_captions import make_captions
from byol_ext.audio.music_facts import INSTRUMENTS, Facts, choose_facts
from byol_ext.rng import sample_generator

TIMGM6MB = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
"""Default soundfont (6 MB, GPL-2), Debian package ``timgm6mb-soundfont``."""

FLUIDR3 = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""Held-out soundfont (148 MB, MIT), Debian package ``fluid-soundfont-gm``."""

MIN_RMS = 1e-3
"""Clips under this RMS are dropped (data spec, "Rendered tunes")."""

_PACKAGES = {TIMGM6MB.name: "timgm6mb-soundfont", FLUIDR3.name: "fluid-soundfont-gm"}
_OCTAVES = {instrument.program: instrument.octave for instrument in INSTRUMENTS}
_INSTALL = "apt-get install -y libfluidsynth3 timgm6mb-soundfont"


def missing_for_music() -> str | None:
    """What keeps tunes from being rendered here.

    Returns:
        The command that installs the first missing part (a Python package, the FluidSynth library or the
        soundfont), or None.
    """
    if any(importlib.util.find_spec(name) is None for name in ("music21", "symusic", "fluidsynth", "soundfile")):
        return "pip install 'byol_ext[music]'"
    try:
        _fluidsynth()
    except ImportError:
        return _INSTALL
    return None if TIMGM6MB.exists() else _INSTALL


def _fluidsynth() -> ModuleType:
    try:
        return require("fluidsynth", extra="music")
    except ImportError as error:
        if "FluidSynth library" in str(error):
            raise ImportError(f"the FluidSynth library is not installed: {_INSTALL}") from error
        raise


class Renderer:
    """Renders clips from one soundfont; use it as a context manager.

    Each clip gets a fresh synthesizer, because FluidSynth's ``system_reset`` leaves release tails and effect state
    behind: the samples of a clip would depend on the clip before. One idle synthesizer holds the soundfont's
    samples in memory, which makes a fresh one cost 14 ms (TimGM6mb) or 35 ms (FluidR3).

    Args:
        soundfont: Path of an ``.sf2`` file.
        sample_rate: Samples a second.

    Raises:
        FileNotFoundError: If the soundfont is missing; the message is the install command.
        ImportError: If pyfluidsynth or the FluidSynth library is missing.
    """

    def __init__(self, soundfont: Path = TIMGM6MB, *, sample_rate: int = 16_000) -> None:
        if not soundfont.exists():
            package = _PACKAGES.get(soundfont.name)
            hint = f"apt-get install -y {package}" if package else "give the path of an .sf2 file"
            raise FileNotFoundError(f"no soundfont at {soundfont}: {hint}")
        self.soundfont = soundfont
        self.sample_rate = sample_rate
        self._library = _fluidsynth()
        self._write = _float_writer(self._library)
        self._keeper, _ = self._synth()

    def _synth(self) -> tuple[Any, int]:
        synth = self._library.Synth(gain=0.5, samplerate=float(self.sample_rate), channels=16)
        return synth, synth.sfload(str(self.soundfont))

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the soundfont."""
        self._keeper.delete()

    def clip(self, notes_N4: np.ndarray, facts: Facts, *, seconds: float) -> np.ndarray:
        """Render the clip that the facts describe.

        Args:
            notes_N4: Notes of the tune: onset, duration (quarter notes), MIDI pitch, velocity.
            facts: Instrument, tempo and start.
            seconds: Length.

        Returns:
            ``[S]`` float32 mono in [-1, 1], the same on every run for one version of FluidSynth.
        """
        events = _events(notes_N4, facts, seconds)
        end, position = round(seconds * self.sample_rate), 0
        chunks: list[np.ndarray] = []
        synth, font = self._synth()
        synth.program_select(0, font, 0, facts.program)
        for time, on, pitch, velocity in [*events, (seconds, False, 0, 0)]:
            target = min(round(time * self.sample_rate), end)
            if target > position:
                chunks.append(self._samples(synth, target - position))
                position = target
            if position >= end:
                break
            if on:
                synth.noteon(0, pitch, velocity)
            else:
                synth.noteoff(0, pitch)
        synth.delete()
        return np.concatenate(chunks).mean(axis=1, dtype=np.float32)

    def _samples(self, synth: Any, count: int) -> np.ndarray:
        """The next ``[count, 2]`` float32 samples."""
        stereo_S2 = np.empty((count, 2), dtype=np.float32)
        self._write(synth.synth, count, stereo_S2.ctypes.data, 0, 2, stereo_S2.ctypes.data, 1, 2)
        return stereo_S2


def _float_writer(library: ModuleType) -> Callable[..., int]:
    """FluidSynth's float output, which pyfluidsynth does not offer.

    Its 16-bit output adds dither from a table that is filled by C's ``rand`` once a process, so the last bits would
    differ between processes.
    """
    arguments = [("synth", c_void_p, 1), ("len", c_int, 1)]
    for side in ("l", "r"):
        arguments += [(f"{side}out", c_void_p, 1), (f"{side}off", c_int, 1), (f"{side}incr", c_int, 1)]
    writer: Callable[..., int] = library.cfunc("fluid_synth_write_float", c_int, *arguments)
    return writer


def _events(notes_N4: np.ndarray, facts: Facts, seconds: float) -> list[tuple[float, bool, int, int]]:
    """Note events ``(second, on, pitch, velocity)`` in time order, offs first; a short tune starts again."""
    quarter = 60.0 / (facts.bpm * facts.beat)
    shift = 12 * _OCTAVES.get(facts.program, 0)
    end = float((notes_N4[:, 0] + notes_N4[:, 1]).max())
    period = max(np.ceil(end / facts.beat - 1e-6) * facts.beat, facts.beat)
    events = []
    for repeat in range(1 + int((seconds / quarter + facts.start) // period)):
        onset_N = (notes_N4[:, 0] + repeat * period - facts.start) * quarter
        off_N = onset_N + notes_N4[:, 1] * quarter
        for onset, off, note in zip(onset_N, off_N, notes_N4, strict=True):
            if -1e-6 <= onset < seconds:
                pitch = int(note[2]) + shift
                events.append((max(float(onset), 0.0), True, pitch, int(note[3])))
                events.append((float(off), False, pitch, 0))
    return sorted(events)


@dataclass(frozen=True)
class MusicClip:
    """A rendered clip.

    Attributes:
        audio: ``[S]`` float32 mono.
        captions: True captions, the fullest first.
        facts: What they are made of.
    """

    audio: np.ndarray
    captions: tuple[str, ...]
    facts: Facts


def describe_clip(
    tune: Tune, *, variant: int, seed: int, seconds: float, n_captions: int, soundfont: str = ""
) -> tuple[np.ndarray, Facts, tuple[str, ...]]:
    """What :func:`render_clip` will play and say, found without rendering; its arguments.

    Returns:
        Notes of the tune ``[N, 4]``, facts (``soundfont`` is only recorded there) and captions.

    Raises:
        BadAudio: If the tune cannot be parsed.
    """
    try:
        notes_N4 = notes_of(tune)
    except ValueError as error:
        raise BadAudio("unreadable", str(error), source=tune.name) from error
    rng = sample_generator(seed, variant, stable_hash(tune.name))
    facts = choose_facts(tune, notes_N4, variant=variant, seconds=seconds, soundfont=soundfont, rng=rng)
    return notes_N4, facts, tuple(make_captions(facts, rng, n=n_captions))


def render_clip(
    tune: Tune, *, variant: int = 0, seed: int = 0, seconds: float = 5.0, renderer: Renderer, n_captions: int = 5
) -> MusicClip:
    """Choose facts for a tune, write captions and render it.

    Args:
        tune: A tune.
        variant: Which rendering; each draws another instrument, tempo and start.
        seed: Seed of the set.
        seconds: Length of the clip.
        renderer: Soundfont and sample rate. It has no part in the choices: the same clip can be heard from two
            soundfonts.
        n_captions: Captions of the clip.

    Returns:
        The clip.

    Raises:
        BadAudio: If the tune cannot be parsed or the clip is silent (RMS under 1e-3).
    """
    notes_N4, facts, captions = describe_clip(
        tune, variant=variant, seed=seed, seconds=seconds, n_captions=n_captions, soundfont=renderer.soundfont.stem
    )
    audio_S = renderer.clip(notes_N4, facts, seconds=seconds)
    rms = float(np.sqrt(np.mean(np.square(audio_S, dtype=np.float64))))
    if rms < MIN_RMS:
        raise BadAudio("silent", f"RMS {rms:.1e} is under {MIN_RMS:g}", source=tune.name)
    return MusicClip(audio_S, captions, facts)
