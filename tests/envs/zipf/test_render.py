import re

import numpy as np
import pytest

from envs.zipf.gridworld import ZipfGridworld, ZipfGridworldVector
from envs.zipf.pictures import cue_pictures

YELLOW = (255, 210, 60)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_picture_shows_board_view_and_cue():
    env = ZipfGridworld(obs="tiles", render_mode="rgb_array")
    obs, _ = env.reset(seed=0, options={"task": (3, 19)})
    picture = env.render()
    assert picture.dtype == np.uint8
    rows, columns = np.nonzero((picture == YELLOW).all(axis=-1))
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (7 * 27, 7 * 27)
    inside = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    agent = inside[3 * 27 : 4 * 27, 3 * 27 : 4 * 27]
    assert (agent == 255).all()
    cue = cue_pictures()[obs["cue"]]
    corner = picture[-len(cue) * 9 - 15 :, 8:]
    assert any(
        (corner[r : r + 81, :81] == cue.repeat(9, axis=0).repeat(9, axis=1)).all() for r in range(len(corner) - 80)
    )


def test_the_picture_changes_with_every_move():
    env = ZipfGridworld(render_mode="rgb_array")
    env.reset(seed=0, options={"task": (0, 0)})
    before = env.render()
    shapes = {before.shape}
    for action in range(8):
        env.step(action)
        after = env.render()
        shapes.add(after.shape)
        assert (after != before).any()
        before = after
        if env.batch.frame.terminated[0]:
            break
    assert len(shapes) == 1


@pytest.mark.parametrize("arguments", [{"view": 3}, {"view": 11}, {"num_rooms": (1, 1), "num_objects": 5}], ids=str)
def test_other_sizes_render(arguments):
    env = ZipfGridworld(render_mode="rgb_array", **arguments)
    env.reset(seed=0)
    assert env.render().ndim == 3


def test_the_text_shows_board_ranks_and_probability():
    env = ZipfGridworldVector(2, render_mode="ansi")
    env.reset(seed=0, options={"task": [(0, 0), (16, 17)]})
    first, second = map(plain, env.render())
    assert first.startswith(env.world.maps[0].text())
    assert "rank: map 1/20, goal 1/20" in first
    assert "zipf, exponent 2: 39.3 %" in first
    assert "RARE" in second
    assert "step 0/100" in second


def test_the_text_tells_how_it_ended():
    env = ZipfGridworld(render_mode="ansi", max_steps=1)
    env.reset(seed=0, options={"task": (0, 0)})
    env.step(0)
    assert plain(env.render()).endswith("step 1/1 timeout")
