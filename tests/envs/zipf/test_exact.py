import numpy as np
import pytest

from envs.zipf.exact import random_baselines, random_walk
from envs.zipf.game import Settings
from envs.zipf.generator import Map
from envs.zipf.law import zipf
from envs.zipf.world import build_world

PUBLISHED = {
    ("zipf", 2.0): (0.032441, 17.7724, 0.010559, 13.4197),
    ("zipf", 1.5): (0.037845, 17.1336, 0.017001, 12.4117),
    ("zipf", 1.0): (0.040042, 16.8999, 0.026730, 11.3381),
    ("uniform", 2.0): (0.047694, 17.4172, 0.046118, 10.2750),
    ("rare", 2.0): (0.085880, 22.0790, 0.100887, 8.1875),
}


@pytest.mark.parametrize(("split", "exponent"), PUBLISHED)
def test_the_published_values(split, exponent):
    values = random_baselines(Settings(exponent=exponent))[split]
    success, length, timeout, shortest = PUBLISHED[split, exponent]
    assert values["success"] == pytest.approx(success, abs=5.1e-7)
    assert values["length"] == pytest.approx(length, abs=5.1e-5)
    assert values["timeout"] == pytest.approx(timeout, abs=5.1e-7)
    assert values["shortest"] == pytest.approx(shortest, abs=5.1e-5)


def test_every_goal_can_be_reached():
    shortest = random_walk(Settings().world()).shortest
    assert (shortest.min(), shortest.max()) == (1, 32)


def test_a_corridor_is_gamblers_ruin():
    """Of a corridor's three free cells the ends are objects: by symmetry each ends half of the episodes."""
    walls = np.ones((3, 5), dtype=bool)
    walls[1, 1:4] = False
    world = build_world([Map(walls, (1, 2), ((1, 1), (1, 3)), (("red", "ex"), ("blue", "ex")))], view=3)
    # Two of eight actions move; the first to do so ends the episode.
    for horizon in (1, 2, 50):
        walk, stay = random_walk(world, horizon), 0.75**horizon
        np.testing.assert_allclose(walk.success, [[(1 - stay) / 2] * 2])
        np.testing.assert_allclose(walk.timeout, [stay])
        np.testing.assert_allclose(walk.length, [(1 - stay) / 0.25])
        np.testing.assert_array_equal(walk.shortest, [[1, 1]])


def test_rank_seed_changes_frequencies_not_values():
    plain, other = Settings(), Settings(rank_seed=7)
    np.testing.assert_array_equal(random_walk(plain.world()).success, random_walk(other.world()).success)
    ours, theirs = random_baselines(plain), random_baselines(other)
    assert ours["uniform"] == theirs["uniform"]
    assert ours["zipf"]["success"] != pytest.approx(theirs["zipf"]["success"], rel=0.02)


def test_outcomes_add_up():
    walk = random_walk(Settings().world())
    np.testing.assert_allclose(walk.success.sum(axis=1) + walk.timeout, 1)
    assert walk.average(zipf(20, 2), zipf(20, 2))["length"] < 100
