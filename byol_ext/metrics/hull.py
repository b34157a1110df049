"""Is a sample inside the convex hull of the training set (interpolation), or outside (extrapolation)?

Source: arXiv 2110.09485; `specs/core-ssl.md` section 12, `specs/extensions.md` section 13.

In many dimensions nearly nothing is inside, of pixels and embeddings alike: what counts is the dimension `d` of the
smallest affine space that holds the data, and N must grow like 2^(d/2). Hence the fraction by number of leading
principal components. Pixels and latents go through the same functions.

Legend: `N` training rows, `M` queries, `D` width, `K` leading components.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linprog
from scipy.stats import binomtest
from torch import Tensor, nn

from byol_ext.bootstrap import Out

Array = npt.NDArray[np.float64]
_SEPARATION_STEPS = 30
_FEASIBLE, _INFEASIBLE = 0, 2


@dataclass(frozen=True)
class HullFraction:
    """Share of queries inside a hull.

    Attributes:
        inside: the share.
        low: lower end of the exact (Clopper-Pearson) 95 % interval for the queries' population.
        high: upper end.
        queries: number of queries.
        dimension: dimension of the hull, at most the number of components asked for.
    """

    inside: float
    low: float
    high: float
    queries: int
    dimension: int


def hull_membership(train_ND: Tensor, query_MD: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Whether each query is a convex combination of the training rows.

    A linear program (`c >= 0`, `sum c = 1`, `c' X = x`; HiGHS) in whitened coordinates of the data's affine span, after
    two cheap proofs of the contrary: the bounding box, and a separating direction found by Gilbert's iteration.

    Args:
        train_ND: training rows.
        query_MD: queries.
        tolerance: directions in which the training rows spread less than this share of the widest count as flat; a
            query this far, in units of the widest spread, off the span of the others is outside. It is also the
            least gap of a separation.

    Returns:
        `[M]` bool, on the CPU. Points on the boundary count as inside, up to rounding.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
        RuntimeError: if the solver gives up on a query.

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> hull_membership(square, torch.tensor([[0.5, 0.25], [1.0, 1.0], [1.1, 0.5]])).tolist()
    [True, True, False]
    """
    train, query = _arrays(train_ND, query_MD)
    cloud = _Cloud.of(train, tolerance)
    return torch.from_numpy(_inside(cloud, query))


def hull_fraction(
    train_ND: Tensor, query_MD: Tensor, *, dims: Sequence[int] | None = None, tolerance: float = 1e-6
) -> dict[int, HullFraction]:
    """Share of queries inside the hull of the training rows, by number of leading principal components.

    Args:
        train_ND: training rows; their mean and components are used.
        query_MD: queries, drawn independently of them.
        dims: numbers of components. Default: the width of the data, which is no projection: there a query can leave
            the span of the training rows, too.
        tolerance: see `hull_membership`.

    Returns:
        A `HullFraction` for each of `dims`. About .1 s a query at N = 10 000 that is near the hull; those that a
        direction separates cost next to nothing.

    Raises:
        ValueError: numbers of components below 1, and those of `hull_membership`.

    >>> line = torch.linspace(0, 1, 11)[:, None]
    >>> hull_fraction(line, line + 0.05)[1].inside
    0.9090909090909091
    """
    train, query = _arrays(train_ND, query_MD)
    wanted = [train.shape[1]] if dims is None else list(dims)
    if not wanted or min(wanted) < 1:
        raise ValueError(f"dims = {wanted}: expected numbers of components, at least 1 each")
    whole = _Cloud.of(train, tolerance)
    found = {}
    for k in wanted:
        # The whole hull has flat directions, too, which a query may leave; a projection has none.
        cloud = whole if k >= train.shape[1] else whole.leading(k)
        inside = _inside(cloud, query)
        interval = binomtest(int(inside.sum()), len(inside)).proportion_ci(0.95, method="exact")
        found[k] = HullFraction(float(inside.mean()), interval.low, interval.high, len(inside), len(cloud.axes_KD))
    return found


class HullMonitor:
    """A `Monitor` of `byol_ext.training.fit`: the hull fraction of the step's latents.

    One half of the rows is asked whether it lies in the hull of the other. Batches are small, hence few components. It
    costs a linear program, milliseconds, for each query that is near the hull.

    Args:
        dims: numbers of leading principal components.
        on: `y` or `z`.
        max_rows: rows used of a view: the first half spans the hull, the second asks.
    """

    def __init__(self, *, dims: Sequence[int] = (2, 4, 8), on: str = "z", max_rows: int = 256) -> None:
        if on not in ("y", "z") or max_rows < 4 or not dims or min(dims) < 1:
            raise ValueError(f"on = {on!r}, max_rows = {max_rows}, dims = {dims}: expected 'y' or 'z', >= 4, >= 1 each")
        self.dims, self.on, self.max_rows = tuple(dims), on, max_rows

    def __call__(self, model: nn.Module, out: Out, step: int) -> dict[str, float]:
        """`hull/{view}/{y or z}/{k}`; views with fewer than 4 rows or values that are not finite are left out."""
        values: dict[str, float] = {}
        for view, latent in out.online.items():
            x = latent.y if self.on == "y" else latent.z
            rows = x.detach().reshape(-1, x.shape[-1])[: self.max_rows]
            if len(rows) < 4 or not bool(torch.isfinite(rows).all()):
                continue
            hull, queries = rows.chunk(2)
            for k, fraction in hull_fraction(hull, queries, dims=self.dims).items():
                values[f"hull/{view}/{self.on}/{k}"] = fraction.inside
        return values


