"""Is the embedding space used, or has it collapsed?

Source: `specs/core-ssl.md` section 11.

Legend: `N` or `B` rows (samples), `D` embedding width.

| measure | healthy | collapsed |
|---|---|---|
| `std_sqrt_d` of unit vectors | 1 | 0 |
| `rankme`, `effective_rank` | towards min(N, D) | 1 |
| `off_diagonal_correlation` | 0 | 1 |
| `uniformity` | about -4 | 0 |

Everything here is computed in float64 without gradient; spectra are of the matrix as given, not centred.
"""

import logging
import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)
RANK_MIN_ROWS = 8


@runtime_checkable
class LatentLike(Protocol):
    """Anything with a representation `y` and a projection `z`, such as `byol_ext.bootstrap.Latent`."""

    @property
    def y(self) -> Tensor:
        """Representation [..., D]."""

    @property
    def z(self) -> Tensor:
        """Projection [..., D]."""


@torch.no_grad()
def rankme(z_ND: Tensor, *, eps: float = 1e-7, normalized: bool = False) -> float:
    """RankMe: exp of the entropy of p = sigma / |sigma|_1 + eps, sigma the singular values (arXiv 2210.02885).

    The paper uses 25 600 embeddings of training images. Compare settings of one method only.

    Args:
        z_ND: embeddings, not centred here; N < D is fine, the rank is then at most N.
        eps: 1e-7 as in the paper; lifts a rank-one matrix of 32 columns to 1.00005.
        normalized: return entropy / log(D), in [0, 1], instead (0 for D = 1).

    Raises:
        ValueError: not a matrix, empty, or values that are not finite.

    >>> round(rankme(torch.diag(torch.tensor([2.0, 1.0, 1.0]))), 4)
    2.8284
    """
    entropy = _entropy(torch.linalg.svdvals(_matrix(z_ND)), eps=eps)
    if not normalized:
        return math.exp(entropy)
    return entropy / math.log(z_ND.shape[1]) if z_ND.shape[1] > 1 else 0.0


@torch.no_grad()
def effective_rank(z_ND: Tensor, *, center: bool = False) -> float:
    """Exp of the entropy of the normalised singular values, without RankMe's eps (spec slap section 12.3).

    Args:
        z_ND: embeddings.
        center: subtract the mean first. A collapsed cloud then shows the rank of its noise, so the default is not to.

    >>> effective_rank(torch.eye(4))
    4.0
    """
    x_ND = _matrix(z_ND)
    return math.exp(_entropy(torch.linalg.svdvals(x_ND - x_ND.mean(dim=0) if center else x_ND), eps=0.0))


@torch.no_grad()
def std_sqrt_d(z_ND: Tensor) -> float:
    """Mean over dimensions of the standard deviation of z / |z|, times sqrt(D): 1 spread over the sphere, 0 a point."""
    unit_ND = F.normalize(_matrix(z_ND), dim=1)
    return float(unit_ND.std(dim=0, correction=0).mean()) * math.sqrt(unit_ND.shape[1])


