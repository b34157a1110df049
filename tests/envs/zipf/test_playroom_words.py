"""Which objects are asked for and how often, what they are called, and pictures of them."""

import numpy as np
import pytest
from scipy.stats import chisquare

from envs.raycast import COLOURS
from envs.raycast.billboards import SHAPES
from envs.zipf.law import zipf
from envs.zipf.playroom import (
    LEVELS,
    LEXICON,
    VOCABULARY,
    ZipfPlayroom2D,
    ZipfPlayroom2DVector,
    ZipfPlayroomVector,
    detokenize,
    find_frames,
    tokenize,
)
from envs.zipf.playroom.looks import FIRST_OBJECT, playroom_atlas, tile_pictures
from envs.zipf.playroom.settings import Settings
from envs.zipf.playroom.text import FURNITURE, LENGTH, TASKS, sentence

PUBLISHED = [
    "lift/lift_shape_uniform",
    "lift/lift_shape_uniform_rare",
    "lift/lift_shape_zipf2",
    "lift/lift_shape_zipf3",
    "lift/lift_shape_zipf4",
    "put/lift_shape_uniform",
    "put/lift_shape_uniform_rare",
    "put/lift_shape_zipf2",
    "put/lift_shape_many_zipf1",
    "put/lift_shape_many_zipf4",
    "put/put_on_bed_tray_frequent",
    "put/put_on_bed_tray_all",
    "put/put_on_bed_tray_rare",
    "put/put_near_bed_tray_frequent",
    "supervised/find_shape_uniform",
    "supervised/find_shape_uniform_rare",
    "supervised/find_shape_zipf2",
    "supervised/find_shape_zipf3",
]

UNIFORM, RARE = np.full(50, 1 / 50), np.repeat([0, 1 / 10], [40, 10])
FREQUENT = np.repeat([1 / 40, 0], [40, 10])
EXPECTED = {
    **dict.fromkeys(("lift/lift_shape_uniform", "put/put_on_bed_tray_all"), UNIFORM),
    **dict.fromkeys(("lift/lift_shape_uniform_rare", "put/put_on_bed_tray_rare"), RARE),
    **dict.fromkeys(("put/put_on_bed_tray_frequent", "put/put_near_bed_tray_frequent"), FREQUENT),
    **{f"lift/lift_shape_zipf{a}": np.arange(1, 51.0) ** -a / (np.arange(1, 51.0) ** -a).sum() for a in (2, 3, 4)},
    "put/lift_shape_many_zipf1": zipf(50, 1.0),
    "supervised/find_shape_zipf3": zipf(50, 3.0),
}


def kinds(env, resets):
    """Kinds of objects in the room, [draws, objects]; the first is the one asked for."""
    draws = []
    for k in range(resets):
        env.reset(seed=0 if k == 0 else None)
        draws.append(np.asarray(env.game.state.things["kind"])[:, : env.settings.objects_in_room].copy())
    return np.concatenate(draws)


def assert_law(drawn, law):
    """Chi-square, with rare items of small counts taken together."""
    counts, expected = np.bincount(drawn, minlength=len(law)), law * len(drawn)
    assert counts[law == 0].sum() == 0
    many = expected >= 10
    few = ~many & (law > 0)
    observed, wanted = list(counts[many]), list(expected[many])
    if few.any():
        observed.append(counts[few].sum())
        wanted.append(expected[few].sum())
    assert chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize("level", EXPECTED)
def test_levels_ask_by_their_law(level):
    env = ZipfPlayroom2DVector(4000, level=level, obs="tiles")
    assert_law(kinds(env, 2)[:, 0], EXPECTED[level])
    _, infos = env.reset()
    np.testing.assert_allclose(infos["task_prob"], EXPECTED[level][infos["task_id"]])


