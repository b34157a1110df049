"""Encoders: shapes, independence of samples with gn_ws, weight standardisation, stems."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Branch, Edge, Target
from byol_ext.heads import WSLinear, batch_norms, mlp_head
from byol_ext.images.encoders import ImageEncoder, small_cnn, timm_resnet, torchvision_resnet, vit_small, vit_tiny
from byol_ext.images.norms import WSConv2d, standardised, to_gn_ws

MAKERS: dict[str, Callable[..., ImageEncoder]] = {
    "small": lambda norm: small_cnn(in_channels=3, norm=norm),
    "torchvision": lambda norm: torchvision_resnet("resnet18", stem="cifar", norm=norm),
    "timm": lambda norm: timm_resnet("resnet18", norm=norm),
}


def depends_on_others(encoder: nn.Module, x: Tensor) -> float:
    """Largest change of the first output when the other inputs change."""
    encoder.train()
    other = torch.cat([x[:1], torch.rand(x[1:].shape, generator=torch.Generator().manual_seed(9)) * 3])
    with torch.no_grad():
        return float((encoder(x)[0] - encoder(other)[0]).abs().max())


@pytest.mark.parametrize("name", MAKERS)
def test_gn_ws_makes_samples_independent_and_batch_norm_does_not(name: str) -> None:
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    independent, coupled = MAKERS[name]("gn_ws"), MAKERS[name]("batch")
    assert depends_on_others(independent, x) < 1e-5
    assert depends_on_others(coupled, x) > 1e-2
    assert batch_norms(independent) == []
    assert batch_norms(coupled)


def test_a_network_of_gn_ws_reports_that_it_does_not_couple_samples() -> None:
    def bootstrap(norm: str) -> Bootstrap:
        branch = {"image": Branch(small_cnn(norm=norm), mlp_head([64, 32, 16], norm=norm))}
        return Bootstrap(branch, {"a": "image", "b": "image"}, target=Target(branch), plan=[Edge("a", "b")])

    assert not bootstrap("gn_ws").couples_samples
    assert bootstrap("batch").couples_samples


def test_weight_standardisation_ignores_shift_and_scale_of_a_unit() -> None:
    conv = standardised(nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2))
    x = torch.randn(2, 4, 8, 8)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(torch.rand(6, 1, 1, 1) + 2.0).add_(torch.randn(6, 1, 1, 1))
    torch.testing.assert_close(conv(x), before, atol=1e-4, rtol=1e-4)
    conv(x).square().mean().backward()
    assert float(conv.gain.grad.abs().min()) > 0
    torch.testing.assert_close(conv.weight.grad.sum((1, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)


def test_a_one_by_one_standardised_convolution_is_the_heads_linear_layer() -> None:
    linear = WSLinear(5, 3)
    conv = nn.Conv2d(5, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(linear.weight[..., None, None])
        conv.bias.copy_(linear.bias)
    x = torch.randn(7, 5)
    torch.testing.assert_close(standardised(conv)(x[..., None, None])[..., 0, 0], linear(x))


def test_conversion_leaves_nothing_behind_and_keeps_zero_scales() -> None:
    body = torchvision_resnet("resnet50", norm="gn_ws", zero_init_residual=True).body
    kinds = {type(layer) for layer in body.modules()}
    assert not kinds & {nn.Conv2d, nn.BatchNorm2d}
    assert {WSConv2d, nn.GroupNorm} <= kinds
    assert torch.equal(body.layer1[0].bn3.weight, torch.zeros(256))
    assert torch.equal(body.layer1[0].bn2.weight, torch.ones(64))
    assert {layer.num_groups for layer in body.modules() if isinstance(layer, nn.GroupNorm)} == {16}


def test_conversion_refuses_what_it_would_break() -> None:
    class FusedNorm(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input).relu()

    with pytest.raises(ValueError, match="no BatchNorm2d"):
        to_gn_ws(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(TypeError, match="FusedNorm"):
        to_gn_ws(nn.Sequential(nn.Conv2d(3, 4, 3), FusedNorm(4)))
    with pytest.raises(ValueError, match="one weight"):
        to_gn_ws(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4)))


def test_small_cnn_is_the_specs() -> None:
    encoder = small_cnn()
    convs = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.stride) for c in convs] == [
        (16, (3, 3), (1, 1)),
        (32, (3, 3), (2, 2)),
        (64, (3, 3), (2, 2)),
    ]
    assert encoder.width == 64
    assert all(c.bias is None for c in convs)
    assert small_cnn(norm="none").body[0].bias is not None
    with pytest.raises(ValueError, match="one stride"):
        small_cnn(channels=(8, 8))
    with pytest.raises(ValueError, match="norm"):
        small_cnn(norm="layer")


def test_resnets_are_their_libraries_networks_without_the_classifier() -> None:
    x = torch.rand(2, 3, 64, 64)
    ours, theirs = torchvision_resnet("resnet18").eval(), torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(ours.body.state_dict(), strict=False)
    theirs.fc = nn.Identity()
    torch.testing.assert_close(ours(x), theirs(x))
    mine, timms = timm_resnet("resnet26d").eval(), timm.create_model("resnet26d", num_classes=0).eval()
    timms.load_state_dict(mine.body.state_dict())
    torch.testing.assert_close(mine(x), timms(x))
    assert mine.width == 2048


def test_cifar_stem_keeps_the_size() -> None:
    encoder = torchvision_resnet("resnet18", stem="cifar", in_channels=1)
    seen = {}
    encoder.body.layer1.register_forward_hook(lambda m, i, o: seen.update(shape=o.shape))
    encoder(torch.zeros(2, 1, 32, 32))
    assert seen["shape"] == (2, 64, 32, 32)
    assert timm_resnet("resnet18", stem="cifar", in_channels=1)(torch.zeros(2, 1, 16, 16)).shape == (2, 512)
    assert torchvision_resnet("resnet18", in_channels=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 512)
    with pytest.raises(ValueError, match="several"):
        timm_resnet("resnet26d", stem="cifar")


def test_vits_have_the_known_sizes() -> None:
    with torch.device("meta"):
        peer = timm.create_model("vit_small_patch16_224", num_classes=0)
        models = vit_small(), peer, vit_tiny(224, patch_size=16)
        counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts == [21_665_664, 21_665_664, 5_524_416]
    token, avg = vit_tiny(16), vit_tiny(16, pool="avg")
    x = torch.rand(3, 3, 16, 16)
    assert token(x).shape == avg(x).shape == (3, 192)
    assert depends_on_others(token, x) < 1e-5


def test_wrong_names_and_options_are_errors() -> None:
    with pytest.raises(ValueError, match="resnet18"):
        torchvision_resnet("vgg11")
    for name in ("resnet17", "vit_tiny_patch16_224"):
        with pytest.raises(ValueError, match="no ResNet of timm"):
            timm_resnet(name)
    with pytest.raises(ValueError, match="stem"):
        torchvision_resnet("resnet18", stem="stl")
    with pytest.raises(ValueError, match="norm"):
        torchvision_resnet("resnet18", norm="layer")
    with pytest.raises(ValueError, match="do not survive"):
        timm_resnet("resnet18", pretrained=True, stem="cifar")
    with pytest.raises(ValueError, match="multiple"):
        vit_small(30, patch_size=16)
    with pytest.raises(ValueError, match="pool"):
        vit_tiny(16, pool="max")
