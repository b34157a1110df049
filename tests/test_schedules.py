"""Schedules against their closed forms."""

import math

import pytest

from byol_ext import schedules


def test_c3_byol_decay():
    tau = schedules.ema_cosine(0.996, 100)
    assert [tau(0), tau(50), tau(100)] == pytest.approx([0.996, 0.998, 1.0], abs=1e-12)
    for k in (7, 33, 99):
        assert tau(k) == pytest.approx(1 - (1 - 0.996) * (1 + math.cos(math.pi * k / 100)) / 2, abs=1e-12)


def test_warmup_cosine():
    lr = schedules.warmup_cosine(4.0, steps=100, warmup=10, final=0.5)
    assert lr(0) == pytest.approx(0.4)
    assert lr(9) == pytest.approx(4.0)
    assert lr(10) == pytest.approx(4.0)
    assert lr(55) == pytest.approx(2.25)
    assert lr(100) == pytest.approx(0.5)
    assert lr(1000) == pytest.approx(0.5)


def test_others():
    assert schedules.linear(1.0, 3.0, 4)(1) == 1.5
    assert schedules.constant(2.0)(99) == 2.0
    assert schedules.warmup_constant(2.0, 4)(0) == 0.5
    assert schedules.warmup_constant(2.0, 0)(0) == 2.0
    assert schedules.ema_warmup(0.999)(0) == pytest.approx(0.1)
    assert schedules.ema_warmup(0.999)(10**6) == 0.999
    assert schedules.scale_decay(0.95, 1536, 768) == pytest.approx(0.95**2)
    assert schedules.at(0.3, 5) == 0.3
    assert schedules.at(lambda k: k / 2, 5) == 2.5


@pytest.mark.parametrize(
    "build",
    [
        lambda: schedules.cosine(0, 1, 0),
        lambda: schedules.warmup_cosine(1.0, 10, 11),
        lambda: schedules.ema_cosine(1.2, 10),
        lambda: schedules.scale_decay(0.9, 0, 4),
        lambda: schedules.warmup_constant(1.0, -1),
    ],
)
def test_bad_arguments(build):
    with pytest.raises(ValueError, match="must"):
        build()
