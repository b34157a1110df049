"""Set losses written with a similarity graph (PAL, arXiv 2303.15256; formulas and scales: spec, second-hand).

A graph says which samples are related: the identity gives self-supervised learning (the views of a sample are related
to each other and to nothing else), ``Y Y^T`` of one-hot labels supervised learning, and an oracle's answers
(:mod:`byol_ext.active_pairs`) what lies between. It is over samples; two views are related when their samples are.

Legend: ``V`` views, ``B`` local samples, ``G`` samples of all ranks, ``D`` width; rows are views of samples, views
first: ``A = V B`` local ones, ``N = V G`` in all. All compute in float32.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from byol_ext.losses.gather import gather_rows, own_columns
from byol_ext.losses.pair import as_float, full_precision, unit

Parts = dict[str, Tensor]


class _Rows(NamedTuple):
    """Rows of a batch, and how they are related.

    Attributes:
        local_AD: This rank's rows.
        all_ND: The rows of all ranks.
        weight_AN: Their relation, a row's with itself included.
        own_A1: Column of each local row.
    """

    local_AD: Tensor
    all_ND: Tensor
    weight_AN: Tensor
    own_A1: Tensor


def label_graph(label: Tensor, others: Tensor | None = None) -> Tensor:
    """The graph of labels: 1 where two samples share one; a sample without label is related to itself.

    Args:
        label: Class numbers ``[B]``, -1 where unknown.
        others: Labels ``[G]`` of the columns, of all ranks in rank order; default: those of all ranks.

    Returns:
        ``[B, G]`` float32.

    Example:
        >>> label_graph(torch.tensor([0, -1, 0, -1])).tolist()
        [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    others = gather_rows(label) if others is None else others
    same = (label[:, None] == others) & (label >= 0)[:, None]
    return same.float().scatter(1, own_columns(label)[:, None], 1.0)


@full_precision
def spectral_contrastive(z: Tensor, *, graph: Tensor | None = None, gather: bool = True) -> tuple[Tensor, Parts]:
    """``|Z Z^T - G|_F^2 / N``; the optimum is the best approximation of ``G`` of rank ``D``.

    Args:
        z: Projections ``[V, B, D]``, used as they are.
        graph: Relation of local samples to all ``[B, G]``; default: the identity.
        gather: Whether rows are compared with those of all ranks.

    Returns:
        Scalar and parts ``related`` and ``unrelated``: what the two kinds of pairs contribute.

    Raises:
        ValueError: If the shapes do not fit.
    """
    rows = _rows(as_float(z), graph, gather=gather)
    square_AN = (rows.local_AD @ rows.all_ND.T - rows.weight_AN).square()
    related = (square_AN * (rows.weight_AN != 0)).sum(1).mean()
    unrelated = (square_AN * (rows.weight_AN == 0)).sum(1).mean()
    return related + unrelated, {"related": related.detach(), "unrelated": unrelated.detach()}


@full_precision
def vic2(
    z: Tensor, *, graph: Tensor | None = None, invariance_weight: float = 1.0, gather: bool = True
) -> tuple[Tensor, Parts]:
    """VIC^2: ``|Z^T Z / N - I|_F^2 + w sum_ij G_ij |z_i - z_j|^2 / (2N)``.

    With ``L`` the graph's Laplacian the second term is ``w tr(Z^T L Z) / N``: the optimum spans the ``D`` smallest
    eigenvectors of ``L`` (the largest of ``G`` where all degrees are equal), with squared singular value
    ``1 - w l / 2`` each, and none where the eigenvalue ``l`` is ``2 / w`` or more. Scale the graph accordingly.

    Args:
        z: Projections ``[V, B, D]``, used as they are.
        graph: Relation of local samples to all ``[B, G]``; default: the identity.
        invariance_weight: ``w``.
        gather: Whether statistics and pairs are those of all ranks.

    Returns:
        Scalar and parts ``covariance`` and ``invariance`` (unweighted).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> loss, _ = vic2(torch.eye(2).expand(1, 2, 2) * 2**0.5)
        >>> round(loss.item(), 5)
        0.0
    """
    rows = _rows(as_float(z), graph, gather=gather)
    covariance = _squared_gap(rows.all_ND.T @ rows.all_ND / len(rows.all_ND))
    # |z_i - z_j|^2 from differences would need [A, N, D].
    squares_AN = rows.local_AD.square().sum(1)[:, None] + rows.all_ND.square().sum(1)
    distance_AN = squares_AN - 2.0 * rows.local_AD @ rows.all_ND.T
    invariance = (rows.weight_AN * distance_AN).sum(1).mean() / 2.0
    parts = {"covariance": covariance.detach(), "invariance": invariance.detach()}
    return covariance + invariance_weight * invariance, parts


@full_precision
def graph_info_nce(
    z: Tensor,
    *,
    graph: Tensor | None = None,
    temperature: float = 0.1,
    reduction: Literal["mean", "sum"] = "mean",
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """InfoNCE with weighted positives: mean over rows of ``-sum_j G_ij log p_ij / sum_j G_ij``, ``j != i``.

    ``p_i`` is the softmax of the cosines of row ``i`` with all other rows. With two views and the default graph it is
    :func:`byol_ext.losses.contrastive.nt_xent`; with labels, supervised contrastive learning (arXiv 2004.11362).

    Args:
        z: Projections ``[V, B, D]``.
        graph: Relation of local samples to all ``[B, G]``; default: the identity.
        temperature: Softmax temperature.
        reduction: ``mean`` divides by the weight of a row's positives, ``sum`` (PAL's formula) does not.
        gather: Whether rows are compared with those of all ranks.

    Returns:
        Scalar and part ``accuracy``: how often the nearest row is a related one. A row that is related to no other
        counts zero.

    Raises:
        ValueError: If the shapes do not fit, or there is one row only.
    """
    rows = _rows(unit(z), graph, gather=gather)
    if len(rows.all_ND) < 2:
        raise ValueError("graph_info_nce compares a row with others and needs two at least; use a larger batch")
    logits_AN = (rows.local_AD @ rows.all_ND.T / temperature).scatter(1, rows.own_A1, float("-inf"))
    weight_AN = rows.weight_AN.scatter(1, rows.own_A1, 0.0)
    log_p_AN = torch.log_softmax(logits_AN, 1).scatter(1, rows.own_A1, 0.0)
    loss_A = -(weight_AN * log_p_AN).sum(1)
    if reduction == "mean":
        total_A = weight_AN.sum(1)
        loss_A = loss_A / torch.where(total_A > 0, total_A, 1.0)
    hit_A = weight_AN.gather(1, logits_AN.detach().argmax(1, keepdim=True)) > 0
    return loss_A.mean(), {"accuracy": hit_A.to(loss_A.dtype).mean()}


@full_precision
def graph_barlow(
    z: Tensor,
    *,
    graph: Tensor | None = None,
    off_diagonal_weight: float = 1.0,
    eps: float = 1e-8,
    gather: bool = True,
) -> tuple[Tensor, Parts]:
    """Barlow Twins with a graph: ``|C - I|^2`` with ``C = Z^T W Z`` of centred columns of norm one.

    ``W`` is the graph without a row's relation to itself, scaled by the degrees (``W_ij = G_ij / sqrt(d_i d_j)``), so
    that rows equal to their relatives reach the diagonal of ones. With two views and the default graph ``C`` is their
    cross-correlation, averaged over both directions.

    Args:
        z: Projections ``[V, B, D]``.
        graph: Relation of local samples to all ``[B, G]``, symmetric; default: the identity.
        off_diagonal_weight: 1 in PAL's formula, .005 in Barlow Twins (arXiv 2103.03230).
        eps: Smallest norm of a column to divide by.
        gather: Whether correlations are those of all ranks' rows.

    Returns:
        Scalar and parts ``on_diagonal`` and ``off_diagonal`` (unweighted).

    Raises:
        ValueError: If the shapes do not fit.
    """
    rows = _rows(as_float(z), graph, gather=gather)
    views = len(z)
    samples_BG = rows.weight_AN[: z.shape[1], : len(rows.all_ND) // views]
    weight_NN = (gather_rows(samples_BG) if gather else samples_BG).repeat(views, views).fill_diagonal_(0.0)
    degree_N = weight_NN.sum(1)
    root_N = torch.where(degree_N > 0, degree_N, 1.0).rsqrt()
    centred_ND = rows.all_ND - rows.all_ND.mean(0)
    unit_ND = centred_ND / torch.linalg.vector_norm(centred_ND, dim=0).clamp_min(eps)
    scaled_ND = unit_ND * root_N[:, None]
    correlation_DD = scaled_ND.T @ weight_NN @ scaled_ND
    on_diagonal = (correlation_DD.diagonal() - 1.0).square().sum()
    off_diagonal = _squared_gap(correlation_DD) - on_diagonal
    parts = {"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()}
    return on_diagonal + off_diagonal_weight * off_diagonal, parts


def _rows(z_VBD: Tensor, graph: Tensor | None, *, gather: bool) -> _Rows:
    if z_VBD.ndim != 3:
        raise ValueError(f"expected projections [V, B, D], got {tuple(z_VBD.shape)}")
    views, batch = z_VBD.shape[:2]
    all_GVD = z_VBD.movedim(0, 1)
    if gather:
        all_GVD = gather_rows(all_GVD)
    own_B = own_columns(z_VBD[0], gather=gather)
    if graph is None:
        graph = z_VBD.new_zeros(batch, len(all_GVD)).scatter(1, own_B[:, None], 1.0)
    if graph.shape != (batch, len(all_GVD)):
        raise ValueError(
            f"the graph must relate the {batch} local samples to all {len(all_GVD)}, got {tuple(graph.shape)}"
        )
    own_A = torch.cat([own_B + view * len(all_GVD) for view in range(views)])
    return _Rows(
        rearrange(z_VBD, "v b d -> (v b) d"),
        rearrange(all_GVD, "g v d -> (v g) d"),
        graph.to(z_VBD.dtype).repeat(views, views),
        own_A[:, None],
    )


def _squared_gap(matrix_DD: Tensor) -> Tensor:
    """``|M - I|_F^2``."""
    return (matrix_DD - torch.eye(len(matrix_DD), dtype=matrix_DD.dtype, device=matrix_DD.device)).square().sum()
