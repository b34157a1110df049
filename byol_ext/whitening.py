"""Decorrelated batch norm, with shuffled groups: the last norm of a projector that keeps it from collapsing.

Feature decorrelation in self-supervised learning (arXiv 2105.00470): with whitened outputs the squared error or the
cosine between two views needs no predictor, no target network and no negatives.

Legend: ``B`` local rows, ``G`` global rows (all ranks), ``D`` width, ``K`` groups of ``S`` features.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from byol_ext.losses.gather import gather_rows
from byol_ext.losses.pair import as_float
from byol_ext.matrix_roots import newton_schulz
from byol_ext.rng import keyed_uniform, sample_keys

_ORDER_STREAM = 0x4442_4E01


class DecorrelatedBatchNorm(nn.Module):
    """Centre the features, and whiten them group by group with ``x Sigma_g^(-1/2)`` (ZCA) of the batch covariance.

    With ``shuffle`` every training forward draws new groups (Shuffled-DBN), so that no pair of features can stay
    correlated for want of a common group; the features come out in their own order. The inverse root is a
    Newton-Schulz iteration: unlike an eigendecomposition it has a gradient where eigenvalues coincide. Evaluation
    whitens the consecutive groups with running statistics.

    There is no learned scale. Statistics and outputs are in float32 at least, with autocast off.

    Args:
        num_features: Width ``D``.
        group_size: Features ``S`` of a group; divides ``D``, and is at most half of the batch.
        shuffle: Whether groups are drawn anew, or are always consecutive features (DBN).
        steps: Newton-Schulz steps. Directions whose variance lies below about ``1.5^(-2 steps)`` of the covariance's
            Frobenius norm stay below unit variance. More than 15 are for float64.
        eps: Added to the diagonal of the covariance.
        momentum: Weight of a batch in the running statistics.
        seed: Of the groups, which depend on it and on how many forwards there were.
        gather: Whether the statistics are those of all ranks, or each rank has its own.

    Raises:
        ValueError: If ``group_size`` does not divide the width.

    Example:
        >>> z = DecorrelatedBatchNorm(8, group_size=4, shuffle=False)(torch.randn(64, 8))
        >>> torch.allclose(z[:, :4].T @ z[:, :4] / 64, torch.eye(4), atol=1e-3)
        True
    """

    running_mean: Tensor
    running_covariance: Tensor
    forwards: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        group_size: int,
        shuffle: bool = True,
        steps: int = 12,
        eps: float = 1e-5,
        momentum: float = 0.1,
        seed: int = 0,
        gather: bool = True,
    ) -> None:
        super().__init__()
        if group_size < 1 or num_features % group_size:
            raise ValueError(f"group_size={group_size} does not divide num_features={num_features}")
        self.num_features, self.group_size, self.shuffle = num_features, group_size, shuffle
        self.steps, self.eps, self.momentum = steps, eps, momentum
        self.seed, self.gather = seed, gather
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_covariance", torch.eye(group_size).repeat(num_features // group_size, 1, 1))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))

    @property
    def couples_samples(self) -> bool:
        """Whether a row's output depends on the other rows of its batch: in training."""
        return self.training

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``.

        Raises:
            ValueError: If the width differs, or a training batch has fewer than ``2 * group_size`` rows.
        """
        if x.shape[-1] != self.num_features:
            raise ValueError(f"expected features of width {self.num_features}, got {tuple(x.shape)}")
        with torch.autocast(x.device.type, enabled=False):
            rows_BD = as_float(x).reshape(-1, self.num_features)
            white_BD = self._train_forward(rows_BD) if self.training else self._eval_forward(rows_BD)
        return white_BD.view(x.shape)

    def extra_repr(self) -> str:
        """The configuration, for ``print``."""
        return f"{self.num_features}, group_size={self.group_size}, shuffle={self.shuffle}, eps={self.eps}"

    def _train_forward(self, rows_BD: Tensor) -> Tensor:
        all_GD = gather_rows(rows_BD) if self.gather else rows_BD
        if len(all_GD) < 2 * self.group_size:
            raise ValueError(
                f"groups of {self.group_size} features need at least {2 * self.group_size} rows for a covariance, got "
                f"{len(all_GD)}; use a larger batch or a smaller group_size"
            )
        mean_D = all_GD.mean(0)
        centred_GD = all_GD - mean_D
        self._fold(mean_D, centred_GD)
        order_D = self._draw_order()
        covariance_KSS = self._covariance(centred_GD[:, order_D])
        white_BD = self._whiten((rows_BD - mean_D)[:, order_D], covariance_KSS)
        return white_BD[:, order_D.argsort()]

    def _eval_forward(self, rows_BD: Tensor) -> Tensor:
        return self._whiten(rows_BD - self.running_mean, self.running_covariance)

    def _covariance(self, centred_GD: Tensor) -> Tensor:
        groups_KGS = rearrange(centred_GD, "g (k s) -> k g s", s=self.group_size)
        return groups_KGS.mT @ groups_KGS / len(centred_GD)

    def _whiten(self, centred_BD: Tensor, covariance_KSS: Tensor) -> Tensor:
        ridge_SS = self.eps * torch.eye(self.group_size, dtype=covariance_KSS.dtype, device=covariance_KSS.device)
        inverse_root_KSS = newton_schulz(covariance_KSS + ridge_SS, steps=self.steps).inverse
        groups_KBS = rearrange(centred_BD, "b (k s) -> k b s", s=self.group_size)
        return rearrange(groups_KBS @ inverse_root_KSS, "k b s -> b (k s)")

    @torch.no_grad()
    def _fold(self, mean_D: Tensor, centred_GD: Tensor) -> None:
        self.running_mean.lerp_(mean_D.to(self.running_mean), self.momentum)
        self.running_covariance.lerp_(self._covariance(centred_GD).to(self.running_covariance), self.momentum)

    @torch.no_grad()
    def _draw_order(self) -> Tensor:
        """The features in the order of this forward's groups ``[D]``, the same on every rank."""
        if not self.shuffle:
            return torch.arange(self.num_features, device=self.forwards.device)
        key = sample_keys(self.seed, self.forwards, torch.zeros(1, dtype=torch.int64, device=self.forwards.device))
        self.forwards += 1
        return keyed_uniform(key, self.num_features, stream=_ORDER_STREAM)[0].argsort(stable=True)
