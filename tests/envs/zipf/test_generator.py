import hashlib

import numpy as np
import pytest

from envs.zipf.generator import COLOURS, SHAPES, Sizes, generate

BOARDS = """0249ea06ad1b 5d470379e6da 6147466edfaa e3a7a4af5fed 8adf520e821d 607a4d0513a8 cd1707f82c33 0b69d8694261
dd2394f4b62c 4fb35e6e5992 7e598924b841 dfd1033adb02 36e304c869a5 3545ecc062bf c3cfb93edffe 86d9e7b7db96 5810642f3847
b888e3426ef5 f7659a306bf1 9324231dbcbb"""
LOOKS = """f06032f9ca85 e40f5346ac3a e14375f9033f 48203d3c6e9b ab506e19563a ddc019b6d2cc b9dbdc58c97f 89cfb757a256
bc293ed16650 7aabda570992 4840e953e23d e816089ec174 565e515819b5 4683b4045897 53d9cf41e72b 9a24025b8645 79079a3eb31d
aeb32a63e26b 9fd8764efad4 7f1abd42a60c"""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("index", range(20))
def test_the_published_maps(index):
    one = generate(Sizes(), 1234 + index)
    assert digest(one.text()) == BOARDS.split()[index]
    assert digest(";".join(f"{colour} {shape}" for colour, shape in one.looks)) == LOOKS.split()[index]


def flood(walls, start):
    """Cells reached by orthogonal moves."""
    reached, frontier = {start}, [start]
    for row, column in frontier:
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if not walls[cell] and cell not in reached:
                reached.add(cell)
                frontier.append(cell)
    return reached


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        Sizes((1, 1), (3, 3), 7),
        Sizes((1, 4), (2, 5), 10),
        Sizes((4, 1), (5, 2), 10),
        Sizes((5, 6), (4, 3), 60),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(5))
def test_rooms_form_a_tree_and_objects_keep_clear_of_doors(sizes, seed):
    one = generate(sizes, seed)
    (height, width), rooms = sizes.room, sizes.rooms[0] * sizes.rooms[1]
    assert one.walls.shape == sizes.shape == (sizes.rooms[0] * (height + 1) + 1, sizes.rooms[1] * (width + 1) + 1)
    rows, columns = np.nonzero(~one.walls)
    doors = [(r, c) for r, c in zip(rows, columns, strict=True) if r % (height + 1) == 0 or c % (width + 1) == 0]
    assert len(doors) == rooms - 1
    assert len(flood(one.walls, one.agent)) == rooms * height * width + len(doors)

    assert len({*one.objects, one.agent}) == sizes.objects + 1
    for row, column in (*one.objects, one.agent):
        assert row % (height + 1) in (1, height) or column % (width + 1) in (1, width)
        assert all(abs(row - r) + abs(column - c) > 1 for r, c in doors)
    assert len(set(one.looks)) == sizes.objects
    assert all(colour in COLOURS and shape in SHAPES for colour, shape in one.looks)


def test_many_objects_end():
    assert len(set(generate(Sizes((9, 9), (4, 4), 225), 0).looks)) == 225


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rooms": (0, 3)}, "num_rooms"),
        ({"room": (3, 0)}, "room_size"),
        ({"objects": 0}, "num_objects"),
        ({"objects": 226}, "226"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sizes(**arguments)


def test_too_many_objects_for_the_cells():
    with pytest.raises(ValueError, match=r"need 9 cells, but only 8"):
        generate(Sizes((1, 1), (3, 3), 8), 0)
