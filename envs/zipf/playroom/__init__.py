"""Zipf's Playroom: lift, put and find named objects in one room; see `envs.zipf.playroom.env`."""

from __future__ import annotations

from envs.zipf.playroom.env import ZipfPlayroom, ZipfPlayroomVector
from envs.zipf.playroom.env2d import ZipfPlayroom2D, ZipfPlayroom2DVector
from envs.zipf.playroom.frames import find_frames
from envs.zipf.playroom.levels import LEVELS
from envs.zipf.playroom.lexicon import LEXICON
from envs.zipf.playroom.state import ACTIONS
from envs.zipf.playroom.text import VOCABULARY, detokenize, tokenize

__all__ = [
    "ACTIONS",
    "LEVELS",
    "LEXICON",
    "VOCABULARY",
    "ZipfPlayroom",
    "ZipfPlayroom2D",
    "ZipfPlayroom2DVector",
    "ZipfPlayroomVector",
    "detokenize",
    "find_frames",
    "tokenize",
]
