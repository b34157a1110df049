"""Norms by derivative order against plain BatchNorm over the clips of each order."""

import copy

import pytest
import torch
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch, Target
from byol_ext.heads import batch_norms
from byol_ext.predictors import mlp_predictor
from byol_ext.video.encoders import small_video_encoder
from byol_ext.video.order_norm import OrderBatchNorm, norm_orders, separate_norms_by_order
from byol_ext.video.schedule import DerivativeSchedule

ORDERS = torch.tensor([0, 2, 0, 1, 2, 2, 0, 1])


def used_norm() -> nn.BatchNorm3d:
    """A norm with a history, scale and shift."""
    norm = nn.BatchNorm3d(4, momentum=0.3)
    norm(torch.randn(5, 4, 2, 3, 3) * 2 + 1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("order_B", [ORDERS, ORDERS.sort().values, torch.full((8,), 1)], ids=["mixed", "blocks", "one"])
def test_each_order_has_its_own_batch_and_running_statistics(order_B):
    norm = used_norm()
    layer = separate_norms_by_order(nn.Sequential(copy.deepcopy(norm)))
    by_order = [copy.deepcopy(norm) for _ in range(3)]
    for training in (True, True, False):
        layer.train(training)
        x = torch.randn(8, 4, 2, 3, 3, requires_grad=True)
        with norm_orders(layer, order_B):
            y = layer(x)
        for order, reference in enumerate(by_order):
            rows = order_B == order
            if rows.any():
                torch.testing.assert_close(y[rows], reference.train(training)(x[rows]))
        y.square().sum().backward()
        assert x.grad.abs().sum() > 0
    for own, reference in zip(layer[0].norms, by_order, strict=True):
        torch.testing.assert_close(own.running_mean, reference.running_mean)
        torch.testing.assert_close(own.running_var, reference.running_var)


def test_scale_and_shift_stay_shared_and_keep_their_names():
    encoder = small_video_encoder(8)
    before = dict(encoder.named_parameters())
    assert separate_norms_by_order(encoder) is encoder
    after = dict(encoder.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert sum(isinstance(layer, OrderBatchNorm) for layer in encoder.modules()) == 3


def test_without_conversion_the_order_changes_nothing():
    encoder = small_video_encoder(8)
    x = torch.randn(8, 3, 8, 24, 24)
    torch.testing.assert_close(encoder(x, ORDERS), encoder(x))


def test_no_order_is_order_zero_and_nothing_stays_selected():
    plain = small_video_encoder(8)
    encoder = separate_norms_by_order(copy.deepcopy(plain))
    x = torch.randn(8, 3, 8, 24, 24)
    mixed = encoder(x, ORDERS)
    expected = plain(x)
    assert not torch.allclose(mixed, expected)
    torch.testing.assert_close(encoder(x), expected)
    torch.testing.assert_close(encoder(x, torch.zeros(8, dtype=torch.int64)), expected)


def test_evaluation_uses_the_statistics_of_the_order():
    encoder = separate_norms_by_order(small_video_encoder(8))
    clips = 5 + 3 * torch.randn(16, 3, 8, 24, 24)
    for order in range(3):
        encoder(torch.diff(clips, n=order, dim=2), torch.full((16,), order))
    encoder.eval()
    x = torch.diff(clips, dim=2)
    right, wrong = (encoder(x, torch.full((16,), order)) for order in (1, 0))
    assert (right - wrong).abs().max() > 0.05
    torch.testing.assert_close(encoder(x[:3], torch.full((3,), 1)), right[:3])


def test_batch_norms_are_still_found_and_can_be_synchronised():
    encoder = separate_norms_by_order(small_video_encoder(8))
    assert len(batch_norms(encoder)) == 9
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in converted.modules()) == 9


@pytest.mark.parametrize("batching", ["concat", "separate"])
def test_a_graph_trains_it_with_either_batching(batching):
    encoder = separate_norms_by_order(small_video_encoder(8, in_channels=1))
    schedule = DerivativeSchedule(1, period="step")
    branches = {"video": Branch(encoder, nn.Linear(64, 8))}
    model = Bootstrap(
        branches,
        {"first": "video", "second": "video"},
        target=Target(branches, buffers="own"),
        predictors={"video": mlp_predictor(8, 16)},
        plan=schedule.plan("video"),
        view_batching=batching,
    )
    seen = [0, 0, 0]
    for step in range(6):
        orders = schedule.orders(step)
        frames = 8 - max(orders)
        views = {
            name: {"x": torch.randn(2, 1, frames, 24, 24), "order_B": torch.full((2,), order)}
            for name, order in zip(("first", "second"), orders, strict=True)
        }
        out = model(views, step=step)
        out.loss.backward()
        model.after_step(step)
        for order in {*orders} if batching == "concat" else orders:
            seen[order] += 1
        target = model.target.branch("video").encoder
        for network in (encoder, target):
            assert [int(norm.num_batches_tracked) for norm in network.trunk[1].norms] == seen


def test_misuse_is_refused():
    encoder = separate_norms_by_order(small_video_encoder(8))
    x = torch.randn(8, 3, 8, 24, 24)
    with pytest.raises(ValueError, match="already"):
        separate_norms_by_order(encoder)
    with pytest.raises(ValueError, match="no BatchNorm"):
        separate_norms_by_order(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"outside 0 ... 2"):
        encoder(x, ORDERS + 1)
    with pytest.raises(ValueError, match="3 derivative orders were given for a batch of 8"):
        encoder(x, ORDERS[:3])
