"""What the playroom's cells and objects look like, seen from inside and from above.

Legend: ``U`` texels along an edge of a texture, ``s`` pixels along an edge of a tile.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from envs.raycast import TEXELS, Atlas, Material, Sky, build_atlas, surfaces
from envs.raycast.billboards import Billboard
from envs.raycast.colours import Colour, Texture, mixed
from envs.zipf.playroom.lexicon import LEXICON
from envs.zipf.playroom.state import BED_HEIGHT, TRAY_HEIGHT

SKY = Sky((250, 246, 236), (222, 216, 204), (90, 80, 70))
"""The ceiling."""
_DOWN, _ACROSS = np.mgrid[:TEXELS, :TEXELS]
_EDGE = np.minimum(np.minimum(_DOWN, TEXELS - 1 - _DOWN), np.minimum(_ACROSS, TEXELS - 1 - _ACROSS))
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_BLANKET, _SHEET, _WOOD, _ENAMEL = (96, 84, 150), (226, 224, 236), (150, 100, 60), (112, 164, 162)
_PAPER, _PANEL, _BOARDS = (188, 206, 200), (238, 236, 228), (190, 152, 112)
_GROUND, _VOID = (92, 82, 76), (40, 38, 40)
"""Floor and wall from above: plain, since objects are few pixels wide there."""

AGENT_CODE, FIRST_OBJECT, COVERED = 5, 9, 255
"""Tiles: cells' codes, then the agent facing east, south, west and north, then the objects; 255 is covered."""


def playroom_atlas() -> Atlas:
    """Textures and materials; sprite ``k`` is object ``k`` of the lexicon."""
    textures = _textures()
    materials = [
        Material("floor", "floor"),
        Material("wall", "wall", 1.0, opaque=True),
        Material("sheet side", "pillow", BED_HEIGHT),
        Material("blanket side", "blanket", BED_HEIGHT),
        Material("rim", "tray", TRAY_HEIGHT),
    ]
    return build_atlas(textures, {item.name: item.picture() for item in LEXICON}, materials)


def tile_pictures(tile: int) -> NDArray[np.uint8]:
    """The room from above: pictures ``[FIRST_OBJECT + 50, s, s, 3]`` by tile code.

    Args:
        tile: ``s``.
    """
    textures = _textures()
    floor = np.broadcast_to(np.array(_GROUND, np.float64), (tile, tile, 3))
    above = [floor, np.broadcast_to(np.array(_VOID, np.float64), floor.shape)]
    above += [_shrunk(textures[name], tile) for name in ("pillow", "blanket", "tray")]
    above += [_over(floor, _agent(direction), tile) for direction in range(4)]
    above += [_over(floor, item.picture(), tile) for item in LEXICON]
    return np.rint(np.stack(above)).clip(0, 255).astype(np.uint8)


def held_pictures(tile: int) -> NDArray[np.uint8]:
    """What the hand holds, on black: pictures ``[1 + 50, s, s, 3]``, the first of nothing."""
    black = np.zeros((tile, tile, 3))
    pictures = [black, *(_over(black, item.picture(), tile) for item in LEXICON)]
    return np.rint(np.stack(pictures)).clip(0, 255).astype(np.uint8)


def _textures() -> dict[str, Texture]:
    return {
        "floor": _floor(),
        "wall": _wall(),
        "sheet side": _bedside(_SHEET),
        "blanket side": _bedside(_BLANKET),
        "pillow": _pillow(),
        "blanket": _blanket(),
        "rim": surfaces.plain((84, 122, 122), grain=0.03),
        "tray": _tray(),
    }


