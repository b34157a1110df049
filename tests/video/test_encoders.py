"""Encoders against torchvision's own models, a brute-force convolution, and the length check."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from byol_ext.video import encoders
from byol_ext.video.encoders import VideoEncoder, check_frames, small_video_encoder

models = pytest.importorskip("torchvision.models.video")


def unfolded(x_BCTHW: torch.Tensor, conv: nn.Conv3d) -> torch.Tensor:
    """A convolution in time and space as a 2-D one over windows of frames."""
    time, space = conv.kernel_size[0], conv.kernel_size[1]
    windows = rearrange(x_BCTHW.unfold(2, time, 1), "b c t h w k -> (b t) (c k) h w")
    y = F.conv2d(windows, conv.weight.flatten(1, 2), stride=2, padding=space // 2)
    return rearrange(y, "(b t) c h w -> b c t h w", b=len(x_BCTHW))


def batch_norm(y_BCTHW: torch.Tensor) -> torch.Tensor:
    dims = (0, 2, 3, 4)
    variance = y_BCTHW.var(dims, correction=0, keepdim=True)
    return (y_BCTHW - y_BCTHW.mean(dims, keepdim=True)) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize("frames", [8, 7, 6])
def test_small_encoder_equals_temporal_unfolding_and_2d_convolutions(frames):
    encoder = small_video_encoder(8, in_channels=2).double()
    x = torch.randn(3, 2, frames, 24, 24, dtype=torch.float64)
    expected = x
    for conv in encoder.trunk:
        if isinstance(conv, nn.Conv3d):
            expected = batch_norm(unfolded(expected, conv)).relu()
    assert expected.shape == (3, 64, frames - 4, 3, 3)
    torch.testing.assert_close(encoder(x), expected.mean((2, 3, 4)))
    assert [conv.kernel_size for conv in encoder.trunk if isinstance(conv, nn.Conv3d)] == [
        (3, 5, 5),
        (3, 3, 3),
        (1, 3, 3),
    ]


def test_small_encoder_has_the_widths_it_is_given():
    encoder = small_video_encoder(8, channels=(4, 8, 12))
    assert encoder.width == encoder(torch.zeros(2, 3, 8, 24, 24)).shape[1] == 12
    with pytest.raises(ValueError, match="three blocks"):
        small_video_encoder(8, channels=(4, 8))


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("r3d_18", 512, 33.2),
        ("r2plus1d_18", 512, 31.3),
        ("mc3_18", 512, 11.5),
        ("s3d", 1024, 7.9),
        ("swin3d_t", 768, 27.9),
    ],
)
def test_torchvision_encoders_take_all_three_lengths(name, width, millions):
    encoder = getattr(encoders, name)(8)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    encoder.eval()
    for frames in (8, 7, 6):
        x = torch.randn(1, 3, frames, 32, 32)
        with torch.no_grad():
            y, features = encoder(x), encoder.feature_map(x)
        assert y.shape == (1, encoder.width) == (1, width)
        torch.testing.assert_close(y, features.mean((2, 3, 4)))


@pytest.mark.parametrize("name", ["mc3_18", "swin3d_t"])
def test_torchvision_encoders_are_torchvision_models_without_the_classifier(name):
    model, encoder = getattr(models, name)(weights=None).eval(), getattr(encoders, name)(8).eval()
    missing = encoder.trunk.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert missing == []
    setattr(model, "head" if name == "swin3d_t" else "fc", nn.Identity())
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), model(x))


class FixedLength(nn.Module):
    """A trunk that takes 8 frames only, as models with learned positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 3, 8, 1, 1))
        self.norm = nn.BatchNorm3d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.position)


def test_an_encoder_that_refuses_derivatives_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"does not take 7 frames.*8 down to 6.*pad_to_T"):
        VideoEncoder(FixedLength(), width=3)
    VideoEncoder(FixedLength(), width=3, max_order=0)
    with pytest.raises(ValueError, match="does not take 4 frames"):
        small_video_encoder(6)
    with pytest.raises(ValueError, match="no derivative of order 2"):
        small_video_encoder(2, pad_to_T=True)
    with pytest.raises(ValueError, match="does not take 8 frames"):
        VideoEncoder(models.mvit_v1_b(weights=None), width=400)


@pytest.mark.parametrize("frames", [8, 7, 6])
def test_padding_repeats_the_last_difference(frames):
    encoder = VideoEncoder(FixedLength(), width=3, pad_to_T=True)
    x = torch.randn(2, 3, frames, 4, 4)
    repeated = torch.cat([x, *[x[:, :, -1:]] * (8 - frames)], dim=2)
    torch.testing.assert_close(encoder(x), encoder(repeated))


@pytest.mark.parametrize("max_order", [0, 2])
def test_the_check_leaves_no_trace(max_order):
    trunk = FixedLength()
    trunk.norm.eval()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    state = torch.random.get_rng_state()
    if max_order:
        with pytest.raises(ValueError, match="7 frames"):
            check_frames(trunk, 8, max_order=max_order)
    else:
        check_frames(trunk, 8, max_order=max_order)
    assert (trunk.training, trunk.norm.training) == (True, False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert not any(p.is_meta for p in trunk.parameters())


def test_longer_clips_than_in_training_are_taken():
    assert small_video_encoder(8)(torch.zeros(1, 3, 16, 24, 24)).shape == (1, 64)
