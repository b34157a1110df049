"""An independent gridworld, in plain Python on the maps themselves."""

import numpy as np
import pytest

from envs.zipf.pictures import cue_pictures, tile_pictures

MOVES = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]


class Reference:
    """One episode at a time: the rules of the specification, cell by cell."""

    def __init__(self, maps, *, view=7, max_steps=100, tile=9):
        self.maps, self.view, self.max_steps = maps, view, max_steps
        self.pictures, self.cues = tile_pictures(tile), cue_pictures(tile)

    def reset(self, m, o):
        self.map, self.goal = self.maps[m], o
        self.cell, self.steps, self.ended = self.map.agent, 0, False

    def step(self, action):
        """(reward, terminated, truncated, outcome)"""
        walls, (row, column), (dr, dc) = self.map.walls, self.cell, MOVES[action]
        corner = dr != 0 and dc != 0 and walls[row + dr, column] and walls[row, column + dc]
        if not walls[row + dr, column + dc] and not corner:
            self.cell = (row + dr, column + dc)
        self.steps += 1
        if self.cell in self.map.objects:
            won = self.map.objects.index(self.cell) == self.goal
            return float(won), True, False, "goal" if won else "wrong"
        late = self.steps == self.max_steps
        return 0.0, False, late, "timeout" if late else None

    def tiles(self):
        """The view's codes, with the cue's look at the upper left corner beside them."""
        reach, (rows, columns) = self.view // 2, self.map.walls.shape
        codes = np.zeros((self.view, self.view), dtype=np.uint8)
        for i in range(self.view):
            for j in range(self.view):
                cell = (self.cell[0] + i - reach, self.cell[1] + j - reach)
                if not (0 <= cell[0] < rows and 0 <= cell[1] < columns):
                    continue
                if cell in self.map.objects:
                    codes[i, j] = 3 + look(self.map.looks[self.map.objects.index(cell)])
                elif self.map.walls[cell]:
                    codes[i, j] = 1
        if self.cell not in self.map.objects:
            codes[reach, reach] = 2
        codes[0, 0] = 255
        return codes, look(self.map.looks[self.goal])

    def image(self):
        codes, cue = self.tiles()
        codes[0, 0] = 0
        grid = self.pictures[codes]
        grid[0, 0] = self.cues[cue]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in grid])


def look(colour_and_shape):
    colours = "red green blue purple orange yellow brown pink cyan dark_green dark_red dark_blue teal lavender rose"
    shapes = """triangle empty_square plus inverse_plus ex inverse_ex circle empty_circle tee upside_down_tee h u
    upside_down_u vertical_stripes horizontal_stripes"""
    colour, shape = colour_and_shape
    return 15 * shapes.split().index(shape) + colours.split().index(colour)


@pytest.fixture
def reference():
    return Reference