def _floor() -> Texture:
    """Boards along x."""
    picture = mixed(surfaces.plain(_BOARDS, grain=0.05), _BLACK, 0.09 * (_DOWN // 8 % 2))
    joint = (_DOWN % 8 == 7) | ((_ACROSS == 3 + 16 * (_DOWN // 8 % 2)) & (_DOWN % 8 < 7))
    return mixed(picture, _BLACK, 0.3 * joint)


def _wall() -> Texture:
    """Paper with a small motif above panels and a skirting board."""
    motif = np.hypot(_DOWN % 10 - 4.5, (_ACROSS + 8 * (_DOWN // 10 % 2)) % 16 - 7.5) < 2
    picture = mixed(surfaces.plain(_PAPER, grain=0.02), _WHITE, 0.35 * motif)
    low = _DOWN >= 20
    picture = mixed(picture, _PANEL, low)
    picture = mixed(picture, _BLACK, 0.18 * (low & (_ACROSS % 8 == 7)) + 0.25 * ((_DOWN == 20) | (_DOWN == 28)))
    return mixed(picture, (120, 84, 58), _DOWN > 28)


def _pillow() -> Texture:
    picture = mixed(surfaces.plain(_SHEET, grain=0.02), _BLACK, 0.12 * (_EDGE < 3))
    inside = _EDGE - 5 + 0.0
    return mixed(mixed(picture, _BLACK, 0.22 * (np.abs(inside) < 1)), _WHITE, 0.8 * (inside >= 1))


def _blanket() -> Texture:
    stitched = (_DOWN % 16 == 0) | (_ACROSS % 16 == 0)
    dots = np.hypot(_DOWN % 16 - 8, _ACROSS % 16 - 8) < 3
    picture = mixed(surfaces.plain(_BLANKET, grain=0.04), _BLACK, 0.3 * stitched)
    return mixed(picture, (240, 214, 120), 0.8 * dots)


def _bedside(cloth: Colour) -> Texture:
    """Cloth that hangs over the upper half of a wooden frame."""
    frame = mixed(surfaces.planks(_WOOD), _BLACK, 0.5 * (_DOWN < 9))
    cloth_picture = mixed(surfaces.plain(cloth, grain=0.05), _BLACK, 0.2 * (_ACROSS % 8 < 2) + 0.25 * (_DOWN == 6))
    return mixed(frame, cloth_picture, _DOWN < 7)


def _tray() -> Texture:
    picture = surfaces.plain(_ENAMEL, grain=0.02)
    picture = mixed(picture, _BLACK, 0.45 * (_EDGE < 3))
    return mixed(picture, _BLACK, 0.25 * (_EDGE == 5))


def _agent(direction: int) -> Billboard:
    """An arrowhead towards the east, south, west or north."""
    fine = (np.arange(TEXELS) + 0.5) / (TEXELS / 2) - 1
    y, x = np.meshgrid(fine, fine, indexing="ij")
    cosine, sine = round(math.cos(direction * math.pi / 2)), round(math.sin(direction * math.pi / 2))
    ahead, aside = x * cosine + y * sine, np.abs(y * cosine - x * sine)
    body = (ahead > -0.75) & (aside < 0.46 * (0.95 - ahead)) & ~((ahead < -0.35) & (aside < 0.28))
    inner = (ahead > -0.6) & (aside < 0.46 * (0.66 - ahead)) & ~((ahead < -0.2) & (aside < 0.42))
    return np.concatenate([mixed(np.zeros((TEXELS, TEXELS, 3)), _WHITE, inner), body[..., None]], axis=-1)


def _over(ground: NDArray[np.float64], sprite: Billboard, tile: int) -> NDArray[np.float64]:
    """A billboard on a tile."""
    cover = _shrunk(sprite[..., 3:], tile)
    colour = _shrunk(sprite[..., :3] * sprite[..., 3:], tile) / np.maximum(cover, 1e-9)
    solid = np.clip(1.6 * cover[..., 0], 0, 1)
    return mixed(ground, colour, solid)


def _shrunk(picture: NDArray[np.float64], tile: int) -> NDArray[np.float64]:
    """To ``s`` by ``s`` pixels, each the mean of what it covers."""
    edges = np.arange(tile + 1) * TEXELS / tile
    overlap = np.minimum(edges[1:, None], np.arange(1, TEXELS + 1)) - np.maximum(edges[:-1, None], np.arange(TEXELS))
    weight = np.maximum(overlap, 0) * tile / TEXELS
    return np.stack([weight @ picture[..., channel] @ weight.T for channel in range(picture.shape[2])], axis=-1)
