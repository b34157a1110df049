"""Compiled inner loops of the ray-caster: columns into a private picture, sprites over them, then one packing pass.

The world is a field of columns with a height for each cell, walked from the near to the far by every ray (Amanatides
and Woo 1987). The rows of the picture fill from below: the floor of a cell, then the riser to a higher next cell. A ray
ends at an opaque cell, at the edge of the map, or when its column is full.

All arithmetic is float64 or integer, so that the un-jitted functions (``NUMBA_DISABLE_JIT=1``) give the same bytes.

Legend: see `envs.raycast._tables`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np

from envs.raycast._jit import entry, inner
from envs.raycast._tables import MAX_STEPS, TEXELS

_LAST = TEXELS - 1
_ONE_BITS = 16
_ONE = 1 << _ONE_BITS
_FAR = 1e30
_NEAREST = 1e-6
_OUTSIDE = -1
_HOLE = -1e6
"""Heights below are no floor."""
_SLAB = 0.3
"""Thickness of a floor beside a hole."""
_SPRITE_NEAREST = 0.15
_SIDE_LIGHT = 0.78
"""Brightness of the sides that face along y, so that corners show."""
_FOG, _FOG_END = 0.045, 14.0
"""Loss of brightness a cell of distance, and where it ends."""


@entry
def render_rows(atlas, lens, scene, scratch, picture, rows, wanted, lo, hi):
    """Draws ``picture[e]`` of every ``lo <= e < hi`` with ``rows[e] == wanted``.

    Args:
        atlas: `Atlas`.
        lens: `Lens`.
        scene: `Scene`.
        scratch: `Scratch`, used by nobody else meanwhile.
        picture: ``[B, H, W, 3]`` uint8.
        rows: ``[B]`` bool.
        wanted: Value of ``rows`` that asks for a picture.
        lo: First row.
        hi: One past the last row.
    """
    for e in range(lo, hi):
        if rows[e] == wanted:
            _draw(atlas, lens, scene, scratch, e)
            _pack(scratch.canvas, picture[e])


@inner
def _draw(atlas, lens, scene, scratch, e):
    heading_x, heading_y = math.cos(scene.angle[e]), math.sin(scene.angle[e])
    light = lens.light[scene.sky[e]]
    for column in range(lens.width):
        for row in range(lens.height):
            scratch.canvas[column, row] = lens.sky[scene.sky[e], row]
    _cast(atlas, lens, scene, scratch, e, heading_x, heading_y, light)
    count = _sort_sprites(lens, scene, scratch, e, heading_x, heading_y)
    for k in range(count):
        _draw_sprite(atlas, lens, scene, scratch, e, scratch.order[k], heading_x, heading_y, light)
    if scene.overlay[e] >= 0:
        _draw_overlay(atlas.sprite, scene.overlay[e], lens, scratch.canvas)


@inner
def _cast(atlas, lens, scene, scratch, e, heading_x, heading_y, light):
    """Draws the cells; notes the depth and the changes of height of every column.

    Neighbouring floors of one code are drawn at once. Arrays are indexed in full, and helpers take few of them, because
    views and the passing of large tuples cost more here than the drawing.
    """
    cells, canvas, surface = scene.cells, scratch.canvas, atlas.surface
    x, y, eye, horizon = scene.x[e], scene.y[e], scene.eye[e], lens.height * 0.5
    rows, columns = cells.shape[1:]
    for column in range(lens.width):
        slope = lens.slope[column]
        ray_x, ray_y = heading_x - slope * heading_y, heading_y + slope * heading_x
        map_x, map_y = int(x), int(y)
        step_x, delta_x, next_x = _axis(ray_x, x)
        step_y, delta_y, next_y = _axis(ray_y, y)
        code = np.int64(cells[e, map_y, map_x])
        height = atlas.height[code]
        low, steps, depth, distance = lens.height, 0, _FAR, 0.0
        while low > 0:
            next_code, along_x = code, True
            while next_code == code:
                along_x = next_x < next_y
                distance = next_x if along_x else next_y
                next_x += delta_x if along_x else 0.0
                next_y += 0.0 if along_x else delta_y
                map_x += step_x if along_x else 0
                map_y += 0 if along_x else step_y
                if map_x < 0 or map_y < 0 or map_x >= columns or map_y >= rows:
                    next_code = _OUTSIDE
                else:
                    next_code = np.int64(cells[e, map_y, map_x])
            scale = lens.focal / max(distance, _NEAREST)
            if _HOLE < height < eye:
                top, rise = _row(horizon + (eye - height) * scale), eye - height
                _draw_floor(
                    canvas, surface, lens.reach, column, atlas.top[code], top, low, rise, x, y, ray_x, ray_y, light
                )
                low = min(low, top)
            if next_code == _OUTSIDE:
                break
            code, below = next_code, height
            height = atlas.height[code]
            if height > below:
                top, drop = max(_row(horizon + (eye - height) * scale), 0), eye - height
                bottom = low if below > _HOLE else min(low, _row(horizon + (drop + _SLAB) * scale))
                hit = y + ray_y * distance if along_x else x + ray_x * distance
                shade = _shade(light if along_x else light * _SIDE_LIGHT, distance)
                length = distance / lens.focal
                _draw_riser(canvas, surface, column, atlas.side[code], hit, top, bottom, horizon, drop, length, shade)
                low = min(low, top)
            if atlas.opaque[code]:
                depth = distance
                break
            if height != below:
                steps = min(steps + 1, MAX_STEPS)
                scratch.step_depth[column, steps - 1] = distance
                scratch.step_row[column, steps - 1] = low
        scratch.depth[column] = min(depth, distance) if low <= 0 else depth
        scratch.steps[column] = steps


@inner
def _axis(ray, start):
    """Along one axis: the step from cell to cell, the distance between their borders, and that to the first border."""
    if ray == 0:
        return 1, _FAR, _FAR
    delta, inside = 1.0 / abs(ray), start - math.floor(start)
    return (1, delta, (1.0 - inside) * delta) if ray > 0 else (-1, delta, inside * delta)


@inner
def _row(position):
    """First row whose centre is at or below a height on the screen."""
    return math.ceil(position - 0.5)


@inner
def _shade(light, distance):
    """Brightness in 256ths of what is seen from a distance."""
    return np.uint32(256.0 * light * (1.0 - _FOG * min(distance, _FOG_END)))


@inner
def _shaded(colour, shade):
    red_blue = ((colour & np.uint32(0xFF00FF)) * shade) >> np.uint32(8) & np.uint32(0xFF00FF)
    green = ((colour & np.uint32(0x00FF00)) * shade) >> np.uint32(8) & np.uint32(0x00FF00)
    return red_blue | green


@inner
def _draw_floor(canvas, surface, reach, column, top, first, last, rise, x, y, ray_x, ray_y, light):
    """A column's rows ``first`` to ``last`` of a floor ``rise`` below the eye."""
    x, y, ray_x, ray_y = x * TEXELS, y * TEXELS, ray_x * TEXELS, ray_y * TEXELS
    full = 256.0 * light
    loss = full * _FOG
    for row in range(first, last):
        distance = rise * reach[row]
        across, down = int(x + ray_x * distance) & _LAST, int(y + ray_y * distance) & _LAST
        shade = np.uint32(full - loss * min(distance, _FOG_END))
        canvas[column, row] = _shaded(surface[top, across, down], shade)


