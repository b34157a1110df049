"""The head against a hand computation, and end to end: two sprites in a clip, each box must get its own motion."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.metrics.detection import LabelledBoxes, detection_metrics
from byol_ext.video.ava import labelled_rows
from byol_ext.video.roi_head import RoiHead


def test_each_box_reads_its_own_clip_and_place():
    map_BDthw = torch.zeros(2, 2, 3, 8, 8)
    map_BDthw[0, 0, :, :, :4] = 3.0
    map_BDthw[1, 1, 0, 4:, :] = 6.0  # 2 after the mean over three times
    head = RoiHead(2, actions=2).eval()
    with torch.no_grad():
        head.classify.weight.copy_(torch.eye(2))
    boxes = torch.tensor(
        [[0.0, 0.0, 0.375, 1.0], [0.625, 0.0, 1.0, 1.0], [0.0, 0.625, 1.0, 1.0], [0.0, 0.0, 1.0, 0.375]]
    )
    logits = head(map_BDthw, box_R4=boxes, clip_R=torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(logits, torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))


def test_no_boxes_and_boxes_that_do_not_fit():
    head = RoiHead(4, actions=3)
    assert head(
        torch.randn(1, 4, 2, 5, 5), box_R4=torch.zeros(0, 4), clip_R=torch.zeros(0, dtype=torch.long)
    ).shape == (0, 3)
    with pytest.raises(ValueError, match="expected"):
        head(torch.randn(1, 4, 2, 5, 5), box_R4=torch.zeros(2, 4), clip_R=torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="of 1 clips"):
        head(torch.randn(1, 4, 2, 5, 5), box_R4=torch.zeros(1, 4), clip_R=torch.ones(1, dtype=torch.long))


def moving_pairs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clips with two dots, one left and one right, each going up or down; boxes as shares; directions 0 or 1 [n, 2]."""
    clips = torch.zeros(n, 1, 4, 16, 32)
    direction = torch.randint(0, 2, (n, 2), generator=generator)
    start = torch.randint(0, 16, (n, 2), generator=generator)
    for i in range(n):
        for side in range(2):
            for t in range(4):
                row = (start[i, side] + (2 * direction[i, side] - 1) * 2 * t) % 16
                clips[i, 0, t, row, 16 * side + 8] = 1.0
    boxes = torch.tensor([[0.1, 0.0, 0.4, 1.0], [0.6, 0.0, 0.9, 1.0]]).repeat(n, 1)
    return clips, boxes, direction


def test_learns_which_person_does_what():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder = nn.Sequential(nn.Conv3d(1, 16, (2, 5, 3), padding=(0, 2, 1)), nn.ReLU())
    head = RoiHead(16, actions=2, dropout=0.0)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-2)
    for _ in range(60):
        clips, boxes, direction = moving_pairs(16, generator)
        clip_R = torch.arange(16).repeat_interleave(2)
        logits = head(encoder(clips), box_R4=boxes, clip_R=clip_R)
        loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(direction.reshape(-1), 2).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clips, boxes, direction = moving_pairs(24, generator)
    frame_R = torch.arange(24).repeat_interleave(2)
    with torch.no_grad():
        probability = head.eval()(encoder(clips), box_R4=boxes, clip_R=frame_R).sigmoid()
    found = labelled_rows(frame_R=frame_R, box_R4=boxes, probability_RC=probability, labels=[0, 1])
    truth = LabelledBoxes(frame_R.numpy(), boxes.double().numpy(), direction.reshape(-1).numpy())
    names = {0: "up", 1: "down"}
    assert detection_metrics(truth=truth, detections=found, names=names)["detection/mAP"] > 0.95
    # Control: the same scores given to the other box of each frame.
    swapped = labelled_rows(
        frame_R=frame_R,
        box_R4=boxes.reshape(24, 2, 4).flip(1).reshape(-1, 4),
        probability_RC=probability,
        labels=[0, 1],
    )
    assert detection_metrics(truth=truth, detections=swapped, names=names)["detection/mAP"] < 0.8
