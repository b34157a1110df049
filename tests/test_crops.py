"""The random crop: always inside, and the centre where nothing fits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byol_ext.crops import crop_boxes


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0.01, 1.0),
    st.floats(0.2, 5.0),
    st.integers(0, 2**31),
)
def test_crops_lie_inside(height: int, width: int, area: float, aspect: float, seed: int) -> None:
    u = torch.rand(22, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sizes = torch.tensor([[height, width]] * 8)
    box = crop_boxes(u[2:], u[0], u[1], sizes, (area, 1.0), (min(aspect, 1.0), max(aspect, 1.0)))
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] >= 1).all()
    assert (box[:, :2] + box[:, 2:] <= sizes).all()


def test_a_crop_that_never_fits_is_the_centre() -> None:
    u = torch.rand(22, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    box = crop_boxes(u[2:], u[0], u[1], torch.tensor([[20, 400]]), (0.9, 1.0), (3 / 4, 4 / 3))
    assert box.tolist() == [[0, 187, 20, 27]]