@dataclass(frozen=True)
class _Cloud:
    """Training rows in whitened principal coordinates.

    Attributes:
        rows_NK: coordinates, unit variance, mean zero.
        mean_D: their origin.
        axes_KD: components, divided by the spread along them.
        basis_KD: components, orthonormal.
        slack: distance from the span up to which a query lies on it; infinite for a projection.
    """

    rows_NK: Array
    mean_D: Array
    axes_KD: Array
    basis_KD: Array
    slack: float
    tolerance: float

    @classmethod
    def of(cls, train_ND: Array, tolerance: float) -> "_Cloud":
        mean_D = train_ND.mean(axis=0)
        _, sigma, basis = np.linalg.svd(train_ND - mean_D, full_matrices=False)
        spread = sigma / np.sqrt(len(train_ND))
        kept = spread > max(tolerance * spread[0], 1e-12 * np.abs(train_ND).max())
        basis_KD = basis[kept]
        axes_KD = basis_KD / spread[kept][:, None]
        # Where nothing spreads, the scale of the values themselves says what rounding is.
        slack = tolerance * (spread[0] if kept.any() else np.abs(mean_D).max())
        return cls((train_ND - mean_D) @ axes_KD.T, mean_D, axes_KD, basis_KD, float(slack), tolerance)

    def leading(self, k: int) -> "_Cloud":
        """The projection on the first components."""
        return _Cloud(
            self.rows_NK[:, :k], self.mean_D, self.axes_KD[:k], self.basis_KD[:k], float("inf"), self.tolerance
        )


def _inside(cloud: _Cloud, query_MD: Array) -> npt.NDArray[np.bool_]:
    centred_MD = query_MD - cloud.mean_D
    query_MK = centred_MD @ cloud.axes_KD.T
    off_span_M = np.linalg.norm(centred_MD - centred_MD @ cloud.basis_KD.T @ cloud.basis_KD, axis=1)
    low_K, high_K = cloud.rows_NK.min(axis=0) - cloud.tolerance, cloud.rows_NK.max(axis=0) + cloud.tolerance
    open_M = (off_span_M <= cloud.slack) & ((query_MK >= low_K) & (query_MK <= high_K)).all(axis=1)
    if not cloud.rows_NK.shape[1]:
        return open_M
    # In one dimension the box is the hull.
    if cloud.rows_NK.shape[1] > 1:
        index = np.flatnonzero(open_M)
        index = index[~_separated(cloud, query_MK[index])]
        open_M = np.zeros(len(query_MD), dtype=bool)
        open_M[index] = [_feasible(cloud.rows_NK, query_MK[m]) for m in index]
    return open_M


def _separated(cloud: _Cloud, query_MK: Array) -> npt.NDArray[np.bool_]:
    """Queries that some direction proves to be outside: `<g, x_n> < <g, x>` for all n.

    Gilbert's iteration walks from the mean towards the hull's point nearest to the query; the way that is left is the
    direction.
    """
    rows_NK = cloud.rows_NK
    proven_M = np.zeros(len(query_MK), dtype=bool)
    near_MK = np.zeros_like(query_MK)
    for _ in range(_SEPARATION_STEPS):
        left = np.flatnonzero(~proven_M)
        if not len(left):
            break
        g = query_MK[left] - near_MK[left]
        products = g @ rows_NK.T
        best = products.argmax(axis=1)
        gap = (g * query_MK[left]).sum(axis=1) - products[np.arange(len(left)), best]
        proven_M[left] = gap > cloud.tolerance * np.linalg.norm(g, axis=1)
        step = rows_NK[best] - near_MK[left]
        length = (step * step).sum(axis=1)
        share = np.clip((g * step).sum(axis=1) / np.where(length > 0, length, 1.0), 0.0, 1.0)
        near_MK[left] += share[:, None] * step
    return proven_M


def _feasible(rows_NK: Array, x_K: Array) -> bool:
    rows, width = rows_NK.shape
    equalities = np.concatenate([rows_NK.T, np.ones((1, rows))])
    result = linprog(np.zeros(rows), A_eq=equalities, b_eq=np.append(x_K, 1.0), bounds=(0, None), method="highs")
    if result.status not in (_FEASIBLE, _INFEASIBLE):
        raise RuntimeError(f"HiGHS could not decide on {rows} rows of width {width}: {result.message}")
    return result.status == _FEASIBLE


def _arrays(train_ND: Tensor, query_MD: Tensor) -> tuple[Array, Array]:
    train, query = (x.detach().double().cpu().numpy() for x in (train_ND, query_MD))
    if train.ndim != 2 or query.ndim != 2 or 0 in train.shape or len(query) == 0 or train.shape[1] != query.shape[1]:
        raise ValueError(
            f"training rows {train.shape} and queries {query.shape}: expected two matrices of equal width, not empty"
        )
    if not (np.isfinite(train).all() and np.isfinite(query).all()):
        raise ValueError("training rows or queries hold NaN or Inf")
    return train, query
