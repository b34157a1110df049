"""MotionSprites-8: exactly redrawn by a loop, keyed, and without a class in any single frame."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, ks_2samp
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from byol_ext.video.motion_sprites import CLASSES, RADIUS, SPEED, MotionSprites

VARIANTS = [{}, {"camera": "moving"}, {"sprites": 2}, {"size": 48, "colour": True, "camera": "moving"}]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("split", ["train", "test"])
def test_videos_and_masks_equal_a_pixel_by_pixel_drawing(split, variant):
    source = MotionSprites(split, 40, **variant)
    ids = [3, 17, 28]
    scenes, videos, masks = source.scenes(ids), source.videos(ids), source.masks(ids)
    for row in range(len(ids)):
        for t in (0, 7, 15):
            frame, mask = draw(source, scenes, row, t)
            np.testing.assert_array_equal(videos[row, t], frame)
            np.testing.assert_array_equal(masks[row, t], mask)


def draw(source, scenes, row, t):
    scale = source.size // 24
    picture = load_sample_images().images[scenes.photograph_N[row]]
    first = 0 if source.split == "train" else 420
    top, left = scenes.window_NT2[row, t]
    frame = picture[top : top + source.size, first + left : first + left + source.size].astype(int)
    assert frame.shape[:2] == (source.size, source.size)
    assert first == 420 or left + source.size <= 420
    if not source.colour:
        frame = (frame @ [299, 587, 114] + 500)[..., None] // 1000
    mask = np.zeros(frame.shape[:2], bool)
    for sprite, glyph in enumerate(scenes.glyph_NS[row]):
        assert (glyph < 1200) == (source.split == "train")
        for y in range(8 * scale):
            for x in range(8 * scale):
                cover = int(digit_images()[glyph, y // scale, x // scale])
                place = scenes.place_NST2[row, sprite, t]
                at = (place[0] + y) % source.size, (place[1] + x) % source.size
                frame[at] = ((16 - cover) * frame[at] + cover * scenes.ink_NC[row].astype(int) + 8) // 16
                mask[at] |= cover > 0
    return frame, mask


@cache
def digit_images():
    return load_digits().images


def test_each_class_moves_as_its_name_says():
    source = MotionSprites("train", 800)
    scenes = source.scenes(range(800))
    place_NT2 = scenes.place_NST2[:, 0]
    step_NT2 = (np.diff(place_NT2, axis=1) + 12) % 24 - 12
    for label, name in enumerate(CLASSES):
        rows_NT, columns_NT = step_NT2[scenes.label_N == label].transpose(2, 0, 1)
        far = 15 * SPEED[0] - 1, 15 * SPEED[1] + 1
        if name in ("right", "left"):
            way_N = columns_NT.sum(1) * (1 if name == "right" else -1)
            assert not rows_NT.any()
            assert way_N.min() >= far[0]
            assert way_N.max() <= far[1]
        elif name in ("up", "down"):
            way_N = rows_NT.sum(1) * (1 if name == "down" else -1)
            assert not columns_NT.any()
            assert way_N.min() >= far[0]
            assert way_N.max() <= far[1]
        elif name.startswith("orbit"):
            # Twice the area swept about the first place, positive when it turns clockwise on a screen.
            x_NT, y_NT = columns_NT.cumsum(1), rows_NT.cumsum(1)
            swept_N = (x_NT[:, :-1] * rows_NT[:, 1:] - y_NT[:, :-1] * columns_NT[:, 1:]).sum(1)
            assert (swept_N * (1 if name == "orbit clockwise" else -1)).min() > 0
        else:
            moving, still = (columns_NT, rows_NT) if name.endswith("horizontally") else (rows_NT, columns_NT)
            assert not still.any()
            assert np.abs(moving.cumsum(1)).max() <= 2 * RADIUS[1] + 1
            # Most turn back within 16 frames: that is what tells them from a straight way.
            assert ((moving.max(1) > 0) & (moving.min(1) < 0)).mean() > 0.8


def test_speed_has_the_same_law_along_a_line_and_around_an_orbit():
    scenes = MotionSprites("train", 4000, size=384).scenes(range(4000))
    # On a large frame rounding hardly matters, and a step's chord is as good as its arc.
    step_NT = np.hypot(*np.moveaxis((np.diff(scenes.place_NST2[:, 0], axis=1) + 192) % 384 - 192, -1, 0)) / 16
    straight, orbit = step_NT[scenes.label_N < 4].mean(1), step_NT[np.isin(scenes.label_N, (4, 5))].mean(1)
    assert ks_2samp(straight, orbit * 1.005).pvalue > 1e-3
    assert abs(straight.mean() - 1.4) < 0.03
    assert abs(straight.min() - 0.8) < 0.03


@pytest.mark.parametrize("camera", ["fixed", "moving"])
def test_a_single_frame_has_the_same_law_in_all_classes(camera):
    n = 16000
    scenes = MotionSprites("train", n, camera=camera, seed=3).scenes(range(n))
    for t in (0, 5, 15):
        row_N, column_N = scenes.place_NST2[:, 0, t].T
        counts = np.bincount(row_N * 24 + column_N, minlength=576)
        assert chisquare(counts).pvalue > 1e-3, t
        for what in (row_N, column_N, scenes.photograph_N, scenes.light_N, scenes.window_NT2[:, t, 0] // 40):
            assert chi2_contingency(table(scenes.label_N, what)).pvalue > 1e-3, t
    for label in range(1, 8):
        first, other = scenes.window_NT2[scenes.label_N == 0, 8, 1], scenes.window_NT2[scenes.label_N == label, 8, 1]
        assert ks_2samp(first, other).pvalue > 1e-3
    digit_N = load_digits().target[scenes.glyph_NS[:, 0]]
    assert chi2_contingency(table(scenes.label_N, digit_N)).pvalue > 1e-3


def table(label_N, value_N):
    counts = np.zeros((8, int(value_N.max()) + 1))
    np.add.at(counts, (label_N, value_N.astype(int)), 1)
    return counts[:, counts.sum(0) > 0]


def test_a_one_frame_probe_is_at_chance_and_a_two_frame_probe_is_not():
    n = 3000
    source = MotionSprites("train", n)
    videos = source.videos(range(n))[..., 0].astype(np.float32) / 255
    one = videos[:, 8].reshape(n, -1)
    # Products of neighbouring pixels of two frames are what a detector of motion sees.
    change = videos[:, 6] - videos[:, 5]
    then = videos[:, 8] - videos[:, 7]
    two = np.stack([(change * np.roll(then, s, axis=a)).sum((1, 2)) for a in (1, 2) for s in range(-5, 6)], axis=1)
    assert abs(accuracy(one, source.labels) - 0.125) < 0.04
    assert accuracy(two, source.labels) > 0.3


def accuracy(features_ND, label_N):
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    probe.fit(features_ND[:2000], label_N[:2000])
    return probe.score(features_ND[2000:], label_N[2000:])


def test_a_video_depends_on_seed_split_and_id_alone():
    source = MotionSprites("train", 600)
    whole = source.videos(range(600))
    np.testing.assert_array_equal(source.videos([599, 3, 3]), whole[[599, 3, 3]])
    np.testing.assert_array_equal(source.videos(torch.tensor([4])), whole[[4]])
    np.testing.assert_array_equal(MotionSprites("train", 5000).videos([599]), whole[[599]])
    different = [MotionSprites("train", 600, seed=1), MotionSprites("test", 600), MotionSprites("train", 600, size=48)]
    for other in different:
        assert not np.array_equal(other.scenes(range(50)).place_NST2, source.scenes(range(50)).place_NST2)
    assert len({other.fingerprint for other in [source, *different]}) == 4
    assert len(np.unique(whole.reshape(600, -1), axis=0)) == 600


def test_camera_moves_the_background_and_nothing_else():
    fixed, moving = (MotionSprites("train", 64, camera=camera).scenes(range(64)) for camera in ("fixed", "moving"))
    np.testing.assert_array_equal(fixed.place_NST2, moving.place_NST2)
    assert not np.diff(fixed.window_NT2, axis=1).any()
    drift_N2 = (moving.window_NT2[:, -1] - moving.window_NT2[:, 0]) / 15
    assert np.abs(drift_N2).max() <= 1
    assert np.abs(drift_N2).mean() > 0.3


def test_is_a_source_of_readable_samples():
    source = MotionSprites("test", 10)
    sample = pickle.loads(pickle.dumps(source[9]))
    with sample.open() as reader:
        frames = reader.frames(range(16))
    np.testing.assert_array_equal(frames, source.videos([9])[0].repeat(3, axis=-1))
    scenes = source.scenes([9])
    digit = load_digits().target[scenes.glyph_NS[0, 0]]
    expected = {"class": "left", "photograph": scenes.photograph_N[0], "digit": digit, "light": scenes.light_N[0]}
    assert (sample.label, sample.facts, source[-1].key) == (1, expected, sample.key)
    np.testing.assert_array_equal(source.labels, [source[i].label for i in range(10)])
    np.testing.assert_array_equal(source.photographs, [source[i].facts["photograph"] for i in range(10)])
    assert not {"hflip", "reverse"} & source.invariances
    assert [len(source[i].key) for i in range(10)] == [11] * 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "val"},
        {"camera": "still"},
        {"size": 30},
        {"size": 240},
        {"n": 0},
        {"sprites": 0},
        {"length": 500, "camera": "moving"},
    ],
    ids=str,
)
def test_refuses_what_it_cannot_make(wrong):
    with pytest.raises(ValueError, match="expected"):
        MotionSprites(**{"split": "test", "n": 4} | wrong)


@pytest.mark.parametrize("ids", [[-1], [4], [0, 9]])
def test_refuses_ids_outside(ids):
    with pytest.raises(IndexError):
        MotionSprites("test", 4).videos(ids)
    with pytest.raises(IndexError):
        MotionSprites("test", 4)[ids[-1] if ids[-1] > 0 else -5]