@torch.no_grad()
def off_diagonal_correlation(z_ND: Tensor) -> float:
    """Mean absolute correlation between two different dimensions: 0 decorrelated, 1 redundant.

    Constant dimensions are left out. With fewer than two that vary the answer is 1: one direction says it all.
    """
    x_ND = _matrix(z_ND)
    centred_ND = x_ND - x_ND.mean(dim=0)
    scale_D = x_ND.abs().amax(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    norm_D = centred_ND.norm(dim=0)
    unit_ND = centred_ND[:, norm_D > 1e-12 * scale_D * math.sqrt(len(x_ND))]
    width = unit_ND.shape[1]
    if width < 2:
        return 1.0
    correlation_DD = F.normalize(unit_ND, dim=0).T @ F.normalize(unit_ND, dim=0)
    return float((correlation_DD.abs().sum() - correlation_DD.diagonal().abs().sum()) / (width * (width - 1)))


@torch.no_grad()
def uniformity(z_ND: Tensor, *, t: float = 2.0, chunk: int = 1024) -> float:
    """Log of the mean over pairs i != j of exp(-t |x_i - x_j|^2) for unit vectors (Wang and Isola 2020).

    0 when all coincide; about -2t when pairs are orthogonal.
    """
    unit_ND = F.normalize(_matrix(z_ND), dim=1)
    n = len(unit_ND)
    if n < 2:
        raise ValueError(f"uniformity needs at least 2 rows, got {n}")
    total = 0.0
    for block_BD in unit_ND.split(chunk):
        total += float(torch.exp(-2 * t * (1 - block_BD @ unit_ND.T)).sum())
    itself = float(torch.exp(-2 * t * (1 - unit_ND.square().sum(dim=1))).sum())
    return math.log((total - itself) / (n * (n - 1)))


@torch.no_grad()
def ema_distance(*, online: nn.Module, target: nn.Module) -> float:
    """Relative distance |theta - xi| / |theta| between online and averaged parameters (0 right after a copy).

    Raises:
        ValueError: the two modules hold parameters of different names.
    """
    theta, xi = dict(online.named_parameters()), dict(target.named_parameters())
    if theta.keys() != xi.keys():
        raise ValueError(f"online and target differ in parameters: {sorted(theta.keys() ^ xi.keys())[:5]}")
    if not theta:
        raise ValueError("the modules have no parameters")
    distance = sum(float((value - xi[name]).double().square().sum()) for name, value in theta.items())
    norm = sum(float(value.double().square().sum()) for value in theta.values())
    return math.sqrt(distance / norm) if norm > 0 else 0.0


@torch.no_grad()
def linear_predictor_stats(weight_DD: Tensor) -> dict[str, float]:
    """How close a linear predictor P is to an orthogonal projection (arXiv 2302.04817).

    Returns:
        `asymmetry` |P - P'| / |P|, `idempotence_error` |P^2 - P| / |P| (both 0 for a projection), and `stable_rank`
        |P|_F^2 / |P|_2^2. A zero matrix gives zeros.

    >>> linear_predictor_stats(torch.eye(4))
    {'asymmetry': 0.0, 'idempotence_error': 0.0, 'stable_rank': 4.0}
    """
    p_DD = _matrix(weight_DD)
    if p_DD.shape[0] != p_DD.shape[1]:
        raise ValueError(f"a linear predictor is square, got {tuple(p_DD.shape)}")
    norm = float(p_DD.norm())
    if norm == 0.0:
        return {"asymmetry": 0.0, "idempotence_error": 0.0, "stable_rank": 0.0}
    return {
        "asymmetry": float((p_DD - p_DD.T).norm()) / norm,
        "idempotence_error": float((p_DD @ p_DD - p_DD).norm()) / norm,
        "stable_rank": norm**2 / float(torch.linalg.matrix_norm(p_DD, ord=2)) ** 2,
    }


class CollapseMonitor:
    """Watch latents during training: returns numbers, warns when they have collapsed, never stops or restarts a run.

    A tensor is judged collapsed when one of these holds:
    - `std_sqrt_d` < `std_threshold` (0.1; healthy runs of core-ssl section 15 lie above 0.25, collapsed at 0.02);
    - effective rank < `rank_threshold`, if min(rows, D) >= 8, since fewer cannot show a rank: by default
      min(rows, D) / 16, at least 2 and at most 8. Eight is the least that a healthy SLAP shows (slap section 16, T9);
      below it a few directions carry everything, even where their spread looks healthy;
    - a value is not finite.

    Only projections (`z`, or a plain tensor) are judged; for a representation `y` the RankMe is reported. The only
    state is counting: how many checks, and how many collapsed ones in a row. A warning is logged once `patience`
    collapsed checks come in a row, and again every 50. Networks often *start* nearly constant: raise `warmup_steps`
    if that trips it.

    Args:
        std_threshold: see above.
        rank_threshold: see above.
        warmup_steps: before this step nothing is judged; the numbers are returned all the same.
        patience: collapsed checks in a row before the first warning.
        max_rows: rows used of every tensor, the first ones (at 2048 x 512 a check takes about half a second a view
            on one CPU core).

    >>> monitor = CollapseMonitor()
    >>> monitor({"audio": torch.eye(16)}, step=0)["collapse/collapsed"]
    0.0
    """

    def __init__(
        self,
        *,
        std_threshold: float = 0.1,
        rank_threshold: float | None = None,
        warmup_steps: int = 0,
        patience: int = 1,
        max_rows: int = 2048,
    ) -> None:
        if max_rows < 2 or patience < 1:
            raise ValueError(f"max_rows = {max_rows}, patience = {patience}: expected at least 2 and at least 1")
        self.std_threshold = std_threshold
        self.rank_threshold = rank_threshold
        self.warmup_steps = warmup_steps
        self.patience = patience
        self.max_rows = max_rows
        self.checks = 0
        self.collapsed_in_a_row = 0

    def __call__(self, latents: Mapping[str, Tensor | LatentLike], *, step: int) -> dict[str, float]:
        """Measure every view.

        Args:
            latents: view name -> projection [..., D], or an object with `y` and `z`; leading dimensions are rows.
            step: optimiser step, for `warmup_steps` and the message.

        Returns:
            `collapse/{view}/z/{std_sqrt_d, rankme, effective_rank, off_diagonal_correlation, uniformity}`,
            `collapse/{view}/y/rankme`, `collapse/collapsed` (0 or 1: any view), `collapse/in_a_row`. Views with fewer
            than 2 rows are left out. Values that are not finite give NaN and count as collapsed.
        """
        out: dict[str, float] = {}
        reasons: list[str] = []
        for view, latent in latents.items():
            z = latent if isinstance(latent, Tensor) else latent.z
            z_ND = self._rows(z)
            if len(z_ND) < 2:
                continue
            values = _measure(z_ND)
            out |= {f"collapse/{view}/z/{name}": value for name, value in values.items()}
            if not isinstance(latent, Tensor):
                y_ND = self._rows(latent.y)
                finite = bool(torch.isfinite(y_ND).all())
                out[f"collapse/{view}/y/rankme"] = rankme(y_ND) if finite else math.nan
            reasons += self._reasons(view, values, size=min(z_ND.shape))
        collapsed = bool(reasons) and step >= self.warmup_steps
        self.checks += 1
        self.collapsed_in_a_row = self.collapsed_in_a_row + 1 if collapsed else 0
        since = self.collapsed_in_a_row - self.patience
        if since >= 0 and since % 50 == 0:
            logger.warning("step %d: the embeddings have collapsed: %s", step, "; ".join(reasons))
        return out | {
            "collapse/collapsed": float(collapsed),
            "collapse/in_a_row": float(self.collapsed_in_a_row),
        }

    def _rows(self, x: Tensor) -> Tensor:
        return x.detach().reshape(-1, x.shape[-1])[: self.max_rows].double()

    def _reasons(self, view: str, values: dict[str, float], *, size: int) -> list[str]:
        if math.isnan(values["std_sqrt_d"]):
            return [f"{view} holds NaN or Inf"]
        reasons = []
        if values["std_sqrt_d"] < self.std_threshold:
            reasons.append(f"{view} std*sqrt(D) = {values['std_sqrt_d']:.3g} < {self.std_threshold}")
        least = min(max(size / 16, 2.0), 8.0) if self.rank_threshold is None else self.rank_threshold
        if size >= RANK_MIN_ROWS and values["effective_rank"] < least:
            reasons.append(f"{view} effective rank = {values['effective_rank']:.3g} < {least:.3g}")
        return reasons


def _measure(z_ND: Tensor) -> dict[str, float]:
    """All measures of a projection, with one decomposition; NaN each when a value is not finite."""
    names = ("std_sqrt_d", "rankme", "effective_rank", "off_diagonal_correlation", "uniformity")
    if not bool(torch.isfinite(z_ND).all()):
        return dict.fromkeys(names, math.nan)
    sigma = torch.linalg.svdvals(z_ND)
    return {
        "std_sqrt_d": std_sqrt_d(z_ND),
        "rankme": math.exp(_entropy(sigma, eps=1e-7)),
        "effective_rank": math.exp(_entropy(sigma, eps=0.0)),
        "off_diagonal_correlation": off_diagonal_correlation(z_ND),
        "uniformity": uniformity(z_ND),
    }


def _matrix(x_ND: Tensor) -> Tensor:
    if x_ND.ndim != 2 or x_ND.numel() == 0:
        raise ValueError(f"expected a matrix [rows, width] that is not empty, got {tuple(x_ND.shape)}")
    if not bool(torch.isfinite(x_ND).all()):
        raise ValueError("the matrix holds NaN or Inf")
    return x_ND.detach().double()


def _entropy(sigma: Tensor, *, eps: float) -> float:
    """Entropy of singular values normalised to sum one, plus eps."""
    total = sigma.sum()
    p = sigma / total + eps if float(total) > 0 else sigma + eps
    return float(torch.special.entr(p).sum())
