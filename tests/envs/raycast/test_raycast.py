"""The ray-caster against brute force, symmetry and occlusion."""

import math
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from envs.raycast import (
    COLOURS,
    NO_FLOOR,
    TEXELS,
    Material,
    RaycastRenderer,
    Sky,
    build_atlas,
    empty_scene,
    one_room,
)
from envs.raycast._tables import NOTHING
from envs.raycast.billboards import PATTERNS, SHAPES, box, shaped
from envs.raycast.surfaces import bricks, door, leaves, meadow, panels, planks, rock, stones, tiles

FLOOR, WALL, LOW, HOLE = range(4)
WALL_COLOUR, FLOOR_COLOUR, LOW_COLOUR = (200, 0, 0), (0, 200, 0), (0, 0, 200)
RED_BOX, BLUE_BOX = 0, 1
SKIES = [Sky((130, 130, 130), (130, 130, 130), (90, 90, 90)), Sky((0, 0, 0), (0, 0, 0), (0, 0, 0), light=0.5)]
SIZE = (72, 96)


def uniform(colour):
    return np.broadcast_to(np.asarray(colour, float), (TEXELS, TEXELS, 3))


def atlas():
    textures = {"wall": uniform(WALL_COLOUR), "floor": uniform(FLOOR_COLOUR), "low": uniform(LOW_COLOUR)}
    sprites = {"red": shaped(box(), COLOURS["red"]), "blue": shaped(box(), COLOURS["blue"])}
    materials = [
        Material("floor", "floor"),
        Material("wall", "wall", 1.0, opaque=True),
        Material("low", "low", 0.4),
        Material("floor", "floor", NO_FLOOR),
    ]
    return build_atlas(textures, sprites, materials)


def room(num_envs=1, *, edge=9, sprites=2):
    scene = empty_scene(num_envs, cells=(edge, edge), sprites=sprites)
    scene.cells[:] = WALL
    scene.cells[:, 1:-1, 1:-1] = FLOOR
    return scene


def picture_of(scene, size=SIZE):
    picture = np.zeros((len(scene.cells), *size, 3), np.uint8)
    RaycastRenderer(atlas(), SKIES, size=size).render(scene, picture)
    return picture


def place(scene, slot, x, y, texture, *, size=0.6, e=0):
    scene.sprite_x[e, slot], scene.sprite_y[e, slot], scene.sprite_size[e, slot] = x, y, size
    scene.sprite_texture[e, slot] = texture


def is_wall(picture):
    return (picture[..., 0] > 20) & (picture[..., 1] == 0) & (picture[..., 2] == 0)


def is_floor(picture):
    return (picture[..., 1] > 20) & (picture[..., 0] == 0) & (picture[..., 2] == 0)


def is_low(picture):
    return (picture[..., 2] > 20) & (picture[..., 0] == 0) & (picture[..., 1] == 0)


def reddish(picture):
    return (picture[..., 0] > 60) & (picture[..., 1] > 0) & (picture[..., 0] > 2 * picture[..., 2].astype(int))


def bluish(picture):
    return (picture[..., 2] > 60) & (picture[..., 0] > 0) & (picture[..., 2] > 1.6 * picture[..., 0].astype(int))


def wall_distance(cells, x, y, ray_x, ray_y):
    """By small steps along a ray whose forward part is 1."""
    distance = 0.0
    while cells[int(y + ray_y * distance), int(x + ray_x * distance)] != WALL:
        distance += 1e-3
    return distance


@pytest.mark.parametrize("seed", range(4))
def test_walls_stand_where_brute_force_finds_them(seed):
    rng = np.random.default_rng(seed)
    scene = room()
    inner = scene.cells[0, 1:-1, 1:-1]
    inner[rng.random(inner.shape) < 0.2] = WALL
    scene.cells[0, 4, 4] = FLOOR
    scene.x[0], scene.y[0] = 4 + rng.uniform(0.1, 0.9), 4 + rng.uniform(0.1, 0.9)
    scene.angle[0] = rng.uniform(0, 2 * math.pi)
    picture = picture_of(scene)[0]
    height, width = SIZE
    focal = width / 2 / math.tan(math.radians(33))
    for column in range(width):
        slope = (column + 0.5 - width / 2) / focal
        cos, sin = math.cos(scene.angle[0]), math.sin(scene.angle[0])
        distance = wall_distance(scene.cells[0], scene.x[0], scene.y[0], cos - slope * sin, sin + slope * cos)
        expected = min(focal / distance, height)
        assert abs(is_wall(picture[:, column]).sum() - expected) <= 1.5
        assert abs(is_floor(picture[:, column]).sum() - (height - expected) / 2) <= 1.5


def test_a_symmetric_world_gives_a_symmetric_picture():
    scene = room()
    place(scene, 0, 7.0, 4.5, BLUE_BOX)
    picture = picture_of(scene)[0]
    assert (is_wall(picture) == is_wall(picture)[:, ::-1]).all()
    assert bluish(picture).sum() > 20
    assert abs(np.argwhere(bluish(picture))[:, 1].mean() - (SIZE[1] - 1) / 2) < 1


def test_turning_right_moves_things_to_the_left():
    columns = []
    for turns in range(-1, 2):
        scene = room()
        place(scene, 0, 7.0, 4.5, BLUE_BOX)
        scene.angle[0] = turns * math.pi / 12
        columns.append(np.argwhere(bluish(picture_of(scene)[0]))[:, 1].mean())
    assert columns[0] > columns[1] > columns[2]


