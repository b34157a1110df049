"""AVA's files on hand-made lines, clips around key frames, and the public score on a file written and read again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from byol_ext.ledger import BadSampleLedger
from byol_ext.metrics.detection import LabelledBoxes
from byol_ext.video.ava import (
    AvaClips,
    AvaFolder,
    ava_metrics,
    collate_ava,
    labelled_rows,
    read_boxes,
    read_excluded,
    read_label_map,
    write_detections,
)
from byol_ext.video.samples import ArrayReader, VideoReadError

TRUTH = (
    "a-B_1,0902,0.1,0.1,0.4,0.9,12,0\r\n"
    "a-B_1,0902,0.1,0.1,0.4,0.9,17,0\r\n"
    "\r\n"
    "a-B_1,0902,0.5,0.1,0.9,0.9,12,1\r\n"
    "a-B_1,0903,0.5,0.1,0.9,0.9,12,1\r\n"
    "c,0904\r\n"
    "c,0905,0,0,1,1,80,7\r\n"
)
LABELS = {12: "stand", 17: 'carry "it"'}


@pytest.fixture
def truth(tmp_path: Path):
    file = tmp_path / "truth.csv"
    file.write_bytes(TRUTH.encode())
    return read_boxes(file)


def test_truth_with_crlf_blank_lines_and_frames_without_boxes(truth):
    assert list(truth.frames) == [("a-B_1", 902.0), ("a-B_1", 903.0), ("c", 904.0), ("c", 905.0)]
    assert truth.boxes.frame_N.tolist() == [0, 0, 0, 1, 3]
    assert truth.boxes.label_N.tolist() == [12, 17, 12, 12, 80]
    assert truth.person_N.tolist() == [0, 0, 1, 1, 7]
    assert truth.boxes.box_N4[4].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "line",
    ["a,0902,0.1,0.1,0.4", "a,x,0.1,0.1,0.4,0.9,1,0", "a,0902,0.4,0.1,0.1,0.9,1,0", "a,0902,.1,.1,.4,.9,stand,0"],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str):
    (tmp_path / "x.csv").write_text(f"a,0902,0.1,0.1,0.4,0.9,1,0\n{line}\n")
    with pytest.raises(ValueError, match=r"x\.csv:2: .*expected video,second"):
        read_boxes(tmp_path / "x.csv")


def test_detections_need_a_score_and_may_lack_an_action(tmp_path: Path):
    (tmp_path / "d.csv").write_text("a,0902,0.1,0.1,0.4,0.9,,0.75\n")
    table = read_boxes(tmp_path / "d.csv", scores=True)
    assert (table.boxes.label_N.tolist(), table.boxes.score_N.tolist()) == ([0], [0.75])
    (tmp_path / "d.csv").write_text("a,0902,0.1,0.1,0.4,0.9,3\n")
    with pytest.raises(ValueError, match="score"):
        read_boxes(tmp_path / "d.csv", scores=True)


@pytest.mark.parametrize(
    "text",
    [
        'item {\n  name: "stand"\n  id: 12\n}\nitem {\n  name: "carry \\"it\\""\n  id: 17\n}\n',
        'label { name: "carry \\"it\\"" label_id: 17 label_type: OBJECT_MANIPULATION }\n'
        'label { name: "stand" label_id: 12 label_type: PERSON_MOVEMENT }',
    ],
)
def test_label_maps_of_both_kinds(tmp_path: Path, text: str):
    (tmp_path / "l.pbtxt").write_text(text)
    assert list(read_label_map(tmp_path / "l.pbtxt").items()) == list(LABELS.items())


def test_bad_label_maps(tmp_path: Path):
    for text, message in [("", "no entry"), ('item { name: "a" }', "lacks"), ('item{name:"a" id:1}' * 2, "twice")]:
        (tmp_path / "l.pbtxt").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_label_map(tmp_path / "l.pbtxt")


def test_score_with_excluded_frames_written_and_read_again(tmp_path: Path, truth):
    found = LabelledBoxes(
        np.array([0, 0, 1, 1]),
        np.array([[0.1, 0.1, 0.4, 0.9], [0.5, 0.1, 0.9, 0.9], [0.5, 0.1, 0.9, 0.9], [0.0, 0.0, 0.1, 0.1]]),
        np.array([12, 12, 12, 12]),
        np.array([0.9, 0.8, 0.7, 0.95]),
    )
    # Another order of frames than that of the truth.
    frames = [("a-B_1", 902.0), ("a-B_1", 903.0)]
    flipped = LabelledBoxes(1 - found.frame_N, found.box_N4, found.label_N, found.score_N)
    write_detections(tmp_path / "d.csv", frames=frames[::-1], boxes=flipped)
    detections = read_boxes(tmp_path / "d.csv", scores=True)
    assert (tmp_path / "d.csv").read_text().startswith("a-B_1,0902,0.1,0.1,0.4,0.9,12,0.9\n")
    # "stand": wrong, right, right, right of 3; the envelope is 3/4. "carry" is never found; 80 is not scored.
    metrics = ava_metrics(truth=truth, detections=detections, labels=LABELS)
    assert metrics["detection/AP/stand"] == pytest.approx(0.75)
    assert metrics["detection/mAP"] == pytest.approx(0.375)
    (tmp_path / "e.csv").write_text("a-B_1,0903\n")
    excluded = read_excluded(tmp_path / "e.csv")
    without = ava_metrics(truth=truth, detections=detections, labels=LABELS, excluded=excluded)
    assert without["detection/AP/stand"] == pytest.approx(1.0)
    assert without["detection/boxes"] == 3


def video(name: str) -> ArrayReader:
    if name == "c":
        raise VideoReadError("missing", "no such file", source="c")
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 24, 32, 3), np.uint8)
    return ArrayReader(frames, fps=10.0)


def test_clips_around_key_frames(truth):
    clips = AvaClips(table=truth, labels=LABELS, open_named=video, frames=5, spacing=0.2, short_side=None,
                     file_starts_at=900.0)  # fmt: skip
    assert len(clips) == 3
    first = clips[0]
    # Second 902 is frame 20 of a file that begins at 900; five frames, two apart.
    assert first["clip"][:, 0, 0, 0].tolist() == [16, 18, 20, 22, 24]
    assert first["box_R4"].tolist() == [[0.1, 0.1, 0.4, 0.9], [0.5, 0.1, 0.9, 0.9]]
    assert first["action_RC"].tolist() == [[1, 1], [1, 0]]
    late = AvaClips(table=truth, labels=LABELS, open_named=video, frames=5, spacing=0.2, short_side=12,
                    file_starts_at=899.0)[1]  # fmt: skip
    assert late["clip"].shape == (5, 12, 16, 3)
    assert late["clip"][:, 0, 0, 0].tolist() == [36, 38, 39, 39, 39]


def test_a_batch_pads_moves_boxes_and_lists_what_failed(truth):
    clips = AvaClips(table=truth, labels=LABELS, open_named=video, frames=2, spacing=0.2, short_side=None,
                     file_starts_at=900.0)  # fmt: skip
    small = clips[1] | {"clip": clips[1]["clip"][:, :12, :16]}
    batch = collate_ava([clips[0], small, clips[2]])
    assert batch["clips"].shape == (2, 2, 24, 32, 3)
    assert batch["sizes"].tolist() == [[24, 32], [12, 16]]
    assert batch["clip_R"].tolist() == [0, 0, 1]
    assert batch["frame_R"].tolist() == [0, 0, 1]
    torch.testing.assert_close(batch["box_R4"][2], batch["share_R4"][2] / 2)
    torch.testing.assert_close(batch["box_R4"][:2], batch["share_R4"][:2])
    assert not batch["clips"][1, :, 12:].any()
    ledger = BadSampleLedger()
    ledger.update(batch)
    assert ledger.bad == {"missing": 1}
    assert ledger.entries[0]["key"] == "c,0905"
    assert len(collate_ava([clips[2]])["clips"]) == 0


def test_rows_of_probabilities():
    rows = labelled_rows(
        frame_R=torch.tensor([3, 5]),
        box_R4=torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]),
        probability_RC=torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
        labels=[12, 17],
    )
    assert rows.frame_N.tolist() == [3, 3, 5, 5]
    assert rows.label_N.tolist() == [12, 17, 12, 17]
    assert rows.score_N.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rows.box_N4[2].tolist() == [0.5, 0.5, 1.0, 1.0]


def test_videos_of_a_folder_by_name(tmp_path: Path, truth):
    np.save(tmp_path / "a-B_1.npy", np.zeros((40, 12, 16, 3), np.uint8))
    (tmp_path / "c.mp4").write_bytes(b"")
    folder = AvaFolder(tmp_path)
    clips = AvaClips(table=truth, labels=LABELS, open_named=folder, frames=4, short_side=None, file_starts_at=900.0)
    assert clips[0]["clip"].shape == (4, 12, 16, 3)
    assert clips[2]["error"]["cause"] == "unreadable"
    with pytest.raises(VideoReadError, match=r"no file d\.\*"):
        folder("d")
    (tmp_path / "c.avi").write_bytes(b"")
    with pytest.raises(ValueError, match="same name"):
        AvaFolder(tmp_path)
