import numpy as np
import pytest

from envs.zipf.generator import Map, Sizes, generate
from envs.zipf.pictures import FIRST_OBJECT, FLOOR, WALL, look_of
from envs.zipf.world import ACTIONS, MOVES, build_world

BOARDS = [Sizes(), Sizes((2, 3), (4, 2), 5)]


@pytest.mark.parametrize(
    ("above", "right", "corner", "moves"),
    [(False, False, False, True), (True, False, False, True), (False, True, False, True), (True, True, False, False),
     (False, False, True, False)],
)  # fmt: skip
@pytest.mark.parametrize("action", ["NE", "SE", "SW", "NW"])
def test_diagonals(above, right, corner, moves, action):
    """Blocked by a wall at the target or by both neighbours, not by one of them."""
    walls = np.ones((5, 5), dtype=bool)
    walls[1:4, 1:4] = False
    dr, dc = MOVES[ACTIONS.index(action)]
    walls[2 + dr, 2], walls[2, 2 + dc], walls[2 + dr, 2 + dc] = above, right, corner
    world = build_world([Map(walls, (2, 2), ((1, 2),), (("red", "ex"),))], view=3)
    after = world.next[0, world.start[0], ACTIONS.index(action)]
    assert world.cell(after) == ((2 + dr, 2 + dc) if moves else (2, 2))


@pytest.mark.parametrize("sizes", BOARDS, ids=str)
def test_transitions_are_the_rules_cell_by_cell(sizes):
    maps = [generate(sizes, seed) for seed in range(4)]
    world = build_world(maps, view=5)
    for m, one in enumerate(maps):
        for row, column in np.argwhere(~one.walls).tolist():
            for action, (dr, dc) in enumerate(MOVES):
                wall = one.walls
                blocked = wall[row + dr, column + dc] or (
                    dr and dc and wall[row + dr, column] and wall[row, column + dc]
                )
                expected = (row, column) if blocked else (row + dr, column + dc)
                assert world.cell(world.next[m, row * world.stride + column, action]) == expected


@pytest.mark.parametrize("view", [3, 7, 9])
def test_tables_say_what_the_maps_say(view):
    maps = [generate(Sizes(), seed) for seed in range(3)]
    world, pad = build_world(maps, view=view), view // 2
    assert world.shape == (13, 13)
    for m, one in enumerate(maps):
        board = world.tiles[m].reshape(-1, world.stride)
        assert (board[:pad] == FLOOR).all()
        assert (board[:, -pad:] == FLOOR).all()
        inner = board[pad:-pad, pad:-pad]
        np.testing.assert_array_equal(inner == WALL, one.walls)
        assert world.cell(world.start[m]) == one.agent
        for k, (cell, look) in enumerate(zip(one.objects, one.looks, strict=True)):
            assert world.cell(world.goal[m, k]) == cell
            assert inner[cell] == FIRST_OBJECT + world.look[m, k] == FIRST_OBJECT + look_of(*look)
            assert world.tiles[m, world.goal[m, k] + world.centre] == inner[cell]
        assert (inner >= FIRST_OBJECT).sum() == len(one.objects)