@pytest.mark.slow
@pytest.mark.parametrize("split", ["zipf", "uniform", "rare"])
def test_a_million_draws(split):
    env = ZipfPlayroom2DVector(20_000, split=split, exponent=1.0, objects_in_room=1, obs="tiles", copy=False)
    law = {"zipf": zipf(50, 1.0), "uniform": UNIFORM, "rare": RARE}[split]
    assert_law(kinds(env, 50)[:, 0], law)


@pytest.mark.parametrize("distractors", ["same", "uniform"])
def test_distractors(distractors):
    """The law of ordered triples without replacement, all 60 of them."""
    n, exponent = 5, 1.0
    env = ZipfPlayroom2DVector(
        4000, num_objects=n, rare=1, exponent=exponent, distractors=distractors, objects_in_room=3, obs="tiles"
    )
    p = zipf(n, exponent)
    weight = p if distractors == "same" else np.ones(n)
    law = np.zeros((n, n, n))
    for a in range(n):
        for b in set(range(n)) - {a}:
            for c in set(range(n)) - {a, b}:
                rest = 1 - (weight[a] / weight.sum())
                second = weight[b] / weight.sum() / rest
                third = weight[c] / weight.sum() / (rest - weight[b] / weight.sum())
                law[a, b, c] = p[a] * second * third
    np.testing.assert_allclose(law.sum(), 1)
    assert_law(np.ravel_multi_index(kinds(env, 3).T, (n, n, n)), law.ravel())


def test_distractors_when_their_law_has_too_few():
    env = ZipfPlayroom2DVector(500, split="rare", rare=2, objects_in_room=8, obs="tiles")
    drawn = kinds(env, 1)
    assert (drawn[:, :2] >= 48).all(), "the two rare ones first"
    assert len(np.unique(drawn[:, 2:])) == 48, "then any"
    assert all(len(set(row)) == 8 for row in drawn.tolist())


def test_ranks_can_be_permuted():
    plain, mixed = (ZipfPlayroom2DVector(4000, rank_seed=seed, obs="tiles") for seed in (None, 3))
    rank = np.random.default_rng(3).permutation(50)
    assert_law(kinds(mixed, 2)[:, 0], zipf(50, 2.0)[rank])
    _, infos = mixed.reset(seed=1)
    np.testing.assert_array_equal(infos["ranks"][:, 0], rank[infos["task_id"]])
    np.testing.assert_array_equal(infos["is_rare"], rank[infos["task_id"]] >= 40)
    _, plainly = plain.reset(seed=1)
    np.testing.assert_array_equal(plainly["ranks"][:, 0], plainly["task_id"])


def test_own_law():
    law = np.zeros(50)
    law[[3, 9]] = 0.25, 0.75
    env = ZipfPlayroom2DVector(4000, law=lambda n: law, obs="tiles")
    assert_law(kinds(env, 1)[:, 0], law)
    with pytest.raises(ValueError, match="no probability"):
        Settings(law=lambda n: law, subset="rare")


def test_the_furniture_asked_for_is_even_and_independent_of_the_object():
    env = ZipfPlayroom2DVector(4000, level="put/put_on_bed_tray_rare", obs="tiles")
    _, infos = env.reset(seed=0)
    table = np.zeros((2, 10))
    np.add.at(table, (infos["furniture"], infos["task_id"] - 40), 1)
    assert chisquare(table.ravel()).pvalue > 1e-4


def test_every_published_level_is_there():
    assert sorted(LEVELS) == sorted(PUBLISHED)
    for name, level in LEVELS.items():
        env = ZipfPlayroom2D(level=name)
        settings = env.batch.settings
        assert (settings.task, settings.objects_in_room) == (level.task, 8 if "many" in name else 3)
        if "zipf" in name:
            assert settings.exponent == float(name[-1])
        verb = {"lift": "lift", "put_o": "put", "put_n": "put", "find_": "find"}
        words = env.reset(seed=0)[1]["instruction"].split()
        assert words[0] == next(v for k, v in verb.items() if name.split("/")[1].startswith(k))


