"""Where the player is in Atari games whose memory map is known: room, cell and inventory from the 128 bytes of RAM.

Legend: ``B`` environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.int32)
"""Number of set bits of each byte."""


@dataclass(frozen=True)
class RamMap:
    """Addresses in the RAM of one game.

    Attributes:
        room: Number of the room.
        x: Horizontal position of the player.
        y: Vertical position of the player.
        level: Number of the level, if the game has several; its rooms are told apart.
        rooms_per_level: By how much a level moves the number of a room.
        inventory: A byte with one bit an item carried, if known.
    """

    room: int
    x: int
    y: int
    level: int | None = None
    rooms_per_level: int = 0
    inventory: int | None = None

    def read(self, ram: NDArray[np.uint8]) -> dict[str, NDArray]:
        """What the RAM of ``B`` environments says.

        Args:
            ram: ``[B, 128]`` uint8.

        Returns:
            ``room`` ``[B]`` int32, ``level * rooms_per_level + room``; ``cell`` ``[B]`` int64, one number for each
            (level, room, x // 16, y // 16); and, where the map has it, ``inventory`` ``[B]`` int32, items carried.

        >>> ram = np.zeros((1, 128), np.uint8)
        >>> ram[0, [3, 42, 43, 57, 65]] = 1, 77, 235, 2, 0b101
        >>> {key: int(value[0]) for key, value in MONTEZUMA.read(ram).items()}
        {'room': 49, 'cell': 12622, 'inventory': 2}
        """
        room = ram[:, self.room].astype(np.int32)
        if self.level is not None:
            room += self.rooms_per_level * ram[:, self.level].astype(np.int32)
        cell = (room.astype(np.int64) << 8) | ((ram[:, self.x] >> 4) << 4) | (ram[:, self.y] >> 4)
        found: dict[str, NDArray] = {"room": room, "cell": cell}
        if self.inventory is not None:
            found["inventory"] = _BITS[ram[:, self.inventory]]
        return found


MONTEZUMA = RamMap(room=3, x=42, y=43, level=57, rooms_per_level=24, inventory=65)
"""Montezuma's Revenge. Room, position and level were watched live; the inventory is second-hand (spec §8.3)."""

PITFALL = RamMap(room=1, x=97, y=105)
"""Pitfall!. The room is from OpenAI's RND code, the position from AtariARI; all three were watched live."""

RAM_MAPS: Mapping[str, RamMap] = MappingProxyType({"montezuma_revenge": MONTEZUMA, "pitfall": PITFALL})
"""ROM name -> map."""
