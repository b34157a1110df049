"""Decoding: every row of vididi spec 9 at the level of the reader, on files made here."""

import logging
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byol_ext.video import decode
from byol_ext.video.decode import choose_backend, open_video, torchcodec_fault
from byol_ext.video.frames import FrameFolderReader
from byol_ext.video.pyav_reader import PyAVReader, scan
from byol_ext.video.samples import ArrayReader, VideoReadError
from byol_ext.video.torchcodec_reader import TorchcodecReader

av = pytest.importorskip("av")
Write = Callable[..., Path]

# Name, codec, pixel format, container, options: with and without B-frames, counts, key frame marks and time stamps.
STREAMS = [
    ("a.avi", "mpeg4", "yuv420p", None, {}),
    ("b.avi", "mpeg4", "yuv420p", None, {"bf": "2"}),
    ("c.avi", "libx264", "yuv420p", None, {}),
    ("d.mp4", "libx264", "yuv420p", None, {}),
    ("e.mp4", "libx264", "yuv420p", None, {"bf": "0"}),
    ("f.mkv", "libx264", "yuv420p", None, {}),
    ("g.webm", "libvpx", "yuv420p", None, {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("h.ts", "libx264", "yuv420p", None, {}),
    ("i.mpg", "mpeg2video", "yuv420p", None, {"bf": "2"}),
    ("j.h264", "libx264", "yuv420p", "h264", {}),
    ("k.mov", "mjpeg", "yuvj420p", None, {}),
    ("l.mp4", "libx265", "yuv420p", None, {"x265-params": "log-level=none:pools=none:open-gop=1:keyint=8"}),
    ("m.webm", "libvpx-vp9", "yuv420p", None, {}),
]


def decode_all(path: Path) -> list[tuple[Any, np.ndarray]]:
    """Every frame that comes out when packets are decoded one after the other: (is it flagged as corrupt, picture)."""
    decoded = []
    with av.open(f"file:{path}") as container:
        for packet in container.demux(video=0):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            decoded.extend((frame.is_corrupt, frame.to_ndarray(format="rgb24")) for frame in frames)
    return decoded


def reason_of(source: Path | bytes) -> str:
    with pytest.raises(VideoReadError) as caught:
        open_video(source, name="here", backend="pyav")
    assert str(caught.value).startswith("here: ")
    return caught.value.reason


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    short = path.with_name(f"cut_{path.name}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


@pytest.mark.parametrize(("name", "codec", "pixels", "container", "options"), STREAMS)
def test_any_frame_is_the_one_that_decoding_everything_gives(
    write_video: Write, moving: np.ndarray, name: str, codec: str, pixels: str, container: str, options: dict[str, str]
) -> None:
    path = write_video(name, moving, codec=codec, pixels=pixels, container=container, options=options)
    expected = [picture for _, picture in decode_all(path)]
    rng = np.random.default_rng(0)
    with open_video(path, backend="pyav") as reader:
        assert len(reader.info.times_N) == len(expected) == 40
        np.testing.assert_allclose(reader.info.times_N, np.arange(40) / 25, atol=2e-3)
        assert not reader.info.truncated
        assert not reader.info.variable_rate
        for index in range(40):
            np.testing.assert_array_equal(reader.frames([index])[0], expected[index])
        for indices in (*rng.integers(0, 40, (4, 5)).tolist(), [3, 3, 1], [39, 0], []):
            frames = reader.frames(indices)
            assert frames.shape == (len(indices), 48, 64, 3)
            assert all(np.array_equal(frame, expected[index]) for frame, index in zip(frames, indices, strict=True))
            assert frames.flags.owndata


def test_bytes_and_odd_names_read_as_the_file_does(write_video: Write, moving: np.ndarray) -> None:
    path = write_video("a:b %05d [x]#!&'.mp4", moving, codec="libx264")
    with open_video(path, backend="pyav") as file, open_video(path.read_bytes(), backend="pyav") as data:
        np.testing.assert_array_equal(file.frames([30, 2]), data.frames([30, 2]))
        assert file.info.times_N.tolist() == data.info.times_N.tolist()


def test_openers_can_be_sent_to_a_worker(write_video: Write, moving: np.ndarray) -> None:
    opener = pickle.loads(pickle.dumps(partial(open_video, write_video("a.mp4", moving), backend="pyav")))
    with opener() as reader:
        assert reader.frames([1]).shape == (1, 48, 64, 3)


def test_indices_outside_are_an_error(write_video: Write, moving: np.ndarray) -> None:
    with open_video(write_video("a.mp4", moving), backend="pyav") as reader:
        for index in (-1, 40):
            with pytest.raises(IndexError, match="of 40"):
                reader.frames([index])


def test_scaling_is_that_of_an_array(write_video: Write) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (4, 10, 16, 1)).repeat(12, 1).repeat(12, 2).repeat(3, 3).astype(np.uint8)
    with open_video(write_video("a.mkv", coarse, codec="ffv1", pixels="yuv444p"), backend="pyav") as reader:
        scaled = reader.frames([0, 3], short_side=50)
    expected = ArrayReader(coarse).frames([0, 3], short_side=50)
    assert scaled.shape == expected.shape == (2, 50, 80, 3)
    assert np.abs(scaled.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 500, bytes(range(256)) * 100])
def test_what_is_no_video_is_unreadable(tmp_path: Path, content: bytes) -> None:
    for name in ("a.mp4", "a.txt", "a.avi"):
        path = tmp_path / name
        path.write_bytes(content)
        assert reason_of(path) == "unreadable"
    assert reason_of(content) == "unreadable"


def test_mp4_without_its_index_is_unreadable(write_video: Write, moving: np.ndarray) -> None:
    assert reason_of(cut(write_video("a.mp4", moving), 0.5)) == "unreadable"


def test_missing_files_and_sound_alone(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "none.mp4") == "missing"
    sound = tmp_path / "a.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason_of(sound) == "no_video_stream"


@pytest.mark.parametrize(
    ("name", "codec", "muxing"), [("a.avi", "mpeg4", {}), ("a.mkv", "libx264", {}), ("a.mp4", "libx264", "front")]
)
def test_a_cut_file_is_as_long_as_what_decodes(
    write_video: Write, moving: np.ndarray, name: str, codec: str, muxing: Any
) -> None:
    options = {"movflags": "faststart"} if muxing == "front" else {}
    # Noise at a high rate makes packets large: the cut falls among them and not into a header.
    noisy = moving + np.random.default_rng(0).integers(0, 60, moving.shape, dtype=np.uint8)
    whole = write_video(name, noisy, codec=codec, muxing=options, options={"b": "4000000"})
    expected = [picture for _, picture in decode_all(whole)]
    with open_video(cut(whole, 0.7), backend="pyav") as reader:
        held = len(reader.info.times_N)
        assert reader.info.truncated
        assert 2 < held < 40
        frames = reader.frames(range(held))
    order = [next(i for i in range(40) if np.array_equal(frame, expected[i])) for frame in frames]
    assert order == sorted(order)
    assert len(set(order)) == held


@pytest.mark.parametrize(("name", "codec", "pixels", "container", "options"), STREAMS)
def test_whatever_is_wrong_with_a_file_is_a_video_read_error(
    write_video: Write, moving: np.ndarray, name: str, codec: str, pixels: str, container: str, options: dict[str, str]
) -> None:
    path = write_video(name, moving[:12], codec=codec, pixels=pixels, container=container, options=options, gop=6)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(25):
        data = bytearray(whole[: int(rng.integers(len(whole) // 3, 2 * len(whole)))])
        for place in rng.integers(0, len(data), rng.integers(1, 20)):
            noise = rng.bytes(min(int(rng.integers(1, 30)), len(data) - place))
            data[place : place + len(noise)] = noise
        try:
            with open_video(bytes(data), backend="pyav") as reader:
                assert np.all(np.diff(reader.info.times_N) > 0)
                last = len(reader.info.times_N) - 1
                assert reader.frames([last, 0, last // 2], short_side=16).shape[0] == 3
        except VideoReadError as error:
            assert error.reason in {"unreadable", "no_video_stream", "no_frames", "damaged"}  # noqa: PT017


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.mp4", "mpeg4")])
def test_damaged_packets_are_holes_and_not_the_end(
    write_video: Write, moving: np.ndarray, name: str, codec: str
) -> None:
    path = write_video(name, moving, codec=codec, gop=8, options={"bf": "0", "sc_threshold": "0"})
    whole = [picture for _, picture in decode_all(path)]
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for number in (10, 18):
        place = bytes(data).find(packets[number])
        data[place : place + len(packets[number])] = b"\xff" * len(packets[number])
    path.write_bytes(data)
    survivors = [picture for corrupt, picture in decode_all(path) if not corrupt]
    usable, reasons = [], set()
    with open_video(path, backend="pyav") as reader:
        assert len(reader.info.times_N) >= 38
        for index in range(len(reader.info.times_N)):
            try:
                usable.append((index, reader.frames([index])[0]))
            except VideoReadError as error:
                reasons.add(error.reason)
        assert reasons == {"damaged"}
        lost = sorted(set(range(40)) - {index for index, _ in usable})
        assert set(lost) & {10, 18}
        with pytest.raises(VideoReadError, match=rf"frames cannot be decoded, first of them {lost[0]}"):
            reader.frames([0, lost[0], 39])
        # The last group of pictures comes after all damage.
        np.testing.assert_array_equal(reader.frames([38, 33])[1], whole[33])
    assert len(usable) == len(survivors)
    assert all(np.array_equal(mine, theirs) for (_, mine), theirs in zip(usable, survivors, strict=True))


def test_a_place_that_cannot_be_read_is_not_the_end_of_the_scan(write_video: Write, moving: np.ndarray) -> None:
    class Interrupted:
        """A container that fails once, after its third packet."""

        def __init__(self, container: Any) -> None:
            self.format, self._packets = container.format, container.demux(video=0)
            self._left = 3

        def demux(self, _: Any) -> Iterator[Any]:
            for packet in self._packets:
                yield packet
                self._left -= 1
                if self._left == 0:
                    raise av.error.InvalidDataError(1, "bad")

    with av.open(str(write_video("a.mp4", moving))) as container:
        packets, first = scan(Interrupted(container), container.streams.video[0])
    assert packets.damaged
    assert packets.ordered
    assert len(packets.pts_N) == 40
    assert first.pts == 0


def test_times_are_those_of_the_file_when_they_vary(write_video: Write, moving: np.ndarray) -> None:
    times = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.1], 40)).round(3)
    for name, codec in (("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.mp4", "mpeg4")):
        with open_video(write_video(name, moving, codec=codec, times=times.tolist()), backend="pyav") as reader:
            np.testing.assert_allclose(reader.info.times_N, times - times[0], atol=1.1e-3)
            assert reader.info.variable_rate
            np.testing.assert_allclose(reader.info.fps, 39 / (times[-1] - times[0]), rtol=1e-3)


def test_few_frames(write_video: Write, moving: np.ndarray) -> None:
    for count in (1, 2):
        for name, codec in (("a.avi", "mpeg4"), ("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")):
            with open_video(write_video(name, moving[:count], codec=codec), backend="pyav") as reader:
                assert len(reader.info.times_N) == count
                assert reader.frames([count - 1]).shape == (1, 48, 64, 3)
                assert reader.info.fps == pytest.approx(25 * (count - 1), rel=0.01)


@pytest.mark.parametrize(
    ("pixels", "grey"),
    [("gray", True), ("gray10le", True), ("yuv444p", False), ("yuv420p", False), ("yuv420p10le", False)],
)
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_pixel_formats_agree_with_rgb(write_video: Write, pixels: str, grey: bool, size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([np.stack([rows + columns + i, rows + 80, 200 - columns], -1) for i in range(3)])
    smooth = (smooth[..., :1].repeat(3, -1) if grey else smooth).astype(np.uint8)
    with open_video(write_video("a.mkv", smooth, codec="ffv1", pixels=pixels), backend="pyav") as reader:
        frames = reader.frames([0, 1, 2])
    assert frames.dtype == np.uint8
    assert frames.shape == smooth.shape
    # With a colour sample for every four pixels the slopes of this picture cost up to two levels more.
    assert np.abs(frames.astype(int) - smooth).max() <= (4 if "420" in pixels else 2)
    assert np.abs(frames.astype(int) - smooth).mean() <= 2


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_pictures_are_upright(write_video: Write, angle: int) -> None:
    # One corner white, and its neighbour to the right red.
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16], picture[:16, -16:] = 255, (255, 0, 0)
    path = write_video("a.mp4", np.stack([picture] * 3), rotation=angle)
    # FFmpeg: the display matrix turns the stored picture counter-clockwise.
    upright = np.rot90(picture, angle // 90)
    with open_video(path, backend="pyav") as reader:
        assert (reader.info.height, reader.info.width) == upright.shape[:2]
        assert np.abs(reader.frames([2])[0].astype(int) - upright).mean() < 4
        assert reader.frames([2], short_side=24).shape[1:3] == tuple(size // 2 for size in upright.shape[:2])


def test_files_are_closed(write_video: Write, moving: np.ndarray) -> None:
    path = write_video("a.h264", moving, codec="libx264", container="h264")
    broken = path.with_name("none.txt")
    broken.write_text("text\n" * 100)
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("needs /proc")
    before = len(list(open_files.iterdir()))
    for _ in range(70):
        with open_video(path, backend="pyav") as reader:
            reader.frames([5, 1])
        with pytest.raises(VideoReadError):
            open_video(broken, backend="pyav")
    assert len(list(open_files.iterdir())) <= before  # fewer where what other tests left was collected


def test_folders_and_arrays_open_too(tmp_path: Path, moving: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", moving)
    with open_video(tmp_path / "a.npy") as reader:
        np.testing.assert_array_equal(reader.frames([3, 1]), moving[[3, 1]])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "image_00001.png").write_bytes(_png(moving[0]))
    with open_video(tmp_path / "folder") as reader:
        assert isinstance(reader, FrameFolderReader)
        np.testing.assert_array_equal(reader.frames([0])[0], moving[0])


def _png(picture: np.ndarray) -> bytes:
    """A PNG by hand: another way to the same pixels."""
    height, width, _ = picture.shape
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def _fresh_choice() -> Iterator[None]:
    caches = (decode._automatic_backend, decode.torchcodec_fault)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    "failure",
    [
        OSError("libnvrtc.so.13: cannot open"),
        RuntimeError("Could not load:\n1. none\n2. more"),
        ImportError("no module"),
    ],
)
@pytest.mark.usefixtures("_fresh_choice")
def test_without_torchcodec_pyav_is_taken_and_the_log_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    class Importlib:
        @staticmethod
        def import_module(_: str) -> Any:
            raise failure

    monkeypatch.setattr(decode, "importlib", Importlib)
    with caplog.at_level(logging.INFO, logger="byol_ext.video.decode"):
        assert choose_backend() == choose_backend("auto") == "pyav"
    assert [record.getMessage() for record in caplog.records] == [
        f"videos are decoded by PyAV; torchcodec: {type(failure).__name__}: {' '.join(str(failure).splitlines()[:2])}"
    ]
    with pytest.raises(ImportError, match="use 'pyav': " + type(failure).__name__):
        open_video(b"", backend="torchcodec")


def test_named_back_ends() -> None:
    assert choose_backend("pyav") == "pyav"
    with pytest.raises(ValueError, match="expected 'auto', 'pyav' or 'torchcodec'"):
        choose_backend("decord")  # type: ignore[arg-type]


@pytest.mark.skipif(torchcodec_fault() is not None, reason="torchcodec does not decode here")
@pytest.mark.parametrize(("name", "codec", "pixels", "container", "options"), STREAMS)
def test_torchcodec_gives_the_frames_that_pyav_gives(
    write_video: Write, moving: np.ndarray, name: str, codec: str, pixels: str, container: str, options: dict[str, str]
) -> None:
    path = write_video(name, moving, codec=codec, pixels=pixels, container=container, options=options)
    with TorchcodecReader(path) as one, PyAVReader(path) as other:
        assert one.info.times_N.tolist() == other.info.times_N.tolist()
        for indices in ([0, 39, 7, 7], list(range(40))):
            assert np.abs(one.frames(indices).astype(int) - other.frames(indices)).max() <= 2
        assert one.in_use == (path.suffix in {".mp4", ".mkv", ".webm", ".mov"})


def test_an_mp4_with_the_times_of_decoding_is_counted(tmp_path: Path, moving: np.ndarray) -> None:
    """Some writers give packets of B-frames the times of their order in the file."""
    path = tmp_path / "times.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "2", "b-adapt": "0"})
        stream.height, stream.width, stream.pix_fmt = *moving.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        packets = [p for frame in moving for p in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))]
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 25)
            file.mux(packet)
    with av.open(str(path)) as file:
        expected = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with open_video(path, backend="pyav") as reader:
        wanted = [1, 2, 5, 17, len(expected) - 1]
        assert len(reader.info.times_N) == len(expected) == len(moving)
        np.testing.assert_array_equal(reader.frames(wanted), np.stack([expected[i] for i in wanted]))
