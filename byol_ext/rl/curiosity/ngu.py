"""The bonus of Never Give Up (Badia et al., arXiv 2002.06038): novelty within the episode times novelty in a lifetime.

The agent that the paper trains with it (R2D2) is not here. Constants are those of RLE-Foundation/rllte.

Legend: ``T`` transitions, ``B`` environments, ``D`` embedding width, ``C`` capacity, ``J`` neighbours; time-major.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from byol_ext.rl.curiosity.bonus import Bonus, BonusLoss, Reward
from byol_ext.rl.curiosity.icm import InverseModel
from byol_ext.rl.curiosity.rewards import ForwardFilter, RewardNormaliser, RunningMeanStd
from byol_ext.rl.curiosity.rnd import Distillation, environment_ids
from byol_ext.rl.segment import Segment

_DISTANCES = 2**25
"""Distances held at once (128 MB)."""


class EpisodicMemory(nn.Module):
    """What each environment has seen in its present episode: a ring of the last ``C`` embeddings.

    The neighbours of a whole segment are found in a few calls: an embedding is visible to a query if it came before it,
    in its episode, and is not yet overwritten, which the order of insertion alone decides.

    Args:
        num_envs: ``B``.
        width: ``D``.
        capacity: ``C``; 30 000 in the paper (from memory), an episode's length is enough.
    """

    embedding: Tensor
    count: Tensor
    process_local = ("embedding", "count")

    def __init__(self, num_envs: int, width: int, *, capacity: int = 30_000) -> None:
        super().__init__()
        self.capacity = capacity
        self.register_buffer("embedding", torch.zeros(num_envs, capacity, width))
        self.register_buffer("count", torch.zeros(num_envs, dtype=torch.int64))

    @torch.no_grad()
    def query(self, phi: Tensor, *, first: Tensor, real: Tensor, neighbours: int, update: bool = True) -> Tensor:
        """Squared distances from each transition's next observation to its nearest predecessors in the episode.

        Args:
            phi: Embeddings of the observations ``[T + 1, B, D]``.
            first: Where an episode begins ``[T + 1, B]``.
            real: Which rows are transitions ``[T, B]``; the others are neither asked for nor remembered.
            neighbours: ``J``.
            update: Whether the memory is read and moved; false for other environments (any ``B``), whose episodes are
                taken to begin with the segment.

        Returns:
            ``[T, B, J]`` in increasing order, infinite where the episode has fewer predecessors.

        Raises:
            ValueError: If the memory moves and ``B`` is not ``num_envs``.
        """
        if update and phi.shape[1] != len(self.count):
            raise ValueError(f"the memory was made for num_envs={len(self.count)}, got {phi.shape[1]} environments")
        before = self.count if update else torch.zeros_like(first[0], dtype=torch.int64)
        inserted, episode, ordinal = self._order(first, real, before)
        distances = self._nearest(phi, inserted, episode, ordinal, before, neighbours)
        if update:
            self._insert(phi, inserted, episode, ordinal, before)
        return distances

    def _order(self, first: Tensor, real: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each observation is remembered, its episode in the segment, and its place in that episode.

        All ``[T + 1, B]``. Episode 0 is the one that the memory holds ``before`` embeddings of. An episode that begins
        with the last observation is left to the next segment, which begins with it.
        """
        arrived = torch.cat([(before == 0).unsqueeze(0), real])
        inserted = arrived | first
        inserted[-1] = arrived[-1]
        episode = first.long().cumsum(0)
        earlier = inserted.long().cumsum(0) - inserted.long()
        start = torch.where(first, earlier, 0).cummax(0).values
        return inserted, episode, earlier - start + torch.where(episode == 0, before, 0)

    def _nearest(
        self, phi: Tensor, inserted: Tensor, episode: Tensor, ordinal: Tensor, before: Tensor, neighbours: int
    ) -> Tensor:
        steps, batch = len(phi) - 1, phi.shape[1]
        held = min(int(before.max()), self.capacity)
        slot = torch.arange(held, device=phi.device)
        held_ordinal = before[:, None] - 1 - (before[:, None] - 1 - slot) % self.capacity
        keys = rearrange(phi[:-1], "t b d -> b t d")
        episode_of = torch.cat([torch.zeros_like(held_ordinal), episode[:-1].T], dim=1)
        ordinal_of = torch.cat([held_ordinal, ordinal[:-1].T], dim=1)
        exists = torch.cat([held_ordinal >= 0, inserted[:-1].T], dim=1)
        if held:
            keys = torch.cat([self.embedding[:, :held], keys], dim=1)
        reach = (ordinal + inserted.long())[:-1].T  # embeddings in memory when a transition's outcome is looked up
        found = []
        for rows in torch.arange(steps, device=phi.device).split(max(1, _DISTANCES // (batch * keys.shape[1]))):
            limit = held + int(rows[-1]) + 1
            age = reach[:, rows, None] - ordinal_of[:, None, :limit]
            visible = exists[:, None, :limit] & (episode_of[:, None, :limit] == episode.T[:, rows, None])
            visible &= (age > 0) & (age <= self.capacity)
            queries = rearrange(phi[rows + 1], "t b d -> b t d")
            distance = torch.cdist(queries, keys[:, :limit], compute_mode="donot_use_mm_for_euclid_dist").square()
            nearest = distance.masked_fill(~visible, torch.inf).topk(min(neighbours, limit), largest=False).values
            found.append(nn.functional.pad(nearest, (0, neighbours - nearest.shape[-1]), value=torch.inf))
        return rearrange(torch.cat(found, dim=1), "b t j -> t b j")

    def _insert(self, phi: Tensor, inserted: Tensor, episode: Tensor, ordinal: Tensor, before: Tensor) -> None:
        kept = inserted & (episode == episode[-1])
        count = torch.where(episode[-1] == 0, before, 0) + kept.sum(0)
        kept &= ordinal >= count - self.capacity  # one writer a slot
        row, column = kept.nonzero(as_tuple=True)
        self.embedding[column, ordinal[row, column] % self.capacity] = phi[row, column]
        self.count.copy_(count)


class NGU(Bonus):
    """``r = r_episodic min(max(alpha, 1), L)``.

    ``r_episodic = 1 / s`` with ``s = sqrt(sum_j e / (d_j + e)) + c`` over the nearest ``J`` of the episode, where
    ``d = max(d^2 / d_m^2 - xi, 0)`` and ``d_m^2`` is the running mean of squared distances; 0 where ``s > s_max``.
    ``alpha = 1 + (error - mean) / std`` of a distillation.

    Args:
        inverse: Inverse model, whose encoder gives the embedding (32 wide in the paper; from memory).
        lifelong: Distillation.
        memory: Episodic memory of this process's environments, as wide as the embedding.
        scale: Applied to ``r`` where given; the paper has none.
        neighbours: ``J``.
        kernel: ``e``.
        cluster: ``xi``, below which neighbours count as the same place.
        constant: ``c``.
        most_similar: ``s_max``.
        most_novel: ``L``.

    Raises:
        ValueError: If the memory is not as wide as the embedding.
    """

    def __init__(
        self,
        inverse: InverseModel,
        lifelong: Distillation,
        memory: EpisodicMemory,
        *,
        scale: ForwardFilter | RewardNormaliser | None = None,
        neighbours: int = 10,
        kernel: float = 1e-4,
        cluster: float = 0.008,
        constant: float = 1e-3,
        most_similar: float = 8.0,
        most_novel: float = 5.0,
    ) -> None:
        super().__init__()
        width = memory.embedding.shape[-1]
        if width != inverse.encoder.width:
            raise ValueError(f"the memory holds embeddings {width} wide, the encoder gives {inverse.encoder.width}")
        self.inverse, self.lifelong, self.memory, self.scale = inverse, lifelong, memory, scale
        self.distance_stats, self.error_stats = RunningMeanStd(()), RunningMeanStd(())
        self.neighbours, self.kernel, self.cluster = neighbours, kernel, cluster
        self.constant, self.most_similar, self.most_novel = constant, most_similar, most_novel

    def initial_memory(self, batch: int) -> dict[str, Tensor]:
        """Names of the environments, by which the distillation draws transitions."""
        return {"environment": environment_ids(batch, self.memory.count.device)}

    @torch.no_grad()
    def reward(self, segment: Segment, *, update: bool = True) -> Reward:
        """Episodic novelty times bounded lifelong novelty; statistics move first."""
        real_TB = segment.tail(segment.real)
        first = segment.first[segment.context :]
        phi = self.inverse.embed(segment)
        squared_TBJ = self.memory.query(phi, first=first, real=real_TB, neighbours=self.neighbours, update=update)
        if update:
            self.lifelong.update(segment)
        error_TB = self.lifelong.errors(segment)
        if update:
            self.distance_stats.update(squared_TBJ[real_TB.unsqueeze(-1) & squared_TBJ.isfinite()])
            self.error_stats.update(error_TB[real_TB])
        episodic_TB = self._episodic(squared_TBJ)
        alpha_TB = 1 + self.error_stats.normalise(error_TB)
        raw_TB = torch.where(real_TB, episodic_TB * alpha_TB.clamp(1, self.most_novel), 0.0)
        scaled_TB = raw_TB if self.scale is None else self.scale(raw_TB, real_TB, update=update)
        share = real_TB.sum().clamp_min(1)
        terms = {
            "episodic": torch.where(real_TB, episodic_TB, 0.0).sum() / share,
            "lifelong": torch.where(real_TB, error_TB, 0.0).sum() / share,
        }
        return Reward(scaled_TB, raw_TB, memory=dict(segment.memory), terms=terms)

    def loss(self, segment: Segment, *, step: int = 0) -> BonusLoss:
        """Loss of the inverse model plus that of the distillation."""
        inverse, terms = self.inverse.loss(self.inverse.embed(segment), segment)
        distillation = self.lifelong.loss(segment, step=step)
        terms |= {"inverse": inverse.detach(), "distillation": distillation.detach()}
        return BonusLoss(inverse + distillation, terms)

    def _episodic(self, squared_TBJ: Tensor) -> Tensor:
        mean = self.distance_stats.mean.float().clamp_min(1e-8)
        distance_TBJ = (squared_TBJ / mean - self.cluster).clamp_min(0)
        similarity_TB = (self.kernel / (distance_TBJ + self.kernel)).sum(-1).sqrt() + self.constant
        return torch.where(similarity_TB > self.most_similar, 0.0, 1 / similarity_TB)
