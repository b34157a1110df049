"""Sample-contrastive and dimension-contrastive losses, and the duality between them (arXiv 2206.02574).

For any matrix ``Z`` of rows ``z_i`` and columns ``z_.j`` the two criteria differ by norms alone:
``dimension_contrast(Z) + sum_j |z_.j|^4 = sample_contrast(Z) + sum_i |z_i|^4``.

VICReg-exp and VICReg-ctr are **experimental**: the paper's normalisation and temperature for them are in an appendix
that we have not seen (spec: second-hand), and public reproductions report that they learn little.

Legend: ``V`` views, ``B`` local rows, ``G`` global rows (all ranks), ``D`` width. All compute in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import as_float, full_precision
from byol_ext.losses.sets import variance_hinge

Parts = dict[str, Tensor]


@full_precision
def sample_contrast(z_GD: Tensor) -> Tensor:
    """``|Z Z^T - diag|_F^2``: squared inner products of different samples (the paper's ``L_c``).

    Args:
        z_GD: Projections ``[G, D]``.
    """
    return _off_diagonal_squares(as_float(z_GD))


@full_precision
def dimension_contrast(z_GD: Tensor) -> Tensor:
    """``|Z^T Z - diag|_F^2``: squared inner products of different dimensions (the paper's ``L_nc``).

    Args:
        z_GD: Projections ``[G, D]``.
    """
    return _off_diagonal_squares(as_float(z_GD).T)


@full_precision
def standardize_dimensions(z: Tensor, *, eps: float = 1e-8, gather: bool = True) -> Tensor:
    """Centre each dimension and give it the norm ``sqrt(G / D)``, so that the mean squared row norm is 1 (eq. 14).

    SimCLR with it comes within a point of VICReg (72.6 against 73.3; spec: second-hand): apply it before
    :func:`byol_ext.losses.contrastive.nt_xent`.

    Args:
        z: Projections ``[..., B, D]``; leading dims (views) are standardised apart.
        eps: Smallest norm of a dimension to divide by; a constant dimension becomes zero.
        gather: Whether mean and norm are those of all ranks' rows.

    Returns:
        ``[..., B, D]``.

    Raises:
        ValueError: If there are fewer than two rows.

    Example:
        >>> z = standardize_dimensions(torch.tensor([[1.0, 5.0], [3.0, 1.0]]))
        >>> (z * 2**0.5).round().tolist()
        [[-1.0, 1.0], [1.0, -1.0]]
    """
    rows_BVD = as_float(z).movedim(-2, 0)
    all_GVD = gather_rows(rows_BVD) if gather else rows_BVD
    if len(all_GVD) < 2:
        raise ValueError("standardising takes at least two rows; set drop_last=True or a larger batch")
    mean_VD = all_GVD.mean(0)
    norm_VD = torch.linalg.vector_norm(all_GVD - mean_VD, dim=0).clamp_min(eps)
    scale = math.sqrt(len(all_GVD) / z.shape[-1])
    return ((rows_BVD - mean_VD) / norm_VD * scale).movedim(0, -2)


@full_precision
def vicreg_exp(
    z: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    temperature: float = 0.1,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """VICReg-exp (experimental): VICReg with :func:`exp_covariance` for the covariance term (eq. 11 and 12).

    Args:
        z: Projections ``[2, B, D]``.
        invariance_weight: Weight of the mean squared difference (VICReg's; the paper's are in its appendix).
        variance_weight: Weight of the hinge, averaged over the views.
        covariance_weight: Weight of the log-sum-exp, summed over the views.
        temperature: Of the log-sum-exp (ours).
        gather: Whether variance and covariance use the rows of all ranks.

    Returns:
        Scalar and parts ``invariance``, ``variance``, ``covariance`` (unweighted).

    Raises:
        ValueError: If ``z`` does not hold two views, two rows and two dimensions at least.
    """
    views_GD, invariance = _two_views(z, gather=gather)
    weights = (invariance_weight, variance_weight, covariance_weight)
    return _vicreg(views_GD, invariance, weights, temperature)


@full_precision
def vicreg_ctr(
    z: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    temperature: float = 0.1,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """VICReg-ctr (experimental): :func:`vicreg_exp` of the transposed matrices, a contrastive loss (eq. 13).

    The hinge then holds up the spread of each sample's coordinates, and the log-sum-exp repels samples from each other.
    With the default weights nothing keeps raw projections of all samples apart: give it those of
    :func:`standardize_dimensions` times ``sqrt(D)``, which learned in a small run where raw ones collapsed.

    Args:
        z: Projections ``[2, B, D]``.
        invariance_weight: Weight of the mean squared difference (VICReg's; the paper's are in its appendix).
        variance_weight: Weight of the hinge, averaged over the views.
        covariance_weight: Weight of the log-sum-exp, summed over the views.
        temperature: Of the log-sum-exp (ours).
        gather: Whether samples are compared with the rows of all ranks.

    Returns:
        Scalar and parts ``invariance``, ``variance``, ``covariance`` (unweighted).

    Raises:
        ValueError: If ``z`` does not hold two views, two rows and two dimensions at least.
    """
    views_GD, invariance = _two_views(z, gather=gather)
    weights = (invariance_weight, variance_weight, covariance_weight)
    return _vicreg([view_GD.T for view_GD in views_GD], invariance, weights, temperature)


@full_precision
def exp_covariance(z_GD: Tensor, *, temperature: float = 0.1) -> Tensor:
    """``mean_i log sum_{j != i} exp(C_ij / t)`` of the covariance with denominator ``G - 1`` (eq. 11).

    One log-sum-exp a row. Unlike the squared covariance it prefers negative entries to zero.

    Args:
        z_GD: Projections ``[G, D]``.
        temperature: What covariances are divided by.
    """
    x_GD = as_float(z_GD)
    centred_GD = x_GD - x_GD.mean(0)
    covariance_DD = centred_GD.T @ centred_GD / (len(x_GD) - 1)
    own_DD = torch.eye(len(covariance_DD), dtype=torch.bool, device=z_GD.device)
    return torch.logsumexp((covariance_DD / temperature).masked_fill(own_DD, float("-inf")), 1).mean()


def _vicreg(
    views_GD: list[Tensor], invariance: Tensor, weights: tuple[float, float, float], temperature: float
) -> tuple[Tensor, Parts]:
    a_GD, b_GD = views_GD
    variance = (variance_hinge(a_GD) + variance_hinge(b_GD)) / 2
    covariance = exp_covariance(a_GD, temperature=temperature) + exp_covariance(b_GD, temperature=temperature)
    loss = weights[0] * invariance + weights[1] * variance + weights[2] * covariance
    parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return loss, {name: part.detach() for name, part in parts.items()}


def _two_views(z: Tensor, *, gather: bool) -> tuple[list[Tensor], Tensor]:
    """All ranks' rows of each view, and the mean squared difference of the local ones."""
    if z.ndim != 3 or z.shape[0] != 2 or z.shape[2] < 2:
        raise ValueError(f"expected two views [2, B, D] of at least two dimensions, got {tuple(z.shape)}")
    a_BD, b_BD = as_float(z)
    views_GD = [gather_rows(view_BD) if gather else view_BD for view_BD in (a_BD, b_BD)]
    if len(views_GD[0]) < 2:
        raise ValueError("a variance needs at least two rows; set drop_last=True or a larger batch")
    return views_GD, (a_BD - b_BD).square().mean()


def _off_diagonal_squares(x_NM: Tensor) -> Tensor:
    gram_NN = x_NM @ x_NM.T
    return gram_NN.square().sum() - gram_NN.diagonal().square().sum()
