"""Sources of short sequences whose exact posterior is known, as oracles of samplers and bounds; all in float64.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from byol_ext.diffusion.score_interpolation import ScoreInterpolator
from byol_ext.diffusion.warp import PiecewiseLinearWarp
from byol_ext.diffusion.warp_fit import FittedWarp


def random_table(vocabulary: int, width: int, seed: int) -> Tensor:
    """Rows of norm sqrt(d) in random directions."""
    rows = torch.randn(vocabulary, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True) * width**0.5


@dataclass(frozen=True)
class Independent:
    """Positions drawn independently from one prior."""

    table_Vd: Tensor
    prior_V: Tensor

    @property
    def interpolator(self) -> ScoreInterpolator:
        return ScoreInterpolator(self.table_Vd)

    @property
    def entropy(self) -> float:
        """Nats a token."""
        return torch.special.entr(self.prior_V).sum().item()

    def posterior(self, x_BLd: Tensor, t_B: Tensor, previous_BLd: Tensor | None = None) -> Tensor:
        """Bayes' rule with squared distances, so that nothing is assumed of the norms."""
        distance_BLV = torch.cdist(x_BLd.double(), self.table_Vd).square()
        log_p_BLV = self.prior_V.log() - distance_BLV / (2 * t_B.double()[:, None, None] ** 2)
        return log_p_BLV.softmax(-1)

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.multinomial(self.prior_V, shape[0] * shape[1], True, generator=generator).view(shape)


@dataclass(frozen=True)
class Pairs:
    """Two positions with a joint law: each says something about the other."""

    table_Vd: Tensor
    joint_VV: Tensor

    @property
    def interpolator(self) -> ScoreInterpolator:
        return ScoreInterpolator(self.table_Vd)

    @property
    def entropy(self) -> float:
        """Nats a pair."""
        return torch.special.entr(self.joint_VV).sum().item()

    @property
    def conditional_entropy(self) -> float:
        """Nats of the second token given the first."""
        return self.entropy - torch.special.entr(self.joint_VV.sum(1)).sum().item()

    def posterior(self, x_BLd: Tensor, t_B: Tensor, previous_BLd: Tensor | None = None) -> Tensor:
        """Marginals of both positions given both noisy embeddings."""
        return self._marginals(self._evidence(x_BLd, t_B))

    def given_first(self, first_B: Tensor):
        """The posterior that knows the first token and not its noisy embedding."""

        def posterior(x_BLd: Tensor, t_B: Tensor, previous_BLd: Tensor | None = None) -> Tensor:
            assert (x_BLd[:, 0] == 0).all(), "a given position's x must be zero"
            evidence_BLV = self._evidence(x_BLd, t_B).clone()
            known_BV = torch.nn.functional.one_hot(first_B, len(self.table_Vd)).double()
            evidence_BLV[:, 0] = known_BV.log()
            return self._marginals(evidence_BLV)

        return posterior

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        index = torch.multinomial(self.joint_VV.flatten(), count, True, generator=generator)
        return torch.stack([index // len(self.table_Vd), index % len(self.table_Vd)], 1)

    def _evidence(self, x_BLd: Tensor, t_B: Tensor) -> Tensor:
        return -torch.cdist(x_BLd.double(), self.table_Vd).square() / (2 * t_B.double()[:, None, None] ** 2)

    def _marginals(self, evidence_BLV: Tensor) -> Tensor:
        log_BVV = self.joint_VV.log() + evidence_BLV[:, 0, :, None] + evidence_BLV[:, 1, None, :]
        p_BVV = log_BVV.flatten(1).softmax(-1).view_as(log_BVV)
        return torch.stack([p_BVV.sum(2), p_BVV.sum(1)], 1)


@pytest.fixture(scope="session")
def independent() -> Independent:
    prior = torch.arange(1, 13, dtype=torch.float64) ** -1.0
    return Independent(random_table(12, 16, seed=0), prior / prior.sum())


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    generator = torch.Generator().manual_seed(1)
    joint = torch.rand(5, 5, dtype=torch.float64, generator=generator) ** 3 + 2.0 * torch.eye(5, dtype=torch.float64)
    return Pairs(random_table(5, 16, seed=1), joint / joint.sum())


@pytest.fixture(scope="session")
def fitted_to_independent(independent):
    """A warp fitted to the cross-entropy of the exact posterior, on t in [0.2, 60]."""
    warp = FittedWarp(PiecewiseLinearWarp(0.2, 60.0, bins=50))
    generator = torch.Generator().manual_seed(2)
    for step in range(400):
        offset = torch.rand(1, dtype=torch.float64, generator=generator)
        t_B = warp.times(torch.remainder(offset + torch.arange(32) / 32, 1.0))
        tokens_BL = independent.draw((32, 32), generator)
        noise = torch.randn(32, 32, 16, dtype=torch.float64, generator=generator)
        p_BLV = independent.posterior(independent.table_Vd[tokens_BL] + t_B[:, None, None] * noise, t_B)
        ce_BL = -p_BLV.gather(-1, tokens_BL[..., None])[..., 0].log()
        warp.fit(step, t_B=t_B, cross_entropy_B=ce_BL.mean(1))
    return warp
