"""MSBReg: multi-view centroid, singular-value and Brownian terms on top of a bootstrapped target (arXiv 2207.03552).

The centroid and the Brownian term follow third-party code, the singular-value term and its weight are ours (spec: the
paper's form is unverified). Each is a set loss of its own, to be weighted by its ``SetTerm``::

    SetTerm("centroid", ["a", "b", "a", "b"], centroid_distance, on=["q", "q", "target", "target"],
            predictor=["p", "p", None, None], couples=False)
    SetTerm("singular", ["a", "b"], singular_value_spread)
    SetTerm("brownian", ["a", "b"], brownian, weight=0.1, data=["noise"], couples=False)

with ``Ctx(data={"noise": noise_directions(keys, width=D)})``.

Legend: ``V`` views, ``B`` local rows, ``G`` global rows (all ranks), ``D`` width. All compute in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import full_precision, unit
from byol_ext.rng import keyed_uniform

Parts = dict[str, Tensor]

_NOISE_STREAM = 0x4D53_4201


@full_precision
def centroid_distance(z: Tensor) -> tuple[Tensor, Parts]:
    """Multi-view centroid: ``mean (2 - 2 cos(z_v, c))``, with ``c`` the mean of the image's unit target latents.

    Rows are not mixed, so that its ``SetTerm`` has ``couples=False``.

    Args:
        z: Predictions (or projections) of ``V`` views, then the target latents of as many: ``[2V, B, D]``.

    Returns:
        Scalar in [0, 4], and part ``target_spread``: mean ``1 - cos`` between targets and centroid.

    Raises:
        ValueError: If the first dim is odd.
    """
    if z.ndim != 3 or len(z) % 2:
        raise ValueError(
            f"centroid_distance takes as many targets as predictions, stacked [2V, B, D]; got {tuple(z.shape)}"
        )
    online_VBD, target_VBD = unit(z).chunk(2)
    centroid_BD = unit(target_VBD.mean(0))
    distance = (online_VBD - centroid_BD).square().sum(-1).mean()
    spread = 1.0 - (target_VBD * centroid_BD).sum(-1).mean()
    return distance, {"target_spread": spread.detach()}


@full_precision
def singular_value_spread(z: Tensor, *, gather: bool = True) -> tuple[Tensor, Parts]:
    """Ours for the singular-value term: ``|Z^T Z / G - I / D|_F^2`` of the unit rows of all views.

    Zero where the squared singular values are equal; with ``s`` these over ``G``, it is ``sum s^2 - 1/D``, and at most
    ``1 - 1/D``, where all rows coincide.

    Args:
        z: Projections ``[V, B, D]``.
        gather: Whether the matrix holds the rows of all ranks.

    Returns:
        Scalar, and part ``participation``: ``(sum s)^2 / sum s^2``, the number of directions in use.

    Raises:
        ValueError: If ``z`` does not have three dims.
    """
    if z.ndim != 3:
        raise ValueError(f"singular_value_spread takes projections [V, B, D], got {tuple(z.shape)}")
    rows_BVD = unit(z).movedim(1, 0)
    z_GD = (gather_rows(rows_BVD) if gather else rows_BVD).flatten(0, 1)
    rows, width = z_GD.shape
    # The squares of Z^T Z and Z Z^T add up to the same; the smaller matrix is cheaper.
    gram = z_GD.T @ z_GD if width <= rows else z_GD @ z_GD.T
    squares = (gram / rows).square().sum()
    return squares - 1.0 / width, {"participation": 1.0 / squares.detach()}


@full_precision
def brownian(z: Tensor, *, noise: Tensor) -> tuple[Tensor, Parts]:
    """Brownian diffusive term ``mean cos(z, n)``: a random kick, whose mean gradient is zero.

    Rows are not mixed, so that its ``SetTerm`` has ``couples=False``.

    Args:
        z: Projections ``[V, B, D]``.
        noise: Fresh random directions ``[B, D]``, shared by the views of an image, or ``[1, D]`` for one a batch.

    Returns:
        Scalar in [-1, 1], without parts. Third-party code weighs it .1.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if z.ndim != 3 or noise.shape not in (z.shape[1:], (1, z.shape[2])):
        raise ValueError(
            f"brownian takes projections [V, B, D] and noise [B, D] or [1, D], got {tuple(z.shape)}, "
            f"{tuple(noise.shape)}"
        )
    return (unit(z) * unit(noise)).sum(-1).mean(), {}


def noise_directions(keys_B: Tensor, *, width: int) -> Tensor:
    """Uniform unit vectors that depend on each sample's key alone.

    Args:
        keys_B: Keys ``[B]`` of :func:`byol_ext.rng.sample_keys`; with the step in the epoch's place they are fresh
            each step.
        width: Width ``D`` of the projections.

    Returns:
        ``[B, D]`` float32.

    Example:
        >>> from byol_ext.rng import sample_keys
        >>> noise_directions(sample_keys(0, 3, torch.arange(2)), width=5).norm(dim=1)
        tensor([1., 1.])
    """
    # Half a step of the 24 bits keeps the quantile finite, in float64 also next to 1.
    uniform_BD = keyed_uniform(keys_B, width, stream=_NOISE_STREAM).double() + 2.0**-25
    return unit(torch.special.ndtri(uniform_BD).float())