@pytest.mark.parametrize("order", [(RED_BOX, BLUE_BOX), (BLUE_BOX, RED_BOX)])
def test_the_nearer_sprite_hides_the_farther_whatever_their_order(order):
    scene = room()
    for slot, texture in enumerate(order):
        place(scene, slot, 5.8 if texture == RED_BOX else 7.2, 4.5, texture)
    picture = picture_of(scene)[0]
    assert reddish(picture).sum() > 100
    assert bluish(picture).sum() == 0


def test_a_wall_hides_a_sprite_and_a_low_block_its_lower_part():
    rows = {}
    for code in (FLOOR, LOW, WALL):
        scene = room()
        place(scene, 0, 7.2, 4.5, BLUE_BOX, size=0.8)
        scene.cells[0, :, 6] = code
        shown = np.argwhere(bluish(picture_of(scene)[0]))[:, 0]
        rows[code] = (len(shown), shown.min(initial=99), shown.max(initial=0))
    assert rows[WALL][0] == 0
    assert 0 < rows[LOW][0] < rows[FLOOR][0]
    assert rows[LOW][1] == rows[FLOOR][1]
    assert rows[LOW][2] < rows[FLOOR][2]


def test_a_low_block_shows_its_side_below_its_top_and_the_wall_above():
    scene = room()
    scene.cells[0, :, 6] = LOW
    column = picture_of(scene)[0][:, SIZE[1] // 2]
    kinds = "".join("w" if is_wall(p) else "l" if is_low(p) else "f" if is_floor(p) else "s" for p in column)
    assert kinds.strip("s").startswith("w")
    assert "wl" in kinds.replace("f", "")
    assert kinds.endswith("f")


def test_the_sky_shows_through_a_hole_and_above_the_walls():
    scene = room()
    scene.cells[0, :, 6:] = HOLE
    picture = picture_of(scene)[0]
    assert (picture[0] == SKIES[0].zenith).all()
    assert (picture[SIZE[0] * 3 // 4, SIZE[1] // 2] == SKIES[0].below).all()
    assert is_floor(picture[-1, SIZE[1] // 2])


def test_the_light_of_the_sky_darkens_the_world():
    scene = room(2)
    scene.sky[1] = 1
    day, night = picture_of(scene)
    at = is_wall(day)
    assert night[at].sum() == pytest.approx(0.5 * day[at].sum(), rel=0.02)


def test_the_overlay_is_in_the_lower_right_corner():
    scene = room()
    bare = picture_of(scene)[0]
    scene.overlay[0] = RED_BOX
    changed = np.argwhere((picture_of(scene)[0] != bare).any(-1))
    assert (changed.min(0) >= (SIZE[0] * 3 // 4, SIZE[1] - SIZE[0] // 4)).all()
    assert len(changed) > 100


def test_only_the_rows_asked_for_are_written():
    scene = room(5)
    renderer = RaycastRenderer(atlas(), SKIES, size=(12, 16))
    picture = np.full((5, 12, 16, 3), 7, np.uint8)
    mask = np.array([True, True, False, True, True])
    renderer.render_rows(scene, picture, mask, True, 1, 4)
    assert [(p != 7).any() for p in picture] == [False, True, False, True, False]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (64, 64), (84, 84), (240, 320)])
def test_other_sizes(size):
    picture = picture_of(room(), size)[0]
    if min(size) > 8:
        assert is_wall(picture).any()
        assert is_floor(picture).any()


def test_drawing_allocates_no_memory_a_frame():
    scene, renderer = room(32), RaycastRenderer(atlas(), SKIES, size=SIZE)
    picture = np.zeros((32, *SIZE, 3), np.uint8)
    renderer.render(scene, picture)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    renderer.render(scene, picture)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 8_000


def test_compiled_and_plain_python_give_the_same_bytes():
    script = (
        "import numpy as np\n"
        "from envs.raycast import RaycastRenderer, Sky, one_room\n"
        "a, s = one_room()\n"
        "s.angle[0], s.x[0] = 0.7, 2.2\n"
        "s.cells[0, 3, 4] = 1\n"
        "p = np.zeros((1, 24, 32, 3), np.uint8)\n"
        "RaycastRenderer(a, [Sky((1, 2, 3), (90, 80, 70), (5, 5, 5))], size=(24, 32)).render(s, p)\n"
        "print(p.tobytes().hex())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NUMBA_DISABLE_JIT": flag},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for flag in ("0", "1")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 4


def test_textures_differ_and_fill_their_square():
    textures = [f((120, 90, 60)) for f in (bricks, door, leaves, meadow, panels, planks, rock, stones, tiles)]
    assert all(t.shape == (TEXELS, TEXELS, 3) and np.isfinite(t).all() for t in textures)
    assert len({t.tobytes() for t in textures}) == len(textures)


def test_every_shape_and_pattern_is_a_picture_of_its_own():
    made = [shaped(SHAPES[s](), COLOURS["red"], PATTERNS[p]) for s in SHAPES for p in PATTERNS]
    assert len({m.tobytes() for m in made}) == len(SHAPES) * len(PATTERNS)
    assert all(0.08 < m[..., 3].mean() < 0.95 for m in made)
    assert set(np.unique(np.stack(made)[..., 3])) == {0.0, 1.0}


def test_bad_input():
    good, _ = one_room()
    with pytest.raises(ValueError, match="size"):
        RaycastRenderer(good, SKIES, size=(0, 4))
    with pytest.raises(ValueError, match="field_of_view"):
        RaycastRenderer(good, SKIES, field_of_view=180)
    with pytest.raises(ValueError, match="materials"):
        build_atlas({"a": uniform((0, 0, 0))}, {}, [])
    with pytest.raises(KeyError, match="nothing"):
        build_atlas({"a": uniform((0, 0, 0))}, {}, [Material("nothing", "a")])
    assert empty_scene(1, cells=(3, 3), sprites=1).sprite_texture[0, 0] == NOTHING
