"""Which frames make a clip: against brute force, and the policies for short, variable-rate and damaged videos."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byol_ext.video.samples import VideoInfo, VideoReadError
from byol_ext.video.sampling import ClipSampler


def _info(n: int, *, fps: float = 25.0, truncated: bool = False, without: range | None = None) -> VideoInfo:
    times = np.arange(n) / fps
    return VideoInfo(np.delete(times, list(without or ())), 6, 8, truncated=truncated)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    clips=st.integers(1, 3),
    frames=st.integers(1, 9),
    stride=st.integers(1, 5),
    layout=st.sampled_from(["adjacent", "independent", "even"]),
    seed=st.integers(0, 5),
)
def test_clips_are_inside_and_evenly_stepped(n, clips, frames, stride, layout, seed):
    sampler = ClipSampler(clips=clips, frames=frames, stride=stride, layout=layout)
    needed = frames * (clips if layout == "adjacent" else 1)
    if n < needed:
        with pytest.raises(VideoReadError) as caught:
            sampler.plan(_info(n))
        assert caught.value.reason == "short"
        return
    plan = sampler.plan(_info(n))
    clips_VT = plan.draw(_rng(seed))
    assert clips_VT.shape == (clips, frames)
    assert clips_VT.min() >= 0
    assert clips_VT.max() < n
    assert (np.diff(clips_VT, axis=1) == plan.stride).all()
    # The stride is the largest that fits.
    fitting = [s for s in range(1, stride + 1) if (needed - 1) * s + 1 <= n]
    assert plan.stride == fitting[-1]
    assert ("short" in plan.notes) == (plan.stride < stride)
    if layout == "adjacent":
        assert (clips_VT[1:, 0] - clips_VT[:-1, -1] == plan.stride).all()


def test_adjacent_starts_are_uniform():
    plan = ClipSampler(clips=2, frames=8, stride=3).plan(_info(46 + 9))
    rng = _rng()
    starts = np.array([plan.draw(rng)[0, 0] for _ in range(4000)])
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_independent_clips_are_independent():
    plan = ClipSampler(clips=2, frames=4, stride=2, layout="independent").plan(_info(40))
    rng = _rng()
    starts = np.array([plan.draw(rng)[:, 0] for _ in range(2000)])
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.08
    assert 0.4 < (starts[:, 0] < starts[:, 1]).mean() < 0.6


def test_even_clips_reach_from_beginning_to_end_without_chance():
    sampler = ClipSampler(clips=10, frames=16, stride=4, layout="even")
    first, second = (sampler.plan(_info(300)).draw(_rng(seed)) for seed in (0, 1))
    assert (first == second).all()
    assert first[:, 0].tolist() == np.round(np.linspace(0, 300 - 61, 10)).astype(int).tolist()
    assert first[-1, -1] == 299
    alone = ClipSampler(clips=1, frames=3, stride=1, layout="even").plan(_info(9)).draw(_rng())
    assert alone.tolist() == [[3, 4, 5]]


@pytest.mark.parametrize(
    ("clips", "frames", "stride", "layout", "dropped", "kept"),
    [(2, 8, 3, "adjacent", 48, 49), (10, 16, 4, "even", 64, 65)],
)
def test_drop_is_the_authors_rule(clips, frames, stride, layout, dropped, kept):
    sampler = ClipSampler(clips=clips, frames=frames, stride=stride, layout=layout, short="drop")
    with pytest.raises(VideoReadError, match="short"):
        sampler.plan(_info(dropped))
    plan = sampler.plan(_info(kept))
    assert plan.stride == stride
    assert plan.notes == ()


def test_short_policies():
    even = {"clips": 2, "frames": 8, "stride": 3, "layout": "even"}
    folded = ClipSampler(**even, short="reflect").plan(_info(4))
    assert folded.draw(_rng()).tolist() == [[0, 1, 2, 3, 2, 1, 0, 1]] * 2
    assert folded.notes == ("short", "reflected")
    padded = ClipSampler(clips=2, frames=4, stride=3, short="pad_last").plan(_info(6))
    assert padded.draw(_rng()).tolist() == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert padded.notes == ("short", "padded")
    # As long as a lower stride does, the motion stays true.
    assert ClipSampler(**even, short="reflect").plan(_info(15)).draw(_rng())[0].tolist() == list(range(0, 16, 2))
    one = ClipSampler(**even, short="reflect").plan(_info(1)).draw(_rng())
    assert one.tolist() == [[0] * 8] * 2
    with pytest.raises(ValueError, match="shrink_stride") as caught:
        ClipSampler(short="error").plan(_info(45), source="a.mp4")
    assert not isinstance(caught.value, VideoReadError)
    assert "a.mp4" in str(caught.value)


def test_impossible_samplers_are_refused():
    with pytest.raises(ValueError, match="evaluation"):
        ClipSampler(short="reflect")
    with pytest.raises(ValueError, match="frames=0"):
        ClipSampler(frames=0)
    with pytest.raises(ValueError, match="target_fps"):
        ClipSampler(target_fps=0.0)


@pytest.mark.parametrize("fps", [25.0, 30_000 / 1001, 60.0])
def test_at_its_own_rate_time_is_frame_number(fps):
    """Also where a container rounds times to milliseconds: no frame is repeated or skipped."""
    info = VideoInfo(np.round(np.arange(120) / fps, 3), 6, 8)
    plan = ClipSampler(frames=8, stride=3, target_fps=fps).plan(info)
    rng = _rng()
    for _ in range(200):
        clips = plan.draw(rng)
        assert (np.diff(clips.ravel()) == 3).all()
        assert clips.max() < 120
    assert plan.notes == ()


@pytest.mark.parametrize(("source_fps", "every"), [(50.0, 2), (25.0, 1), (75.0, 3)])
def test_target_fps_makes_rates_equal(source_fps, every):
    plan = ClipSampler(clips=1, frames=5, stride=2, target_fps=25.0).plan(_info(200, fps=source_fps))
    for seed in range(20):
        clip = plan.draw(_rng(seed))[0]
        assert (np.diff(clip) == 2 * every).all()


def test_upsampling_repeats_frames_and_says_so():
    plan = ClipSampler(clips=1, frames=9, stride=1, target_fps=50.0, layout="even").plan(_info(100, fps=25.0))
    assert "repeated_frames" in plan.notes
    assert (np.diff(plan.draw(_rng())[0]) == 0).any()


def test_the_last_clip_may_reach_the_last_frame():
    plan = ClipSampler(clips=2, frames=4, stride=1, layout="even", target_fps=10.0).plan(_info(61, fps=30.0))
    assert plan.draw(_rng())[-1].tolist() == [51, 54, 57, 60]


def _screen_recording() -> VideoInfo:
    """Ten frames a second, with a picture that stands for half a second twice."""
    steps = [0.1] * 10 + [0.5] + [0.1] * 10 + [0.5] + [0.1] * 10
    return VideoInfo(np.concatenate([[0.0], np.cumsum(steps)]), 6, 8)


def test_variable_rate_is_sampled_by_what_is_on_show():
    info = _screen_recording()
    plan = ClipSampler(clips=1, frames=8, stride=2, layout="independent").plan(info)
    assert plan.notes == ("variable_rate",)
    rng = _rng()
    for _ in range(100):
        clip = plan.draw(rng)[0]
        wanted = info.times_N[clip[0]] + np.arange(8) * 0.2
        assert clip.tolist() == [int(np.flatnonzero(info.times_N <= t + 1e-6)[-1]) for t in wanted]


def test_variable_rate_policies():
    by_index = ClipSampler(clips=1, frames=8, stride=2, vfr="index").plan(_screen_recording())
    assert (np.diff(by_index.draw(_rng())) == 2).all()
    assert by_index.notes == ()
    with pytest.raises(VideoReadError) as caught:
        ClipSampler(vfr="error").plan(_screen_recording())
    assert caught.value.reason == "variable_frame_rate"


def test_equal_times_do_not_divide_by_zero():
    info = VideoInfo(np.zeros(60), 6, 8)
    assert ClipSampler().plan(info).draw(_rng()).shape == (2, 8)


@pytest.mark.parametrize("layout", ["adjacent", "independent", "even"])
def test_no_clip_touches_a_gap(layout):
    info = _info(120, truncated=True, without=range(40, 50))
    plan = ClipSampler(clips=2, frames=5, stride=2, layout=layout).plan(info)
    assert plan.notes == ("truncated",)
    rng = _rng()
    for _ in range(100):
        clips = plan.draw(rng)
        spans = [clips.ravel()] if layout == "adjacent" else clips
        for span in spans:
            seconds = info.times_N[span]
            assert np.allclose(np.diff(seconds), 2 / 25.0)


def test_only_the_even_clip_on_the_gap_moves():
    sampler = ClipSampler(clips=5, frames=5, stride=2, layout="even")

    def seconds(info: VideoInfo) -> np.ndarray:
        return info.times_N[sampler.plan(info).draw(_rng())]

    before, after = seconds(_info(120)), seconds(_info(120, truncated=True, without=range(50, 60)))
    moved = np.abs(before - after).max(axis=1) > 0.03
    assert moved.tolist() == [False, False, True, False, False]


def test_a_video_of_gaps_is_damaged():
    times = np.arange(300).reshape(-1, 10)[:, :4].ravel() / 25.0
    plan = ClipSampler(clips=1, frames=8, stride=1).plan(VideoInfo(times, 6, 8, truncated=True))
    with pytest.raises(VideoReadError) as caught:
        plan.draw(_rng())
    assert caught.value.reason == "damaged"


def test_segments():
    plan = ClipSampler(clips=1, frames=4, stride=1, layout="independent").plan(_info(100), start=1.0, end=2.0)
    starts = {int(plan.draw(_rng(seed))[0, 0]) for seed in range(300)}
    assert starts == set(range(25, 47))
    assert max(plan.draw(_rng(seed)).max() for seed in range(300)) == 49
    with pytest.raises(VideoReadError) as caught:
        ClipSampler().plan(_info(100), start=4.0, source="x")
    assert caught.value.reason == "no_frames"
