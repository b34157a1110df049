import numpy as np
import pytest

from envs.zipf.generator import SHAPES
from envs.zipf.pictures import (
    FIRST_OBJECT,
    colour_rgb,
    cue_pictures,
    look_name,
    look_of,
    shape_masks,
    tile_pictures,
)


def test_every_shapes_lit_pixels():
    counts = [41, 56, 45, 36, 45, 36, 49, 32, 45, 45, 63, 63, 63, 45, 45]
    assert shape_masks().sum(axis=(1, 2)).tolist() == counts


def test_shapes_turn_into_one_another():
    mask = dict(zip(SHAPES, shape_masks(), strict=True))
    np.testing.assert_array_equal(mask["tee"], mask["upside_down_tee"][::-1])
    np.testing.assert_array_equal(mask["u"], mask["upside_down_u"][::-1])
    np.testing.assert_array_equal(mask["vertical_stripes"], mask["horizontal_stripes"].T)
    for name in ("plus", "ex"):
        np.testing.assert_array_equal(mask[f"inverse_{name}"], ~mask[name])
    assert mask["triangle"][0, 4]
    assert mask["triangle"][8].all()


def test_pictures():
    pictures, cues = tile_pictures(), cue_pictures()
    assert pictures.shape == (228, 9, 9, 3)
    assert [np.unique(picture).tolist() for picture in pictures[:3]] == [[0], [40], [255]]
    look = look_of("orange", "tee")
    assert look == 15 * 8 + 4
    assert look_name(look) == "orange tee"
    lit = shape_masks()[SHAPES.index("tee")]
    np.testing.assert_array_equal(pictures[FIRST_OBJECT + look][lit], [(255, 165, 0)] * lit.sum())
    assert (pictures[FIRST_OBJECT + look][~lit] == 0).all()
    assert (cues[look][~lit] == 180).all()
    np.testing.assert_array_equal(cues[look][lit], pictures[FIRST_OBJECT + look][lit])
    assert len(np.unique(pictures.reshape(228, -1), axis=0)) == 228
    assert colour_rgb(look_of("rose", "ex")) == (255, 205, 230)


@pytest.mark.parametrize("tile", [3, 4, 18])
def test_other_sizes_are_the_nearest_pixels(tile):
    pictures = tile_pictures(tile)
    assert pictures.shape == (228, tile, tile, 3)
    if tile == 18:
        np.testing.assert_array_equal(pictures[:, ::2, 1::2], tile_pictures())
    if tile == 3:
        np.testing.assert_array_equal(pictures, tile_pictures()[:, 1::3, 1::3])
