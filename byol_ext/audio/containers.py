"""Find audio files that were cut short, from what their containers say about their own length.

libsndfile opens a truncated WAV, AIFF or Ogg file without complaint and reports the length of what is left.
Each check here compares the length that the container declares with the bytes that are there; no audio is
decoded. FLAC needs no check: its decoder fails when asked for the last sample.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
_OGG_TAIL = 1 << 17
_MP3_HEAD = 1 << 12


def missing_bytes(stream: BinaryIO) -> int:
    """Bytes that the container declares and the file lacks.

    Args:
        stream: Seekable binary stream of a whole file; its position is moved.

    Returns:
        0 if the file is complete or its container does not tell; at least 1 if it was cut short.

    Example:
        >>> import io
        >>> declares_8_bytes = b"RIFF" + struct.pack("<I", 44) + b"WAVEdata" + struct.pack("<I", 8)
        >>> missing_bytes(io.BytesIO(declares_8_bytes + b"abc"))
        5
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _missing_in_wav(stream, size)
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return max(0, struct.unpack(">I", head[4:8])[0] + 8 - size)
    if head[:4] == b"OggS":
        return _missing_in_ogg(stream, size)
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return _missing_in_mp3(stream, size)
    return 0


def _missing_in_wav(stream: BinaryIO, size: int) -> int:
    """Walk the RIFF chunks to ``data``; sizes 0 and 2**32-1 mean that a streaming writer did not know."""
    position = 12
    while position + 8 <= size:
        stream.seek(position)
        name, length = struct.unpack("<4sI", stream.read(8))
        if name == b"data":
            return 0 if length in _UNKNOWN_SIZES else max(0, position + 8 + length - size)
        position += 8 + length + length % 2
    return max(1, position - size)


def _missing_in_ogg(stream: BinaryIO, size: int) -> int:
    """The last page must be whole and carry the end-of-stream flag."""
    start = max(0, size - _OGG_TAIL)
    stream.seek(start)
    tail = stream.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return 1
    segments = tail[page + 26]
    lacing = tail[page + 27 : page + 27 + segments]
    missing = page + 27 + segments + sum(lacing) - len(tail)
    if missing > 0 or len(lacing) < segments:
        return max(1, missing)
    return 0 if tail[page + 5] & 4 else 1


def _missing_in_mp3(stream: BinaryIO, size: int) -> int:
    """A ``Xing``/``Info`` header states the bytes of the stream; plain MP3 states nothing."""
    stream.seek(0)
    head = stream.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + ((head[6] & 0x7F) << 21 | (head[7] & 0x7F) << 14 | (head[8] & 0x7F) << 7 | head[9] & 0x7F)
    stream.seek(start)
    frame = stream.read(_MP3_HEAD)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or not frame[at + 7] & 2:
        return 0
    frames_field = 4 if frame[at + 7] & 1 else 0
    (declared,) = struct.unpack(">I", frame[at + 8 + frames_field : at + 12 + frames_field])
    return max(0, start + declared - size)
