"""Clip augmentation against torchvision and colorsys, and what a key promises."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from byol_ext.rng import sample_keys
from byol_ext.video.samples import PHOTOGRAPHED
from byol_ext.video.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CentreClip,
    ClipAugment,
    authors,
    check_invariances,
    default,
    motion_sprites,
)

METHODS = ("dense", "taps")
PLAIN = ClipAugment(
    size=24, area=(1.0, 1.0), aspect=(1.0, 1.0), p_flip=0.0, p_colour=0.0, p_grey=0.0, p_blur=0.0, mean=(0.0,) * 3,
    std=(1.0,) * 3,
)  # fmt: skip


def clips(
    b: int = 3, v: int = 2, t: int = 4, h: int = 40, w: int = 56, c: int = 3, low: int = 0, high: int = 256
) -> Tensor:
    generator = torch.Generator().manual_seed(b + h + w)
    return torch.randint(low, high, (b, v, t, h, w, c), generator=generator, dtype=torch.uint8)


def whole(x: Tensor) -> Tensor:
    return torch.tensor([x.shape[3:5]] * len(x))


def keys(n: int, seed: int = 0) -> Tensor:
    return sample_keys(seed, 0, torch.arange(n))


def planes(clip_THWC: Tensor) -> Tensor:
    return clip_THWC.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("antialias", [True, False])
def test_crop_flip_and_resize_equal_torchvision(method: str, antialias: bool) -> None:
    augment = replace(PLAIN, area=(0.2, 1.0), aspect=(0.5, 2.0), p_flip=0.5, antialias=antialias, method=method)
    x = clips(b=6)
    draws = augment.draw(keys(6), whole(x), clips=2, frames=4)
    assert 0 < int(draws.flip_N.sum()) < 12
    got = augment(x, whole(x), keys(6)).flatten(0, 1)
    for i, clip in enumerate(x.flatten(0, 1)):
        want = tv.resized_crop(planes(clip), *draws.box_N4[i].tolist(), size=[24, 24], antialias=antialias)
        if draws.flip_N[i]:
            want = want.flip(-1)
        torch.testing.assert_close(got[i].transpose(0, 1), want, atol=5e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_nearest_after_bilinear_is_the_authors_geometry(method: str) -> None:
    x = clips(b=1, v=1, h=50, w=50)
    got = replace(PLAIN, resized=32, method=method)(x, whole(x), keys(1))[0, 0].transpose(0, 1)
    middle = F.interpolate(planes(x[0, 0]), size=(32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(got, F.interpolate(middle, size=(24, 24), mode="nearest"), atol=5e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("photometric", ["clip", "per_frame"])
def test_blur_equals_torchvision(method: str, photometric: str) -> None:
    augment = replace(PLAIN, p_blur=1.0, method=method, photometric=photometric)
    x = clips(h=24, w=24)
    sigma_NP = augment.draw(keys(3), whole(x), clips=2, frames=4).sigma_NP.expand(-1, 4)
    assert (len(sigma_NP[0].unique()) > 1) == (photometric == "per_frame")
    got = augment(x, whole(x), keys(3)).flatten(0, 1)
    for i, clip in enumerate(x.flatten(0, 1)):
        for t, frame in enumerate(planes(clip)):
            want = tv.gaussian_blur(frame, kernel_size=[3, 3], sigma=[float(sigma_NP[i, t])] * 2)
            torch.testing.assert_close(got[i, :, t], want, atol=5e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_brightness_contrast_and_saturation_equal_torchvision(method: str) -> None:
    """In the middle of the range, where nothing is clamped; per frame, as torchvision's pivot is a frame's."""
    augment = replace(PLAIN, p_colour=1.0, hue=0.0, p_grey=0.3, photometric="per_frame", method=method)
    x = clips(h=24, w=24, low=90, high=160)
    draws = augment.draw(keys(3), whole(x), clips=2, frames=4)
    got = augment(x, whole(x), keys(3)).flatten(0, 1)
    greys = 0
    for i, clip in enumerate(x.flatten(0, 1)):
        for t, frame in enumerate(planes(clip)):
            want = tv.adjust_brightness(frame, float(draws.brightness_NP[i, t]))
            want = tv.adjust_contrast(want, float(draws.contrast_NP[i, t]))
            want = tv.adjust_saturation(want, float(draws.saturation_NP[i, t]))
            if draws.grey_NP[i, t]:
                want, greys = tv.rgb_to_grayscale(want, num_output_channels=3), greys + 1
            # torchvision's weight of red is 0.2989, which is 1e-4 of white away from Rec. 601.
            torch.testing.assert_close(got[i, :, t], want, atol=2e-4, rtol=0)
    assert 0 < greys < 24


@pytest.mark.parametrize("method", METHODS)
def test_hue_turns_the_chroma_plane_of_yiq(method: str) -> None:
    """colorsys has its weights to two digits, hence the tolerance; the turn moves chroma by several times as much."""
    augment = replace(PLAIN, p_colour=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.2, size=4, method=method)
    x = clips(b=2, v=1, t=1, h=4, w=4, low=90, high=160)
    turns = augment.draw(keys(2), whole(x), clips=1, frames=1).hue_NP
    got = augment(x, whole(x), keys(2))
    for b in range(2):
        turn = torch.polar(torch.tensor(1.0), -2 * torch.pi * turns[b, 0].float())
        for i in range(4):
            for j in range(4):
                y, in_phase, quadrature = colorsys.rgb_to_yiq(*(x[b, 0, 0, i, j] / 255).tolist())
                chroma = torch.complex(torch.tensor(in_phase), torch.tensor(quadrature)) * turn
                luma, *after = colorsys.rgb_to_yiq(*got[b, 0, :, 0, i, j].tolist())
                assert luma == pytest.approx(y, abs=2e-3)
                assert after == pytest.approx([float(chroma.real), float(chroma.imag)], abs=2e-3)


def test_hue_turns_the_way_of_hsv() -> None:
    augment = replace(PLAIN, p_colour=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.05)
    x = clips(h=24, w=24, low=60, high=200)
    turns = augment.draw(keys(3), whole(x), clips=2, frames=4).hue_NP[:, 0]
    got = augment(x, whole(x), keys(3)).flatten(0, 1).transpose(1, 2)
    for i, clip in enumerate(x.flatten(0, 1)):
        change, hsv = got[i] - planes(clip), tv.adjust_hue(planes(clip), float(turns[i])) - planes(clip)
        assert F.cosine_similarity(change.flatten(), hsv.flatten(), dim=0) > 0.5


def test_colours_are_clamped_to_black_and_white() -> None:
    augment = replace(PLAIN, p_colour=1.0, brightness=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    x = clips(b=16, low=200)
    got = augment(x, whole(x), keys(16))
    white = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(got.amax((0, 1, 3, 4, 5)), white)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "augment", [default(32), authors(32), motion_sprites(32), replace(default(32), p_reverse=0.5)], ids=str
)
def test_a_key_decides_whatever_the_batch_and_the_padding(augment: ClipAugment, method: str) -> None:
    augment = replace(augment, method=method)
    x = clips(b=4)
    sizes = torch.tensor([[40, 56], [33, 56], [40, 30], [30, 31]])
    full = augment(x, sizes, keys(4))
    assert full.shape == (4, 2, len(augment.mean), 4, 32, 32)
    assert full.is_contiguous()
    assert torch.isfinite(full).all()
    for i, (h, w) in enumerate(sizes.tolist()):
        alone = augment(x[i : i + 1, :, :, :h, :w], sizes[i : i + 1], keys(4)[i : i + 1])
        assert torch.equal(alone[0], full[i])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(augment(x[order], sizes[order], keys(4)[order]), full[order])
    assert not torch.equal(augment(x, sizes, keys(4, seed=1)), full)
    assert not torch.equal(full[:, 0], full[:, 1])


@pytest.mark.parametrize("method", METHODS)
def test_padding_is_never_sampled(method: str) -> None:
    x = clips(b=2)
    sizes = torch.tensor([[30, 41], [25, 56]])
    other = x.clone()
    for i, (h, w) in enumerate(sizes.tolist()):
        other[i, :, :, h:] = 255
        other[i, :, :, :, w:] = 255
    augment = replace(default(32), method=method)
    assert torch.equal(augment(x, sizes, keys(2)), augment(other, sizes, keys(2)))
    centre = CentreClip(24, 28, method=method)
    assert torch.equal(centre(x, sizes), centre(other, sizes))


@pytest.mark.parametrize(
    "augment",
    [default(32), authors(32), motion_sprites(32), motion_sprites(32, channels=3), replace(authors(32), p_reverse=0.5)],
    ids=str,
)
def test_matrix_products_and_gathers_agree(augment: ClipAugment) -> None:
    x = clips(b=4)
    sizes = torch.tensor([[40, 56], [33, 56], [40, 30], [30, 31]])
    dense, taps = (replace(augment, method=method)(x, sizes, keys(4)) for method in METHODS)
    torch.testing.assert_close(dense, taps, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augment", [default(), authors(), motion_sprites()], ids=str)
def test_gpu_equals_cpu(augment: ClipAugment) -> None:
    x = clips(b=4, h=128, w=170)
    sizes = torch.tensor([[128, 170], [120, 170], [128, 128], [112, 120]])
    device = augment(x.cuda(), sizes, keys(4))
    assert torch.equal(device, augment(x.cuda(), sizes, keys(4)))
    assert torch.equal(device[1:2], augment(x[1:2].cuda(), sizes[1:2], keys(4)[1:2]))
    torch.testing.assert_close(device.cpu(), augment(x, sizes, keys(4)), atol=1e-4, rtol=0)
    torch.testing.assert_close(CentreClip()(x.cuda(), sizes).cpu(), CentreClip()(x, sizes), atol=1e-4, rtol=0)


def test_what_stands_still_has_no_derivative_unless_colours_change_per_frame() -> None:
    x = clips(b=8, t=1).expand(-1, -1, 4, -1, -1, -1)
    still = default(32)(x, whole(x), keys(8)).diff(dim=3)
    assert not still.any()
    flicker = authors(32)(x, whole(x), keys(8)).diff(dim=3).abs().amax((2, 3, 4, 5))
    assert (flicker > 0.01).float().mean() > 0.9


def test_reverse_plays_backwards() -> None:
    x = clips(b=2)
    forward, backward = (replace(PLAIN, p_reverse=p)(x, whole(x), keys(2)) for p in (0.0, 1.0))
    assert torch.equal(forward.flip(3), backward)


def test_one_channel_at_either_end() -> None:
    augment = replace(PLAIN, size=40, p_colour=1.0, mean=(0.5,), std=(0.25,))
    x = clips(h=40, w=40, c=1, low=90, high=160)
    grey = augment(x, whole(x), keys(3))
    assert grey.shape == (3, 2, 1, 4, 40, 40)
    as_rgb = x.expand(-1, -1, -1, -1, -1, 3).contiguous()
    torch.testing.assert_close(augment(as_rgb, whole(x), keys(3)), grey, atol=1e-5, rtol=0)
    three = replace(augment, mean=(0.5,) * 3, std=(0.25,) * 3)(x, whole(x), keys(3))
    torch.testing.assert_close(three, grey.expand_as(three), atol=1e-5, rtol=0)


def test_autocast_changes_nothing() -> None:
    x = clips()
    with torch.autocast("cpu", torch.bfloat16):
        got = default(32)(x, whole(x), keys(3))
    assert torch.equal(got, default(32)(x, whole(x), keys(3)))


def test_draws_have_the_stated_frequencies() -> None:
    n = 4000
    draws = default().draw(keys(n), torch.tensor([[128, 170]] * n), clips=2, frames=8)
    for got, want in (
        (draws.flip_N, 0.5),
        (draws.grey_NP, 0.2),
        (draws.hue_NP != 0, 0.8),
        (draws.sigma_NP > 0, 0.5),
        (draws.reverse_N, 0.0),
    ):
        assert got.float().mean() == pytest.approx(want, abs=0.02)
    share_N = draws.box_N4[:, 2:].double().prod(1) / (128 * 170)
    assert float(share_N.min()) == pytest.approx(0.08, abs=0.01)
    assert share_N.max() <= 1
    ratio_N = draws.box_N4[:, 3] / draws.box_N4[:, 2]
    assert 0.72 < float(ratio_N.min()) < float(ratio_N.max()) < 1.37
    coloured = draws.hue_NP != 0
    factors = draws.brightness_NP[coloured]
    assert (float(factors.min()), float(factors.max())) == pytest.approx((0.8, 1.2), abs=0.01)
    first, second = draws.brightness_NP.view(n, 2).T
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05
    per_frame = authors().draw(keys(n), torch.tensor([[128, 170]] * n), clips=1, frames=8)
    assert per_frame.grey_NP.float().mean() == pytest.approx(0.2, abs=0.02)
    assert torch.bincount(per_frame.channel_NP.flatten(), minlength=3).min() > 0.3 * 8 * n
    assert torch.equal((per_frame.sigma_NP > 0).all(1), (per_frame.sigma_NP > 0).any(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (20, 30)])
def test_centre_clip_equals_torchvision(height: int, width: int, method: str) -> None:
    x = clips(b=1, h=height, w=width)
    got = CentreClip(24, 30, method=method)(x, whole(x))[0, 0].transpose(0, 1)
    resized = tv.resize(planes(x[0, 0]), size=[30], antialias=True)
    want = tv.normalize(tv.center_crop(resized, [24, 24]), list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(got, want, atol=3e-5, rtol=0)


def test_centre_clip_at_the_ends_of_the_long_side() -> None:
    x = clips(b=1, v=1, h=24, w=60)
    left, right = (CentreClip(24, 24, position=p, mean=(0.0,) * 3, std=(1.0,) * 3)(x, whole(x))[0, 0] for p in (0, 1))
    torch.testing.assert_close(left.transpose(0, 1), planes(x[0, 0])[..., :24])
    torch.testing.assert_close(right.transpose(0, 1), planes(x[0, 0])[..., -24:])


def test_changes_that_break_labels_are_refused() -> None:
    assert check_invariances(default(), PHOTOGRAPHED) == []
    with pytest.raises(ValueError, match=r"hflip, grey: set p_flip=0, p_grey=0"):
        check_invariances(default(), {"crop", "colour", "blur"})
    with pytest.raises(ValueError, match="p_reverse=0"):
        check_invariances(replace(default(), p_reverse=0.1), PHOTOGRAPHED)
    assert check_invariances(default(), {"crop", "colour", "blur"}, force=True) == ["hflip", "grey"]
    assert check_invariances(PLAIN, set()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1},
        {"area": (0.0, 1.0)},
        {"area": (0.5, 1.2)},
        {"aspect": (2.0, 1.0)},
        {"sigma": (0.0, 1.0)},
        {"p_flip": 1.5},
        {"hue": 0.6},
        {"contrast": -0.1},
        {"mean": (0.5, 0.5)},
        {"std": (0.0, 1.0, 1.0)},
        {"photometric": "frame"},
        {"grey": "red"},
        {"method": "fast"},
        {"resized": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ClipAugment(**change)  # type: ignore[arg-type]


def test_a_batch_without_videos_stays_one() -> None:
    x = clips(b=1)[:0]
    for got in (default(32)(x, whole(x).reshape(0, 2), keys(0)), CentreClip(32, 32)(x, whole(x).reshape(0, 2))):
        assert got.shape == (0, 2, 3, 4, 32, 32)


def test_bad_input_is_an_error() -> None:
    x = clips()
    with pytest.raises(TypeError, match="uint8"):
        default(32)(x.float(), whole(x), keys(3))
    with pytest.raises(ValueError, match="one key a video"):
        default(32)(x, whole(x), keys(2))
    with pytest.raises(ValueError, match="do not fit"):
        default(32)(x, whole(x) + 1, keys(3))
    with pytest.raises(ValueError, match="1 or 3"):
        CentreClip(24, 24)(x[..., :2], whole(x))
    with pytest.raises(ValueError, match="does not fit"):
        CentreClip(112, 100)
    with pytest.raises(ValueError, match="position"):
        CentreClip(position=1.5)
