"""The contact sheet: what is on it, what is said to be missing, and that pixel art stays sharp."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Discrete

from envs import gallery as gallery_module
from envs._gallery_sheet import WIDTH, Panel, Section, _fitted, _font, _wrapped, draw_sheet
from envs.gallery import Shot, gallery, main, take


class Colours(gymnasium.Env):
    """Shows one more colour each step, and none at the last."""

    observation_space, action_space = Box(0, 255, (8, 8, 3), np.uint8), Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.render(), {}

    def step(self, action):
        self.steps += 1
        return self.render(), 0.0, self.steps == 6, False, {}

    def render(self):
        picture = np.zeros((8, 8, 3), np.uint8)
        for k in range(self.steps % 5):
            picture[k] = 50 * (k + 1)
        return picture


class Missing(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        raise DependencyNotInstalled("needs a simulator: pip install nothing\nsecond line")


@pytest.fixture
def registered():
    for name, made in (("Colours", Colours), ("Missing", Missing)):
        gymnasium.register(f"byol_ext/{name}-v0", entry_point=made)
    yield
    for name in ("Colours", "Missing"):
        del gymnasium.registry[f"byol_ext/{name}-v0"]


@pytest.mark.usefixtures("registered")
def test_every_environment_has_a_section_or_a_reason(monkeypatch):
    drawn = {}
    monkeypatch.setattr(gallery_module, "draw_sheet", lambda sections, missing: drawn.update(s=sections, m=missing))
    gallery(["byol_ext/StochasticMaze-v0", "byol_ext/Colours-v0", "byol_ext/Missing-v0"])
    assert [section.title for section in drawn["s"]] == ["byol_ext/StochasticMaze-v0", "byol_ext/Colours-v0"]
    assert drawn["m"] == ["byol_ext/Missing-v0: needs a simulator: pip install nothing"]
    noises = [panel.caption for panel in drawn["s"][0].panels]
    assert noises[:2] == ['noise="none"', 'noise="brownian"']
    assert len(noises) == 8
    assert "8 x 8 x 3 uint8, action Discrete(2)" in drawn["s"][1].note


@pytest.mark.usefixtures("registered")
def test_a_shot_is_the_last_frame_or_the_one_with_most_colours():
    colours = lambda picture: len(np.unique(picture.reshape(-1, 3), axis=0))  # noqa: E731
    assert colours(take("byol_ext/Colours-v0", Shot("", actions=2))) == 3
    assert colours(take("byol_ext/Colours-v0", Shot("", actions=5))) == 1
    assert colours(take("byol_ext/Colours-v0", Shot("", actions=5, most_colours=True))) == 5
    assert colours(take("byol_ext/Colours-v0", Shot("", actions=[0] * 9, most_colours=True, observed=True))) == 5


def test_every_noise_acts_on_the_sheet():
    """The mazes' pictures were chosen so that the noise, where it shows in the frame, can be seen."""
    for shot in gallery_module._SHOTS["byol_ext/StochasticMaze-v0"]:
        env = gymnasium.make("byol_ext/StochasticMaze-v0", **shot.settings)
        env.reset(seed=shot.seeds[0])
        noisy = [env.step(action)[4]["noise_on"] for action in shot.actions][-1]
        assert noisy == (shot.settings["noise"] != "none"), shot.caption


def test_the_sheet_is_a_page_with_pictures():
    picture = np.full((20, 30, 3), 200, np.uint8)
    sheet = draw_sheet([Section("title", "note", [Panel(picture, f"caption {k}") for k in range(5)], 3)], ["gone"])
    assert sheet.shape[1] == WIDTH
    assert (sheet == 200).all(axis=-1).sum() >= 5 * 20 * 30 * 36
    taller = draw_sheet([Section("title", "note", [Panel(picture, "")] * 7, 3)], ["gone"])
    assert taller.shape[0] > sheet.shape[0]


def test_small_pictures_grow_by_whole_numbers_and_large_ones_shrink():
    picture = np.random.default_rng(0).integers(256, size=(9, 9, 3)).astype(np.uint8)
    grown = np.asarray(_fitted(picture, 40))
    np.testing.assert_array_equal(grown, picture.repeat(4, axis=0).repeat(4, axis=1))
    assert _fitted(np.zeros((50, 100, 3), np.uint8), 40).size == (40, 20)


def test_captions_are_wrapped_to_the_column():
    text = "language_answer_quantitative_question about a room"
    lines = _wrapped(text, 16, 120)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(_font(16).getlength(line) <= 120 for line in lines)
    assert _wrapped("short", 16, 120) == ["short"]


def test_command_writes_the_picture(tmp_path, capsys):
    from PIL import Image

    out = tmp_path / "folder" / "gallery.png"
    main([str(out), "byol_ext/RandomDiscoMaze-v0"])
    with Image.open(out) as image:
        assert image.width == WIDTH
    assert "1600 x" in capsys.readouterr().out


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown environments \['byol_ext/Nothing-v0'\]; known: .*StochasticMaze"):
        gallery(["byol_ext/Nothing-v0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyNotInstalled, match="pip install pillow"):
        gallery(["byol_ext/StochasticMaze-v0"])


@pytest.mark.slow
def test_the_whole_sheet():
    sheet = gallery()
    assert sheet.shape[0] > 1500
    assert "PIL" in sys.modules
