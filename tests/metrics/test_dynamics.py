"""Agreement and separation against loops and scikit-learn; frozen clips and swapped backgrounds by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_similarity

from byol_ext.metrics.dynamics import class_separation, derivative_agreement, freeze_time, swap_backgrounds


def test_agreement_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(9, 5, generator=generator) + 1.0
    others = {1: raw + 0.5 * torch.randn(9, 5, generator=generator), 2: torch.randn(9, 5, generator=generator)}
    metrics = derivative_agreement(raw, others)
    assert len(metrics) == 6
    for order, other in others.items():
        cosine = cosine_similarity(raw.double(), other.double())
        own = np.trace(cosine) / 9
        assert metrics[f"dynamics/agreement_d{order}"] == pytest.approx(own, abs=1e-9)
        off = (cosine.sum() - np.trace(cosine)) / 72
        assert metrics[f"dynamics/agreement_d{order}_mismatched"] == pytest.approx(off, abs=1e-9)
        centred = cosine_similarity((raw - raw.mean(0)).double(), (other - other.mean(0)).double())
        assert metrics[f"dynamics/agreement_d{order}_centred"] == pytest.approx(np.trace(centred) / 9, abs=1e-6)


def test_a_collapsed_encoder_is_seen():
    metrics = derivative_agreement(torch.ones(6, 4), {1: torch.ones(6, 4)})
    assert metrics["dynamics/agreement_d1"] == pytest.approx(1.0)
    assert metrics["dynamics/agreement_d1_mismatched"] == pytest.approx(1.0)
    assert metrics["dynamics/agreement_d1_centred"] == 0.0


def test_separation_equals_scikit_learn_and_a_loop():
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(24) % 3
    features = torch.randn(24, 6, generator=generator) + 2 * torch.eye(6)[label]
    metrics = class_separation(features, label)
    expected = silhouette_score(features.numpy(), label.numpy(), metric="cosine")
    assert metrics["dynamics/silhouette"] == pytest.approx(expected, abs=1e-5)
    distance = 1 - cosine_similarity(features)
    within = [distance[i, j] for i in range(24) for j in range(24) if i != j and label[i] == label[j]]
    between = [distance[i, j] for i in range(24) for j in range(24) if label[i] != label[j]]
    assert metrics["dynamics/within"] == pytest.approx(np.mean(within), abs=1e-5)
    assert metrics["dynamics/between"] == pytest.approx(np.mean(between), abs=1e-5)
    noise = class_separation(torch.randn(400, 16, generator=generator), torch.arange(400) % 4, max_items=200)
    assert abs(noise["dynamics/silhouette"]) < 0.05


def frames(clip: torch.Tensor) -> list[float]:
    return clip[0, 0, :, 0, 0].tolist()


def test_frozen_clips():
    clip = torch.arange(16.0).reshape(1, 1, 16, 1, 1).expand(2, 3, 16, 4, 4)
    assert frames(freeze_time(clip, repeats=1)) == list(range(16))
    assert frames(freeze_time(clip)) == [7.0] * 16
    assert frames(freeze_time(clip, frame=3)) == [3.0] * 16
    assert frames(freeze_time(clip, repeats=8)) == [3, 4, 5, 6, *[7.0] * 8, 8, 9, 10, 11]
    assert frames(freeze_time(clip, frame=1, repeats=12)) == [0, 0, *[1.0] * 12, 2, 3]
    assert freeze_time(clip, repeats=15).shape == clip.shape
    for settings in ({"repeats": 0}, {"repeats": 17}, {"frame": 16}):
        with pytest.raises(ValueError, match="clips of 16 frames"):
            freeze_time(clip, **settings)


def test_backgrounds_swap_and_sprites_stay():
    clips = torch.zeros(2, 4, 6, 8, 1, dtype=torch.uint8)
    clips[0], clips[1] = 50, 150
    moving = torch.zeros(2, 4, 6, 8, dtype=torch.bool)
    for t in range(4):
        moving[0, t, 2, t], moving[1, t, 4, t] = True, True
    clips[moving] = 255
    swapped = swap_backgrounds(clips, moving, donor_B=torch.tensor([1, 0]))
    assert swapped.dtype == torch.uint8
    assert bool((swapped[moving] == 255).all())
    assert bool((swapped[0][~moving[0]] == 150).all())
    assert bool((swapped[1][~moving[1]] == 50).all())
    assert torch.equal(swap_backgrounds(clips, moving, donor_B=torch.tensor([0, 1])), clips)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected the same"):
        derivative_agreement(torch.randn(4, 3), {1: torch.randn(4, 2)})
    with pytest.raises(ValueError, match="NaN"):
        derivative_agreement(torch.full((4, 3), torch.nan), {})
    with pytest.raises(ValueError, match="at least two"):
        class_separation(torch.randn(4, 3), torch.zeros(4))
