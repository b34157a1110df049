"""Coding rates: the total coding rate (TCR), EMP-SSL and NMCE's pre-training, and MCR^2 clustering.

The rate ``R(Z) = 1/2 logdet(I + d / (m eps) Z^T Z)`` of ``m`` unit rows is the number of nats that codes them up to the
distortion ``eps``: at most ``d/2 log(1 + 1/eps)``, where the rows spread evenly, and ``1/2 log(1 + d/eps)`` where they
coincide. The papers write ``eps^2``; their code has ``eps = .2`` without the square (EMP-SSL's loss.py), as here.

Legend: ``V`` views or patches, ``B`` local rows, ``G`` global rows (all ranks), ``D`` width, ``K`` clusters. All
compute in float32.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import full_precision, unit

Parts = dict[str, Tensor]


@full_precision
def coding_rate(z_GD: Tensor, *, eps: float = 0.2) -> Tensor:
    """``R(Z)`` in nats.

    Args:
        z_GD: Rows ``[G, D]``, made unit vectors here.
        eps: Distortion.

    Returns:
        Scalar.

    Example:
        >>> round(coding_rate(torch.eye(8)).item(), 5)
        7.16704
    """
    z_GD = unit(z_GD)
    rows, width = z_GD.shape
    # Z Z^T has the same determinant as Z^T Z; the smaller one is cheaper.
    gram = z_GD.T @ z_GD if width <= rows else z_GD @ z_GD.T
    return _half_logdet(gram * (width / (rows * eps)))


@full_precision
def emp_ssl(
    z: Tensor, *, eps: float = 0.2, similarity_weight: float = 200.0, gather: bool = True
) -> tuple[Tensor, Parts]:
    """EMP-SSL over many patches an image (arXiv 2304.03977): ``-mean_v R(Z_v) - lambda mean_v cos(z_v, mean_v z_v)``.

    The mean of unit vectors is the direction that maximises its summed cosine with them, so that it does not matter
    whether gradient goes through it. NMCE's pre-training (arXiv 2201.10000) is this loss over two views with
    ``similarity_weight=30``.

    Args:
        z: Projections ``[V, B, D]``.
        eps: Distortion of the coding rate.
        similarity_weight: ``lambda`` (official code: 200).
        gather: Whether the rates are those of all ranks' rows. Similarities are of local rows.

    Returns:
        Scalar and parts ``rate`` (maximised), ``similarity``.

    Raises:
        ValueError: If ``z`` does not have three dims or holds one view only.
    """
    if z.ndim != 3 or len(z) < 2:
        raise ValueError(f"emp_ssl takes at least two views [V, B, D], got {tuple(z.shape)}")
    unit_VBD = unit(z)
    rates = [coding_rate(gather_rows(view_BD) if gather else view_BD, eps=eps) for view_BD in unit_VBD]
    rate = torch.stack(rates).mean()
    # The mean cosine of unit vectors with their mean is the length of that mean.
    similarity = torch.linalg.vector_norm(unit_VBD.mean(0), dim=-1).mean()
    loss = -rate - similarity_weight * similarity
    return loss, {"rate": rate.detach(), "similarity": similarity.detach()}


@full_precision
def mcr2(z: Tensor, *, membership: Tensor, eps: float = 0.2, gather: bool = True) -> tuple[Tensor, Parts]:
    """MCR^2: minus the rate of all rows, plus that of each cluster (NMCE, arXiv 2201.10000).

    ``L = -R(Z) + sum_k m_k / 2m logdet(I + d / (m_k eps) Z^T diag(p_k) Z)`` with ``m_k = sum_i p_ik``, ``Z`` the
    normalised mean over the views. Zero when all rows are in one cluster.

    Args:
        z: Projections ``[V, B, D]``.
        membership: Probabilities ``[B, K]``, rows summing to one, such as those of :func:`gumbel_membership`.
        eps: Distortion.
        gather: Whether the rates are those of all ranks' rows.

    Returns:
        Scalar and parts ``rate``, ``cluster_rate``.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if z.ndim != 3 or membership.ndim != 2 or len(membership) != z.shape[1]:
        raise ValueError(
            f"mcr2 takes projections [V, B, D] and memberships [B, K], got {tuple(z.shape)}, {tuple(membership.shape)}"
        )
    z_GD, p_GK = unit(unit(z).mean(0)), membership.to(torch.promote_types(membership.dtype, torch.float32))
    if gather:
        z_GD, p_GK = gather_rows(z_GD), gather_rows(p_GK)
    rows, width = z_GD.shape
    rate = coding_rate(z_GD, eps=eps)
    mass_K = p_GK.sum(0)
    weighted_KDG = rearrange(p_GK, "g k -> k 1 g") * z_GD.T
    # The matrix of an empty cluster is zero already; the clamp only keeps 0 / 0 away.
    scale_K11 = rearrange(width / (mass_K.clamp_min(1e-8) * eps), "k -> k 1 1")
    cluster_rate = (mass_K / rows * _half_logdet(weighted_KDG @ z_GD * scale_K11)).sum()
    return cluster_rate - rate, {"rate": rate.detach(), "cluster_rate": cluster_rate.detach()}


@full_precision
def gumbel_membership(logits: Tensor, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Relaxed one-hot cluster memberships ``softmax((logits + g) / t)`` with Gumbel noise ``g``.

    Args:
        logits: Logits ``[B, K]`` of a cluster head.
        noise: Uniform numbers ``[B, K]`` in [0, 1), such as :func:`byol_ext.rng.keyed_uniform`'s.
        temperature: Towards 0 the rows become one-hot samples of ``softmax(logits)``.

    Returns:
        ``[B, K]``, rows summing to one.
    """
    # Keyed numbers have 24 bits: half a step more keeps both logarithms finite, in float64 also next to 1.
    uniform = noise.double() + 2.0**-25
    gumbel = -torch.log(-torch.log(uniform))
    return torch.softmax((logits.float() + gumbel.float()) / temperature, dim=-1)


def _half_logdet(matrix: Tensor) -> Tensor:
    """``1/2 logdet(I + M)`` of positive semi-definite matrices ``[..., N, N]``."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky(identity + matrix).diagonal(dim1=-2, dim2=-1).log().sum(-1)