def test_lexicon():
    assert len(LEXICON) == 50 == len({item.name for item in LEXICON})
    assert len({(item.colour, item.shape) for item in LEXICON}) == 50
    for values in ([item.colour for item in LEXICON], [item.shape for item in LEXICON]):
        assert sorted(values) == sorted([*set(values)] * 5)
        assert len(set(values[-10:])) >= 8, "the rare ones are varied too"
    known = set(COLOURS) | set(SHAPES) | set(FURNITURE)
    assert not known & {item.name for item in LEXICON}


def test_objects_look_different():
    for pictures, least in ((playroom_atlas().sprite.view(np.uint8), 18), (tile_pictures(9)[FIRST_OBJECT:], 15)):
        flat = pictures.reshape(50, -1).astype(float)
        distance = np.sqrt(((flat[:, None] - flat) ** 2).mean(2))
        assert distance[np.triu_indices(50, 1)].min() > least


def test_words():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert VOCABULARY[0] == ""
    for task in TASKS:
        for item in LEXICON:
            for furniture in FURNITURE:
                for naming in ("atomic", "compositional"):
                    words = sentence(task, item, furniture, naming)
                    tokens = tokenize(words)
                    assert tokens.shape == (LENGTH,)
                    assert tokens.dtype == np.int32
                    assert detokenize(tokens) == words
                    assert len(words) <= 40
    assert sentence("put_near", LEXICON[1], "tray", "compositional") == "put a red ball near the tray"
    with pytest.raises(ValueError, match="unknown word 'fly'"):
        tokenize("fly a zup")
    with pytest.raises(ValueError, match="at most 8"):
        tokenize("a a a a a a a a a")
    with pytest.raises(ValueError, match=f"0..{len(VOCABULARY) - 1}"):
        detokenize([len(VOCABULARY)])


def test_find_frames():
    portions = list(find_frames(100, seed=4, level="supervised/find_shape_uniform", size=(18, 24)))
    assert [len(labels) for _, labels in portions] == [64, 36]
    frames, labels = (np.concatenate(parts) for parts in zip(*portions, strict=True))
    assert frames.shape == (100, 18, 24, 3)
    assert frames.dtype == np.uint8
    few_frames, few_labels = next(find_frames(7, seed=4, level="supervised/find_shape_uniform", size=(18, 24)))
    np.testing.assert_array_equal(few_frames, frames[:7])
    np.testing.assert_array_equal(few_labels, labels[:7])
    _, other = next(find_frames(64, seed=5, level="supervised/find_shape_uniform", size=(18, 24)))
    assert (other != labels[:64]).any()
    for bad in ({"n": 0, "seed": 0}, {"n": 1, "seed": -1}, {"n": 1, "seed": 0, "level": "lift/lift_shape_zipf2"}):
        with pytest.raises(ValueError):
            find_frames(**bad)


def test_the_object_asked_for_is_in_the_middle_of_its_frame():
    """Its colours are seen there: taking it out of the room changes the picture within 10 degrees of the middle."""
    frames, labels = next(find_frames(40, seed=0))
    env = ZipfPlayroomVector(40, level="supervised/find_shape_zipf2")
    colour = np.array([COLOURS[LEXICON[k].colour] for k in labels], float)
    middle = frames[:, 20:52, 36:60].reshape(40, -1, 3) / 255.0
    hue = colour / np.linalg.norm(colour, axis=1, keepdims=True)
    shades = middle / np.maximum(np.linalg.norm(middle, axis=2, keepdims=True), 1e-9)
    alike = (np.einsum("nkc,nc->nk", shades, hue) > 0.985).sum(1)
    assert (alike >= 4).mean() > 0.95
    env.close()


def test_frames_follow_the_levels_law():
    labels = np.concatenate([labels for _, labels in find_frames(4000, seed=0, size=(1, 1))])
    assert_law(labels, zipf(50, 2.0))
