"""Saliency of encoders whose answer is known, shares by hand, and masks of a dot that moves."""

import pytest
import torch
from torch import Tensor, nn

from byol_ext.video.encoders import small_video_encoder
from byol_ext.video.saliency import (
    class_score,
    feature_norm,
    frame_difference_mask,
    grad_cam,
    input_gradient,
    saliency_metrics,
    share_inside,
)


class Linear(nn.Module):
    """Features = weights [D, C, T, H, W] times the clip."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten(1).T


class Pooled(nn.Module):
    """A convolution, batch norm and a global average pool."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (3, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.norm, self.scale = nn.BatchNorm3d(4), scale

    def feature_map(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.feature_map(x).mean((2, 3, 4))


def test_input_gradient_of_a_linear_encoder_is_its_weight():
    torch.manual_seed(0)
    encoder = Linear(torch.randn(3, 2, 4, 5, 6))
    clips = torch.randn(2, 2, 4, 5, 6)
    probe = torch.randn(7, 3)
    saliency = input_gradient(encoder, clips, score=class_score(probe, torch.tensor([1, 4])))
    for position, label in enumerate((1, 4)):
        direction = torch.einsum("d,dcthw->cthw", probe[label] - probe.mean(0), encoder.weight.detach())
        torch.testing.assert_close(saliency[position], direction.norm(dim=0))


def test_noise_smooths_what_a_kink_makes_arbitrary():
    class Kink(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).relu()

    clips = torch.zeros(1, 1, 2, 8, 8)
    clips[0, 0, 0, 0, 0], clips[0, 0, 1, 7, 7] = 1.0, -1.0
    score = lambda features: features.sum(1)  # noqa: E731
    plain = input_gradient(Kink(), clips, score=score)
    assert plain.sum() == 1.0
    generator = torch.Generator().manual_seed(0)
    smooth = input_gradient(Kink(), clips, score=score, noise=0.1, samples=200, generator=generator)
    assert smooth[0, 0, 0, 0] == 1.0
    assert smooth[0, 1, 7, 7] == 0.0
    assert float(smooth[0, 0, 1:].mean()) == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="generator"):
        input_gradient(Kink(), clips, noise=0.1)


def test_grad_cam_equals_the_gradient_by_the_map():
    torch.manual_seed(0)
    encoder = Pooled().eval()
    clips = torch.randn(3, 2, 5, 8, 8)
    cam = grad_cam(encoder, clips)
    assert cam.shape == (3, 5, 8, 8)
    # The textbook way: weights are the gradients by the map, summed over it.
    features_map = encoder.feature_map(clips).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(feature_norm(features_map.mean((2, 3, 4))).sum(), features_map)
    expected = (gradient.sum((2, 3, 4))[:, :, None, None, None] * features_map).sum(1).relu()
    scaled = nn.functional.interpolate(expected.detach()[:, None], size=(5, 8, 8), mode="trilinear")[:, 0]
    torch.testing.assert_close(cam, scaled)


def test_finds_the_place_of_the_pattern():
    encoder = Pooled()
    with torch.no_grad():
        encoder.conv.weight.zero_()
        encoder.conv.weight[0, 0, 1, 1, 1] = 1.0
        encoder.conv.bias.zero_()
    clips = torch.zeros(1, 2, 5, 16, 16)
    clips[0, 0, :, 2:6, 8:14] = 1.0
    mask = clips[:, 0] > 0
    area = float(mask.float().mean())
    assert saliency_metrics(grad_cam(encoder, clips), mask)["saliency/share_inside"] > 5 * area
    # The second channel holds nothing that the encoder reads.
    blind = grad_cam(encoder, clips.flip(1))
    assert not blind.any()


def test_modes_statistics_and_gradients_are_left_alone():
    encoder = Pooled()
    encoder.norm.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        input_gradient(encoder, torch.randn(2, 2, 5, 8, 8))
        grad_cam(encoder, torch.randn(2, 2, 5, 8, 8))
    assert encoder.training
    assert encoder.conv.training
    assert not encoder.norm.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_grad_cam_refuses_features_that_are_not_the_mean_of_the_map():
    with pytest.raises(ValueError, match="input_gradient"):
        grad_cam(Pooled(scale=2.0), torch.randn(2, 2, 5, 8, 8))


def test_share_of_known_maps():
    mask = torch.zeros(3, 2, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    saliency = torch.stack([torch.ones(2, 4, 4), mask[0].float(), torch.zeros(2, 4, 4)])
    assert share_inside(saliency, mask)[:2].tolist() == [0.5, 1.0]
    metrics = saliency_metrics(saliency, mask)
    assert (metrics["saliency/share_inside"], metrics["saliency/mask_area"]) == (0.75, 0.5)
    assert (metrics["saliency/lift"], metrics["saliency/clips"], metrics["saliency/skipped"]) == (1.5, 2, 1)
    with pytest.raises(ValueError, match="none has"):
        saliency_metrics(saliency, torch.zeros_like(mask))
    with pytest.raises(ValueError, match="negative"):
        share_inside(-saliency, mask)
    with pytest.raises(ValueError, match="equal shapes"):
        share_inside(saliency, mask[:2])


def test_mask_of_a_block_that_moves():
    clips = torch.full((2, 4, 8, 12, 3), 90, dtype=torch.uint8)
    for t in range(4):
        clips[0, t, 2:4, 2 * t : 2 * t + 2] = 200
    mask = frame_difference_mask(clips, grow=0)
    assert not mask[1].any()
    for t in (1, 2):
        expected = torch.zeros(8, 12, dtype=torch.bool)
        expected[2:4, 2 * t : 2 * t + 2] = True
        assert torch.equal(mask[0, t], expected)
    grown = frame_difference_mask(clips, grow=1)
    assert int(grown[0, 1].sum()) == 4 * 4
    assert not frame_difference_mask(clips, threshold=120).any()
    with pytest.raises(ValueError, match="two frames"):
        frame_difference_mask(clips[:, :1])


@pytest.mark.parametrize("frames", [8, 7, 6])
def test_the_project_s_encoders_are_explained(frames: int):
    torch.manual_seed(0)
    encoder = small_video_encoder(8, in_channels=1)
    clips = torch.randn(2, 1, frames, 24, 24)
    for saliency in (grad_cam(encoder, clips), input_gradient(encoder, clips)):
        assert saliency.shape == (2, frames, 24, 24)
        assert bool((saliency >= 0).all())
        assert float(saliency.sum()) > 0
