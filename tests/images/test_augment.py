"""Image augmentation against torchvision, image by image with the same parameters, and what a key promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from byol_ext.images import photometric
from byol_ext.images.augment import IMAGENET_MEAN, IMAGENET_STD, CentreCrop, Draws, ImageAugment
from byol_ext.images.views import byol_views, make_views, multi_crop, patches, simclr_views
from byol_ext.rng import sample_keys

METHODS = ("interpolate", "taps")
PLAIN = ImageAugment(
    size=24, p_flip=0.0, p_jitter=0.0, p_grey=0.0, p_blur=0.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)
EVERYTHING = replace(PLAIN, p_flip=0.5, p_jitter=0.8, p_grey=0.3, p_blur=0.6, p_solarise=0.4, kernel=5)


def images(b: int = 6, h: int = 40, w: int = 56, c: int = 3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    rough = torch.rand(b, c, 5, 7, generator=g)
    smooth = torch.nn.functional.interpolate(rough, (h, w), mode="bilinear") + 0.1 * torch.rand(b, c, h, w, generator=g)
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sizes(x: Tensor) -> Tensor:
    return torch.tensor([[x.shape[1], x.shape[2]]] * len(x))


def keys(n: int, seed: int = 0) -> Tensor:
    return sample_keys(seed, 0, torch.arange(n))


def jittered(x_CMM: Tensor, draws: Draws, n: int, mode: str) -> Tensor:
    for step in draws.order_N4[n].tolist():
        if step == 0 and mode == "additive":
            x_CMM = (x_CMM + float(draws.brightness_N[n])).clamp(0, 1)
        elif step == 0:
            x_CMM = tv.adjust_brightness(x_CMM, float(draws.brightness_N[n]))
        elif step == 1:
            x_CMM = tv.adjust_contrast(x_CMM, float(draws.contrast_N[n]))
        elif step == 2:
            x_CMM = tv.adjust_saturation(x_CMM, float(draws.saturation_N[n]))
        else:
            x_CMM = tv.adjust_hue(x_CMM, float(draws.hue_N[n]))
    return x_CMM


def by_torchvision(image_HWC: Tensor, augment: ImageAugment, draws: Draws, n: int) -> Tensor:
    top, left, height, width = draws.box_N4[n].tolist()
    x = image_HWC.permute(2, 0, 1).float() / 255
    x = tv.resized_crop(x, top, left, height, width, [augment.size, augment.size], antialias=True)
    x = tv.horizontal_flip(x) if draws.flip_N[n] else x
    x = jittered(x, draws, n, augment.brightness_mode) if draws.jitter_N[n] else x
    x = tv.rgb_to_grayscale(x, 3) if draws.grey_N[n] else x
    if draws.sigma_N[n] > 0:
        x = tv.gaussian_blur(x, [augment.taps, augment.taps], [float(draws.sigma_N[n])] * 2)
    x = tv.solarize(x, augment.threshold) if draws.solarise_N[n] else x
    return tv.normalize(x, list(augment.mean), list(augment.std))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_all_steps_equal_torchvision_image_by_image(method: str, mode: str) -> None:
    augment = replace(
        EVERYTHING, method=method, brightness_mode=mode, saturation=0.4, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    x, n = images(16), 32
    out_NCMM = augment(x, sizes(x), keys(16), views=2).flatten(0, 1)
    draws = augment.draw(keys(16), sizes(x), views=2)
    assert len(set(map(tuple, draws.order_N4.tolist()))) > 8
    for flag in (draws.flip_N, draws.jitter_N, draws.grey_N, draws.sigma_N > 0, draws.solarise_N):
        assert 0 < int(flag.sum()) < n
    for i in range(n):
        error = (out_NCMM[i] - by_torchvision(x[i // 2], augment, draws, i)).abs()
        # A pixel within rounding of the threshold may be inverted in one and not in the other.
        assert (error > 1e-4).float().mean() < (2e-3 if draws.solarise_N[i] else 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_crops_of_every_scale_equal_torchvision(method: str) -> None:
    for h, w, size in [(8, 9, 24), (150, 40, 24), (24, 24, 24), (61, 200, 32)]:
        augment = replace(PLAIN, size=size, p_flip=0.5, method=method, area=(0.05, 1.0))
        x = images(5, h, w)
        out, draws = augment(x, sizes(x), keys(5))[:, 0], augment.draw(keys(5), sizes(x))
        want = torch.stack([by_torchvision(x[i], augment, draws, i) for i in range(5)])
        torch.testing.assert_close(out, want, atol=2e-5, rtol=0)


def test_hue_equals_torchvision_at_every_corner_of_the_cube() -> None:
    axis = torch.tensor([0.0, 0.25, 0.5, 1.0])
    colours = torch.cartesian_prod(axis, axis, axis).T.reshape(1, 3, 8, 8)
    for turns in (-0.5, -0.21, 0.0, 0.1, 1 / 3, 0.5):
        torch.testing.assert_close(
            photometric.shift_hue(colours, torch.tensor([turns])), tv.adjust_hue(colours, turns), atol=1e-6, rtol=0
        )


def test_hue_keeps_value_and_saturation_of_kornias_hsv() -> None:
    rgb_to_hsv = pytest.importorskip("kornia.color").rgb_to_hsv
    x = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    before, after = rgb_to_hsv(x), rgb_to_hsv(photometric.shift_hue(x, torch.full((4,), 0.1)))
    torch.testing.assert_close(after[:, 1:], before[:, 1:], atol=1e-5, rtol=0)
    turned = (after[:, 0] - before[:, 0]) / (2 * torch.pi)
    torch.testing.assert_close(torch.remainder(turned, 1.0), torch.full_like(turned, 0.1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (23, 40), (9, 5)])
def test_blur_equals_torchvision(kernel: int, size: int) -> None:
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 0.9, 2.0])
    got = photometric.blur(x, sigma, kernel)
    want = torch.stack([tv.gaussian_blur(x[i], [kernel, kernel], [float(sigma[i])] * 2) for i in range(3)])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_additive_brightness_shifts_and_multiplicative_scales() -> None:
    x = torch.tensor([0.0, 0.5, 0.9]).reshape(1, 1, 1, 3)
    shifted = photometric.shift_brightness(x, torch.tensor([0.2])).flatten()
    scaled = photometric.scale_brightness(x, torch.tensor([1.2])).flatten()
    torch.testing.assert_close(shifted, torch.tensor([0.2, 0.7, 1.0]))
    torch.testing.assert_close(scaled, torch.tensor([0.0, 0.6, 1.0]))


@pytest.mark.parametrize("method", METHODS)
def test_a_key_and_a_view_decide_whatever_the_batch_and_the_padding(method: str) -> None:
    augment = replace(EVERYTHING, method=method)
    x, k = images(5), keys(5)
    true = torch.tensor([[40, 56], [33, 56], [40, 21], [7, 9], [40, 56]])
    whole = augment(x, true, k, views=3)
    for i, (h, w) in enumerate(true.tolist()):
        alone = augment(x[i : i + 1, :h, :w], true[i : i + 1], k[i : i + 1], first_view=1)
        torch.testing.assert_close(alone[0, 0], whole[i, 1], atol=1e-6, rtol=0)
        assert not torch.allclose(whole[i, 0], whole[i, 1], atol=0.01)
    garbage = x.clone()
    for i, (h, w) in enumerate(true.tolist()):
        garbage[i, h:], garbage[i, :, w:] = 255, 255
    assert torch.equal(augment(garbage, true, k, views=3), whole)


def test_the_two_ways_to_resample_agree() -> None:
    x = images(8, 90, 70)
    a, b = (replace(EVERYTHING, method=m, p_solarise=0.0)(x, sizes(x), keys(8)) for m in METHODS)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu() -> None:
    x, augment = images(8), replace(EVERYTHING, p_solarise=0.0)
    got = augment(x.cuda(), sizes(x).cuda(), keys(8).cuda(), views=2).cpu()
    torch.testing.assert_close(got, augment(x, sizes(x), keys(8), views=2), atol=1e-4, rtol=0)


def test_draws_have_the_stated_frequencies() -> None:
    n, augment = 4000, replace(byol_views()["b"], p_flip=0.3)
    draws = augment.draw(keys(n), torch.tensor([[300, 300]] * n))
    for got, want in [
        (draws.flip_N, 0.3),
        (draws.jitter_N, 0.8),
        (draws.grey_N, 0.2),
        (draws.sigma_N > 0, 0.1),
        (draws.solarise_N, 0.2),
    ]:
        assert got.float().mean() == pytest.approx(want, abs=0.03)
    share = draws.box_N4[:, 2:].prod(1) / 90_000
    assert (float(share.min()), float(share.max())) == pytest.approx((0.08, 1.0), abs=0.03)
    for values, low, high in [
        (draws.brightness_N, -0.4, 0.4),
        (draws.contrast_N, 0.6, 1.4),
        (draws.saturation_N, 0.8, 1.2),
        (draws.hue_N, -0.1, 0.1),
        (draws.sigma_N[draws.sigma_N > 0], 0.1, 2.0),
    ]:
        assert (float(values.min()), float(values.max())) == pytest.approx((low, high), abs=0.03)
    orders = torch.unique(draws.order_N4, dim=0, return_counts=True)
    assert len(orders[0]) == 24
    assert int(orders[1].min()) > n / 24 * 0.7
    about = torch.stack([draws.brightness_N, draws.contrast_N, draws.saturation_N, draws.hue_N])
    assert (torch.corrcoef(about) - torch.eye(4)).abs().max() < 0.06


def test_fixed_order_is_torchvisions_first() -> None:
    draws = replace(EVERYTHING, jitter_order="fixed").draw(keys(9), torch.tensor([[40, 40]] * 9))
    assert draws.order_N4.tolist() == [[0, 1, 2, 3]] * 9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(60, 91), (90, 60), (20, 30), (32, 32)])
def test_centre_crop_equals_torchvision(height: int, width: int, method: str) -> None:
    x = images(2, height, width)
    got = CentreCrop(size=28, short_side=32, method=method)(x, sizes(x))
    want = tv.center_crop(tv.resize(x.permute(0, 3, 1, 2).float() / 255, [32], antialias=True), [28, 28])
    torch.testing.assert_close(got, tv.normalize(want, list(IMAGENET_MEAN), list(IMAGENET_STD)), atol=1e-4, rtol=0)


def test_grey_images_stay_one_channel_or_spread_over_three() -> None:
    x = images(4, c=1)
    one = replace(EVERYTHING, mean=(0.0,), std=(1.0,))
    three = replace(EVERYTHING, mean=(0.0, 0.0, 0.0))
    assert one(x, sizes(x), keys(4)).shape == (4, 1, 1, 24, 24)
    torch.testing.assert_close(
        three(x, sizes(x), keys(4)), one(x, sizes(x), keys(4)).expand(-1, -1, 3, -1, -1), atol=0, rtol=0
    )
    with pytest.raises(ValueError, match="channels=1"):
        one(images(2), sizes(images(2)), keys(2))


def test_views_differ_in_settings_size_and_draws_and_keep_their_order() -> None:
    x = images(4)
    base = replace(EVERYTHING, p_solarise=0.0)
    views = multi_crop(base, small_size=16, small=3)
    made = make_views(views, x, sizes(x), keys(4))
    assert {name: v.shape[-1] for name, v in made.items()} == {"a": 24, "b": 24, "s0": 16, "s1": 16, "s2": 16}
    assert not torch.allclose(made["s0"], made["s1"])
    for number, (name, augment) in enumerate(views.items()):
        alone = augment(x, sizes(x), keys(4), first_view=number)[:, 0]
        torch.testing.assert_close(made[name], alone, atol=1e-6, rtol=0)


def test_presets_are_the_papers_settings() -> None:
    a, b = byol_views(224).values()
    assert (a.p_blur, a.p_solarise, b.p_blur, b.p_solarise) == (1.0, 0.0, 0.1, 0.2)
    assert (a.taps, a.brightness_mode) == (23, "additive")
    simclr = simclr_views(32, strength=0.5)["b"]
    assert (simclr.brightness, simclr.hue, simclr.brightness_mode) == (0.4, 0.1, "multiplicative")
    x = images(3, 60, 60)
    boxes = patches(20, PLAIN)["p7"].draw(keys(3), sizes(x)).box_N4
    assert (boxes[:, 2] * boxes[:, 3]).double().div(3600).tolist() == pytest.approx([0.25] * 3, abs=0.02)


def test_autocast_changes_nothing() -> None:
    x = images(4)
    plain = EVERYTHING(x, sizes(x), keys(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(EVERYTHING(x, sizes(x), keys(4)), plain)


def test_a_batch_without_images_stays_one() -> None:
    nothing = torch.zeros(0, 1, 1, 3, dtype=torch.uint8)
    assert EVERYTHING(nothing, torch.zeros(0, 2, dtype=torch.int64), keys(0), views=2).shape == (0, 2, 3, 24, 24)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 1},
        {"area": (0.0, 1.0)},
        {"aspect": (2.0, 1.0)},
        {"p_blur": 1.5},
        {"hue": 0.6},
        {"contrast": -0.1},
        {"sigma": (0.0, 1.0)},
        {"kernel": 4},
        {"kernel": 51},
        {"brightness_mode": "other"},
        {"jitter_order": "other"},
        {"method": "other"},
        {"mean": (0.0, 0.0)},
    ],
    ids=str,
)
def test_values_out_of_range_are_named(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ImageAugment(**({"size": 24} | change))


def test_bad_input_is_an_error() -> None:
    x = images(2)
    with pytest.raises(TypeError, match="uint8"):
        PLAIN(x.float(), sizes(x), keys(2))
    with pytest.raises(ValueError, match="one key an image"):
        PLAIN(x, sizes(x), keys(3))
    with pytest.raises(ValueError, match="do not fit"):
        PLAIN(x, sizes(x) + 1, keys(2))
    with pytest.raises(ValueError, match="1 or 3"):
        PLAIN(x[..., :2], sizes(x), keys(2))
    with pytest.raises(ValueError, match="short_side"):
        CentreCrop(size=32, short_side=24)
