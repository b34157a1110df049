r"""Simplex diffusion: a token is a CIR process a vocabulary entry, started at ``kappa`` for the token and 0 elsewhere.

The states ``Y`` are independent positive coordinates; ``X = Y / sum(Y)`` lies on the simplex and tends to
Dirichlet(alpha) (Richemond, Dieleman and Doucet 2022, arXiv 2210.14784, section 2.3). ``X`` at a finite time is not a
diffusion on the simplex by itself, so networks see ``Y``. Training needs no simulation (:meth:`SimplexDiffusion.noise`
is exact): cross-entropy on the token, as CDCD; the score is interpolated from the network's probabilities (CDCD, arXiv
2211.15089, 3.1):

.. math:: \hat s_j = \frac{\alpha_j - 1}{Y_j} - c + p_j \frac{z_j}{2 Y_j} \frac{I_{\alpha_j}(z_j)}{I_{\alpha_j-1}(z_j)}

with ``c`` and ``z`` of :mod:`byol_ext.diffusion.cir`. Samplers are in :mod:`byol_ext.diffusion.simplex_samplers`.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary; ``t_B`` is the time of the process, one a sequence.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from byol_ext.diffusion.bessel import log_bessel
from byol_ext.diffusion.cir import CIR
from byol_ext.diffusion.draws import Stream, keyed_normal
from byol_ext.losses.pair import as_float
from byol_ext.rng import keyed_uniform

VOCAB_LIMIT = 2048
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class SimplexDiffusion:
    """Noise and denoising formulas of simplex diffusion; stateless.

    Args:
        vocab: Vocabulary size. The state of a position has as many numbers.
        process: The process of a coordinate: one shape ``alpha`` for all (1, which is the fastest and strictly
            positive), or a tensor ``[V]`` on the device of the states.
        kappa: Start of the token's coordinate (10, ours).
        t_min: Smallest time (0.1, ours: the token is certain there).
        t_max: Largest time (8, ours: the token is forgotten there). Both count in units of ``1 / process.speed``.

    Raises:
        ValueError: If an argument lies outside its range or ``alpha`` has another length than the vocabulary.

    Warns:
        UserWarning: If the vocabulary exceeds 2048: states become large, and the true token's rank heavy-tailed.

    Example:
        >>> simplex, tokens, t = SimplexDiffusion(5), torch.tensor([[3, 0, 4]]), torch.tensor([0.1])
        >>> y = simplex.noise(tokens, t, generator=torch.Generator().manual_seed(0))
        >>> simplex.posterior(y, t).argmax(-1)
        tensor([[3, 0, 4]])
    """

    vocab: int
    process: CIR = field(default_factory=CIR)
    kappa: float = 10.0
    t_min: float = 0.1
    t_max: float = 8.0

    def __post_init__(self) -> None:
        if self.vocab < 2:
            raise ValueError(f"vocab={self.vocab} must be at least 2")
        if not self.kappa > 0.0:
            raise ValueError(f"kappa={self.kappa} must be positive")
        if not 0.0 < self.t_min < self.t_max:
            raise ValueError(f"times must be 0 < t_min < t_max, got t_min={self.t_min}, t_max={self.t_max}")
        alpha = self.process.shape
        if isinstance(alpha, Tensor) and alpha.shape != (self.vocab,):
            raise ValueError(f"alpha has the shape {tuple(alpha.shape)}; vocab={self.vocab} needs ({self.vocab},)")
        if self.vocab > VOCAB_LIMIT:
            warnings.warn(
                f"simplex diffusion over {self.vocab} tokens: a position holds that many numbers, and beyond "
                f"{VOCAB_LIMIT} the true token's rank is heavy-tailed; use CDCD's embeddings",
                stacklevel=3,
            )

    def start(self, tokens_BL: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """State of clean tokens: ``kappa`` times their one-hot vectors, ``[B, L, V]``."""
        return self.kappa * F.one_hot(tokens_BL, self.vocab).to(dtype)

    def noise(
        self, tokens_BL: Tensor, t_B: Tensor, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Exact draw of the state at ``t`` given the tokens.

        Args:
            tokens_BL: Tokens ``[B, L]``.
            t_B: Times ``[B]``, positive.
            generator: Source of randomness, on the device of the tokens.
            dtype: Of the result.

        Returns:
            ``[B, L, V]``, positive.
        """
        return self.process.sample(self.start(tokens_BL, dtype), _rows(t_B), generator=generator)

    def keyed_noise(self, tokens_BL: Tensor, t_B: Tensor, *, keys_B: Tensor) -> Tensor:
        r"""Exact draw of the state at ``t`` that depends on each sample's key alone.

        A coordinate is ``r/2`` times a chi-squared variable with ``m = 2 alpha`` degrees of freedom, the token's a
        noncentral one: sums of squares of ``m`` normal numbers, one of them shifted by
        :math:`\sqrt{2 \kappa k / r}`. The sum of two such squares is twice an exponential number.

        Args:
            tokens_BL: Tokens ``[B, L]``.
            t_B: Times ``[B]``, positive.
            keys_B: Keys ``[B]`` of :func:`byol_ext.rng.sample_keys`.

        Returns:
            ``[B, L, V]`` float32, positive.

        Raises:
            ValueError: If ``alpha`` is not one multiple of 1/2 for all coordinates; :meth:`noise` takes any.

        Example:
            >>> from byol_ext.rng import sample_keys
            >>> tokens, t, keys = torch.tensor([[3, 0], [1, 1]]), torch.ones(2), sample_keys(0, 0, torch.arange(2))
            >>> y = SimplexDiffusion(5).keyed_noise(tokens, t, keys_B=keys)
            >>> torch.equal(y[1:], SimplexDiffusion(5).keyed_noise(tokens[1:], t[1:], keys_B=keys[1:]))
            True
        """
        pairs, single = divmod(self._degrees_of_freedom(), 2)
        shape, tokens_BL1 = (*tokens_BL.shape, self.vocab), tokens_BL[..., None]
        half_BLV = torch.zeros(shape, device=tokens_BL.device)  # half the sum of squares
        if pairs:
            u = keyed_uniform(keys_B, pairs * shape[1] * self.vocab, stream=Stream.CHI_SQUARE)
            u = u.clamp(min=2.0**-25)  # the middle of the lowest cell, where the logarithm would be zero
            exponential = rearrange(-torch.log1p(-u), "b (p l v) -> b p l v", p=pairs, v=self.vocab)
            half_BLV = exponential.sum(1)
        if single:
            normal_BLV = keyed_normal(keys_B, shape[1] * self.vocab).view(shape)
            half_BLV = half_BLV + 0.5 * normal_BLV.square()
            normal_BL1 = normal_BLV.gather(-1, tokens_BL1)
        else:
            angle_BL = 2.0 * math.pi * keyed_uniform(keys_B, shape[1], stream=Stream.CHI_SQUARE_ANGLE)
            radius_BL1 = (2.0 * exponential[:, 0].gather(-1, tokens_BL1)).sqrt()
            normal_BL1 = radius_BL1 * angle_BL.cos()[..., None]
        r = self.process.spread(_rows(t_B.float()))
        mean = self.kappa * self.process.decay(_rows(t_B.float()))
        y_BLV = (r * half_BLV).scatter_add(-1, tokens_BL1, mean + normal_BL1 * (2.0 * mean * r).sqrt())
        return y_BLV.clamp(min=torch.finfo(y_BLV.dtype).tiny)  # rounding may leave less at the token

    def _degrees_of_freedom(self) -> int:
        alpha = self.process.shape
        if isinstance(alpha, Tensor) or not float(2.0 * alpha).is_integer():
            raise ValueError(
                f"alpha={alpha}: keyed noise is made of squared normal numbers and needs one alpha that is a multiple "
                "of 1/2, such as 1.0; noise() draws others from a generator"
            )
        return round(2.0 * alpha)

    def prior(self, like_BLV: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw of the state at equilibrium, Gamma(alpha, 1), with the shape, dtype and device of ``like_BLV``."""
        return self.process.equilibrium(like_BLV, generator=generator)

    def features(self, y_BLV: Tensor, t_B: Tensor) -> Tensor:
        """What a network sees: ``log(Y / r)`` with the mean and variance that other tokens' coordinates have.

        A coordinate that started at 0 is ``r`` times a Gamma(alpha) variable at all times, so that its feature has the
        same standard law at every time, and the token stands out. Ours; states below 1e-12 count as 1e-12.

        Args:
            y_BLV: States ``[B, L, V]``.
            t_B: Times ``[B]``.
        """
        y, r = as_float(y_BLV), self.process.spread(_rows(t_B))
        alpha = torch.as_tensor(self.process.shape, dtype=y.dtype, device=y.device)
        centred = y.clamp(min=_SMALLEST).log() - r.log() - torch.digamma(alpha)
        return centred / torch.polygamma(1, alpha).sqrt()

    def evidence(self, y_BLV: Tensor, t_B: Tensor) -> Tensor:
        """Log-likelihood of each token given the state, up to a constant a position: ``log 0F1(; alpha; z^2 / 4)``.

        Args:
            y_BLV: States ``[B, L, V]``.
            t_B: Times ``[B]``.

        Returns:
            ``[B, L, V]``. Added to a network's logits it is the analogue of CDCD's single-token term.
        """
        z = self._argument(as_float(y_BLV), t_B)
        return z + log_bessel(self.process.order, z)

    def posterior(self, y_BLV: Tensor, t_B: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """Exact probabilities of the tokens of independent positions.

        Args:
            y_BLV: States ``[B, L, V]``.
            t_B: Times ``[B]``.
            log_prior: Log-probabilities of the tokens, broadcast to ``[B, L, V]``; uniform if ``None``.
        """
        evidence = self.evidence(y_BLV, t_B)
        return (evidence if log_prior is None else evidence + log_prior).softmax(-1)

    def score(self, y_BLV: Tensor, t_B: Tensor, p_BLV: Tensor) -> Tensor:
        """Score interpolation: the expected score under the token probabilities.

        Args:
            y_BLV: States ``[B, L, V]``, positive.
            t_B: Times ``[B]``.
            p_BLV: Probabilities of the tokens, ``[B, L, V]``.
        """
        y = as_float(y_BLV)
        return self.process.order / y - 1.0 / self.process.spread(_rows(t_B)) + p_BLV * self.pull(y, t_B)

    def pull(self, y_BLV: Tensor, t_B: Tensor) -> Tensor:
        """Score of each coordinate were it the token's, less that were it not, ``[B, L, V]``.

        Args:
            y_BLV: States ``[B, L, V]``.
            t_B: Times ``[B]``.
        """
        y = as_float(y_BLV)
        return self.process.pull(y, theta_0=torch.full_like(y, self.kappa), t=_rows(t_B))

    def log_drift(self, y_BLV: Tensor, t_B: Tensor, p_BLV: Tensor) -> Tensor:
        r"""Probability-flow ODE of the logarithm, :math:`d \log Y / dt = b ((\alpha - 1) / Y - 1 - \hat s)`.

        The paper's form has no first term and holds for ``alpha = 1`` alone (spec: derived); here it cancels against
        the score's, for every ``alpha``.

        Args:
            y_BLV: States ``[B, L, V]``.
            t_B: Times ``[B]``.
            p_BLV: Probabilities of the tokens, ``[B, L, V]``.
        """
        k, r = self.process.decay(_rows(t_B)), self.process.spread(_rows(t_B))
        return self.process.speed * (k / r - p_BLV * self.pull(y_BLV, t_B))

    def bound_rate(self, y_BLV: Tensor, t_B: Tensor, *, tokens_BL: Tensor, p_BLV: Tensor) -> Tensor:
        r"""Integrand of the likelihood bound, :math:`b \sum_j Y_j (\partial_j \log p_{t|0} - \hat s_j)^2`.

        A token costs at most ``E CE(t_min) + integral of E bound_rate dt + E prior_gap`` nats (section 2.3).

        Args:
            y_BLV: States ``[B, L, V]`` drawn by :meth:`noise`.
            t_B: Times ``[B]``.
            tokens_BL: The tokens.
            p_BLV: Probabilities that a network gives, ``[B, L, V]``.

        Returns:
            Nats per token and unit of time, ``[B, L]``.
        """
        y = as_float(y_BLV)
        wrong = F.one_hot(tokens_BL, self.vocab) - p_BLV
        return self.process.speed * (y * (wrong * self.pull(y, t_B)).square()).sum(-1)

    def prior_gap(self, y_BLV: Tensor, t_B: Tensor, *, tokens_BL: Tensor) -> Tensor:
        """Log-density of the state given its tokens, less that at equilibrium; its mean is a Kullback-Leibler term.

        Args:
            y_BLV: States ``[B, L, V]`` drawn by :meth:`noise`, at ``t_max``.
            t_B: Times ``[B]``.
            tokens_BL: The tokens.

        Returns:
            Nats per token, ``[B, L]``.
        """
        y, t = as_float(y_BLV), _rows(t_B)
        k, r = self.process.decay(t), self.process.spread(t)
        others = (-self.process.shape * r.log() - y * k / r).expand_as(y).sum(-1)
        token = self.evidence(y, t_B).gather(-1, tokens_BL[..., None]).squeeze(-1)
        return others + token - (self.kappa * k / r).squeeze(-1)

    def _argument(self, y_BLV: Tensor, t_B: Tensor) -> Tensor:
        k, r = self.process.decay(_rows(t_B)), self.process.spread(_rows(t_B))
        return 2.0 * (self.kappa * k * y_BLV).sqrt() / r


def proportions(y_BLV: Tensor) -> Tensor:
    """The point on the simplex, ``X = Y / sum(Y)``, in float32 or wider.

    At equilibrium ``X`` is Dirichlet(alpha), and coordinate ``i`` is Beta(alpha_i, sum(alpha) - alpha_i).

    Args:
        y_BLV: States ``[..., V]``, positive.
    """
    y = as_float(y_BLV)
    return y / y.sum(-1, keepdim=True)


def _rows(t_B: Tensor) -> Tensor:
    return rearrange(t_B, "b -> b 1 1")