@inner
def _draw_riser(canvas, surface, column, side, hit, first, last, horizon, drop, length, shade):
    """A column's rows ``first`` to ``last`` of a side.

    ``hit`` is a coordinate along the side, ``drop`` how far its upper edge is below the eye, ``length`` what a pixel
    covers there.
    """
    across = int((hit - math.floor(hit)) * TEXELS) & _LAST
    down = int(((first + 0.5 - horizon) * length - drop) * (TEXELS * _ONE))
    step = int(length * (TEXELS * _ONE))
    for row in range(first, last):
        canvas[column, row] = _shaded(surface[side, across, (down >> _ONE_BITS) & _LAST], shade)
        down += step


@inner
def _sort_sprites(lens, scene, scratch, e, heading_x, heading_y):
    """Lists the sprites in front of the camera by decreasing distance; returns how many."""
    x, y, count = scene.x[e], scene.y[e], 0
    for s in range(scene.sprite_texture.shape[1]):
        if scene.sprite_texture[e, s] < 0:
            continue
        dx, dy = scene.sprite_x[e, s] - x, scene.sprite_y[e, s] - y
        distance = dx * heading_x + dy * heading_y
        if distance < _SPRITE_NEAREST:
            continue
        across = abs(dy * heading_x - dx * heading_y) - scene.sprite_size[e, s]
        if across * lens.focal > distance * lens.width * 0.5:
            continue
        scratch.distance[s] = distance
        k = count
        while k > 0 and scratch.distance[scratch.order[k - 1]] < distance:
            scratch.order[k] = scratch.order[k - 1]
            k -= 1
        scratch.order[k] = s
        count += 1
    return count


@inner
def _draw_sprite(atlas, lens, scene, scratch, e, s, heading_x, heading_y, light):
    """A square above its foot, where the column's walls and steps do not hide it."""
    distance = scratch.distance[s]
    scale = lens.focal / distance
    size = scene.sprite_size[e, s] * scale
    if size < 1.0:
        return
    across = (scene.sprite_y[e, s] - scene.y[e]) * heading_x - (scene.sprite_x[e, s] - scene.x[e]) * heading_y
    left = lens.width * 0.5 + across * scale - size * 0.5
    foot = lens.height * 0.5 + (scene.eye[e] - scene.sprite_z[e, s]) * scale
    top, shade, sprite = foot - size, _shade(light, distance), scene.sprite_texture[e, s]
    first, last = max(_row(left), 0), min(_row(left + size), lens.width)
    highest, lowest = max(_row(top), 0), min(_row(foot), lens.height)
    step = int(TEXELS * _ONE / size)
    begin = int((highest + 0.5 - top) * TEXELS * _ONE / size)
    for column in range(first, last):
        if scratch.depth[column] < distance:
            continue
        bottom = lowest
        for k in range(scratch.steps[column]):
            if scratch.step_depth[column, k] < distance:
                bottom = min(bottom, scratch.step_row[column, k])
        texel = int((column + 0.5 - left) * TEXELS / size) & _LAST
        down = begin
        for row in range(highest, bottom):
            colour = atlas.sprite[sprite, texel, (down >> _ONE_BITS) & _LAST]
            if colour != 0:
                scratch.canvas[column, row] = _shaded(colour, shade)
            down += step


@inner
def _draw_overlay(sprites, sprite, lens, canvas):
    """A sprite in the lower right corner, a quarter of the picture high."""
    size = lens.height // 4
    for i in range(size):
        for j in range(size):
            colour = sprites[sprite, i * TEXELS // size, j * TEXELS // size]
            if colour != 0:
                canvas[lens.width - size + i, lens.height - size + j] = colour


@inner
def _pack(canvas, picture):
    """Columns of words to rows of bytes."""
    width, height = canvas.shape
    for row in range(height):
        for column in range(width):
            colour = canvas[column, row]
            picture[row, column, 0] = colour & 0xFF
            picture[row, column, 1] = (colour >> 8) & 0xFF
            picture[row, column, 2] = (colour >> 16) & 0xFF
