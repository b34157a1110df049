"""Zipf's Labyrinth: thirty first-person tasks with Zipfian frequencies; see `envs.zipf.labyrinth.env`."""

from __future__ import annotations

from envs.zipf.labyrinth.env import ACTIONS, ZipfLabyrinth, ZipfLabyrinthVector
from envs.zipf.labyrinth.levels import LAB12, LEVELS, Level
from envs.zipf.labyrinth.text import VOCABULARY, detokenize, tokenize

__all__ = [
    "ACTIONS",
    "LAB12",
    "LEVELS",
    "VOCABULARY",
    "Level",
    "ZipfLabyrinth",
    "ZipfLabyrinthVector",
    "detokenize",
    "tokenize",
]
