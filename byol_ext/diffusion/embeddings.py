"""Token embeddings on a sphere, and what tells whether they are healthy (CDCD 3.2).

With a regression loss, embeddings trained jointly with the denoiser collapse; with cross-entropy they would grow
without bound, since far apart is easy to classify. Hence the hard normalisation ``e_i = sqrt(d) R_i / |R_i|``, with
gradient through it: the gradient is orthogonal to ``R_i``, so ``|R_i|`` grows and slows the turning of row ``i``, which
is why the standard deviation at initialisation matters (spec 2).

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.losses.pair import as_float, full_precision
from byol_ext.metrics.spectrum import effective_rank
from byol_ext.training.optim import parameter_groups

_CHUNK_ROWS = 1024
_RANK_ROWS = 4096  # the singular values of more take seconds


class TokenEmbedding(nn.Module):
    """A table of rows with norm ``sqrt(d)``: each component has standard deviation 1 (CDCD 6.1).

    Args:
        vocabulary: Tokens ``V``.
        width: ``d`` (256 for the paper's vocabulary of 32k).
        init_std: Standard deviation of the free parameters ``R`` at initialisation (1e-3, CDCD 6.3).

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> table = TokenEmbedding(5, 16).table()
        >>> table.shape, [round(norm, 4) for norm in table.norm(dim=-1).tolist()]
        (torch.Size([5, 16]), [4.0, 4.0, 4.0, 4.0, 4.0])
    """

    no_decay = ("weight",)  # decay would shrink the rows, that is, speed up their turning

    def __init__(self, vocabulary: int, width: int = 256, *, init_std: float = 1e-3) -> None:
        super().__init__()
        if vocabulary < 1 or width < 1 or init_std <= 0.0:
            raise ValueError(f"vocabulary={vocabulary}, width={width} and init_std={init_std} must be positive")
        self.vocabulary, self.width = vocabulary, width
        self.weight = nn.Parameter(torch.randn(vocabulary, width) * init_std)

    def table(self) -> Tensor:
        """All embeddings ``[V, d]``, in float32 or wider, with gradient."""
        return normalised_rows(self.weight)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Embeddings ``[B, L, d]`` of tokens."""
        if tokens_BL.numel() < self.vocabulary:
            return normalised_rows(F.embedding(tokens_BL, self.weight))
        return F.embedding(tokens_BL, self.table())


def normalised_rows(rows: Tensor) -> Tensor:
    """Rows ``[..., d]`` at norm ``sqrt(d)``, in float32 or wider."""
    return F.normalize(as_float(rows), dim=-1) * math.sqrt(rows.shape[-1])


def embedding_groups(model: nn.Module, weight_decay: float, *, embedding_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser, with the tables' learning rate apart.

    Args:
        model: The model.
        weight_decay: Decay of weight matrices; tables have none.
        embedding_lr_scale: Factor on the learning rate of each :class:`TokenEmbedding` (1: the paper's).

    Returns:
        Groups with ``lr_scale``, as :func:`byol_ext.training.fit` reads it.
    """
    groups = parameter_groups(model, weight_decay)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, TokenEmbedding)}
    if embedding_lr_scale == 1.0 or not tables:
        return groups
    apart = [p for group in groups for p in group["params"] if id(p) in tables]
    rest = [group | {"params": [p for p in group["params"] if id(p) not in tables]} for group in groups]
    own = {"params": apart, "weight_decay": 0.0, "lr_scale": embedding_lr_scale}
    return [group for group in [*rest, own] if group["params"]]


@full_precision
def row_angles(*, before_Vd: Tensor, after_Vd: Tensor) -> Tensor:
    """Angle ``[V]`` between the rows of two tables, in radians; exact for small ones.

    Args:
        before_Vd: A table.
        after_Vd: Another of the same shape.
    """
    return _angles(before_Vd.double(), after_Vd.double())


@torch.no_grad()
@full_precision
def minimum_angle(table_Vd: Tensor) -> float:
    """Smallest angle between two rows of a table, in radians: near zero, two tokens have become one.

    Args:
        table_Vd: Table of at least two rows.

    Raises:
        ValueError: If it has fewer.

    Example:
        >>> round(minimum_angle(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.1]])), 3)
        1.471
    """
    if len(table_Vd) < 2:
        raise ValueError(f"a table of {len(table_Vd)} rows has no pair of rows")
    unit_Vd = F.normalize(as_float(table_Vd), dim=-1)
    smallest = math.inf
    for start in range(0, len(unit_Vd), _CHUNK_ROWS):
        chunk = unit_Vd[start : start + _CHUNK_ROWS]
        cosine = chunk @ unit_Vd.T
        rows = torch.arange(len(chunk), device=chunk.device)
        cosine[rows, start + rows] = -math.inf
        nearest = cosine.argmax(1)
        smallest = min(smallest, float(_angles(chunk.double(), unit_Vd[nearest].double()).min()))
    return smallest


class EmbeddingMonitor:
    """Diagnostics of a table during training; a monitor of ``fit`` for models with one :class:`TokenEmbedding`.

    Args:
        path: Names of the submodules that lead to the embedding.

    Example:
        >>> model = nn.ModuleDict({"embedding": TokenEmbedding(6, 8)})
        >>> monitor = EmbeddingMonitor(["embedding"])
        >>> sorted(monitor(model, None, 100))
        ['embedding/effective_rank', 'embedding/min_angle', 'embedding/row_norm']
        >>> monitor(model, None, 200)["embedding/angle_per_1k_steps"]
        0.0
    """

    def __init__(self, path: Sequence[str] = ("denoiser", "embedding")) -> None:
        self.path = tuple(path)
        self._before: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, model: nn.Module, out: object, step: int) -> dict[str, float]:
        """Mean ``|R_i|``, smallest angle, effective rank, and mean angle turned since the last call, per 1000 steps.

        Angles are in radians; the rank is that of the first 4096 rows.

        Raises:
            TypeError: If the path does not lead to a :class:`TokenEmbedding`.
        """
        embedding = model.get_submodule(".".join(self.path))
        if not isinstance(embedding, TokenEmbedding):
            raise TypeError(f"{'.'.join(self.path)} is a {type(embedding).__name__}, not a TokenEmbedding")
        table_Vd = embedding.table()
        values = {
            "embedding/row_norm": float(as_float(embedding.weight).norm(dim=-1).mean()),
            "embedding/min_angle": minimum_angle(table_Vd),
            "embedding/effective_rank": effective_rank(table_Vd[:_RANK_ROWS]),
        }
        if self._before is not None and step > self._before[0]:
            turned = float(row_angles(before_Vd=self._before[1], after_Vd=table_Vd).mean())
            values["embedding/angle_per_1k_steps"] = 1000.0 * turned / (step - self._before[0])
        self._before = step, table_Vd
        return values


def _angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between rows from their chord, which keeps small ones where a cosine would lose them."""
    chord = (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).norm(dim=-1)
    return 2.0 * torch.asin((chord / 2.0).clamp(max=1.0))
