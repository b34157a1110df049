import numpy as np
import pytest
import torch

from byol_ext.rl.tiles import TileRenderer
from envs.zipf.gridworld import ZipfGridworldVector
from envs.zipf.pictures import cue_pictures, tile_pictures


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("view", "tile"), [(7, 9), (5, 4)])
def test_bit_equal_to_the_environments_own_pictures(dtype, view, tile):
    env = ZipfGridworldVector(32, obs="both", split="uniform", dtype=dtype, view=view, tile=tile, max_steps=20)
    tables = [tile_pictures(tile), cue_pictures(tile)]
    if dtype == "float32":
        tables = [table.astype(np.float32) / np.float32(255) for table in tables]
    render, channels_first = TileRenderer(*tables), TileRenderer(*tables, channels_first=True)
    obs, _ = env.reset(seed=0)
    for actions in np.random.default_rng(0).integers(0, 8, (40, 32)):
        tiles, cue = torch.from_numpy(obs["tiles"]), torch.from_numpy(obs["cue"])
        image = render(tiles, cue)
        assert image.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(image.numpy(), obs["image"])
        np.testing.assert_array_equal(channels_first(tiles, cue).numpy(), obs["image"].transpose(0, 3, 1, 2))
        obs, *_ = env.step(actions)


def test_any_leading_dimensions():
    render = TileRenderer(tile_pictures(), cue_pictures())
    tiles, cue = torch.randint(0, 228, (2, 3, 7, 7)), torch.randint(0, 225, (2, 3))
    tiles[..., 0, 0] = 255
    image = render(tiles, cue)
    assert image.shape == (2, 3, 63, 63, 3)
    torch.testing.assert_close(image[1, 2], render(tiles[1, 2], cue[1, 2]))


def test_tables_move_with_the_module_and_are_not_saved():
    render = TileRenderer(tile_pictures(), cue_pictures())
    assert not render.state_dict()
    assert render.to("meta").pictures.device.type == "meta"


def test_bad_tables_and_shapes():
    with pytest.raises(ValueError, match="pictures"):
        TileRenderer(tile_pictures(9), cue_pictures(4))
    with pytest.raises(ValueError, match="pictures"):
        TileRenderer(tile_pictures(), cue_pictures()[0])
    with pytest.raises(ValueError, match="255"):
        TileRenderer(torch.zeros(256, 2, 2, 3), torch.zeros(1, 2, 2, 3))
    with pytest.raises(ValueError, match="cue"):
        TileRenderer(tile_pictures(), cue_pictures())(torch.zeros(4, 7, 7), torch.zeros(3))
