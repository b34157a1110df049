"""Pictures from tile codes, made where they are needed: tens of bytes an observation cross the bus, not thousands.

Legend: ``V`` tiles a side, ``t`` pixels a tile's side, ``P`` pictures by tile code, ``L`` cues.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

COVERED = 255


class TileRenderer(nn.Module):
    """Draws grids of tile codes; bit-equal to the environment's own renderer, whose tables it is given.

    The pictures' dtype is the output's: uint8 in 0..255, or float in 0..1. Stateless but for the tables, which follow
    the module to its device and are not saved with it.

    Args:
        pictures: ``[P, t, t, 3]``, array or tensor: picture of each tile code.
        cues: ``[L, t, t, 3]``: pictures for tiles of code 255, chosen by the observation's cue.
        channels_first: Return ``[..., 3, V * t, V * t]``, as convolutions take it, instead of channels last.

    Raises:
        ValueError: If the tables do not fit together.

    Example:
        >>> render = TileRenderer(torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 1, 3), torch.full((1, 1, 1, 3), 0.5))
        >>> render(torch.tensor([[255, 0], [1, 1]]), torch.tensor(0))[..., 0]
        tensor([[0.5000, 0.0000],
                [1.0000, 1.0000]])
    """

    pictures: Tensor

    def __init__(
        self, pictures: Tensor | np.ndarray, cues: Tensor | np.ndarray, *, channels_first: bool = False
    ) -> None:
        super().__init__()
        tables = [torch.as_tensor(table) for table in (pictures, cues)]
        shapes = [tuple(table.shape) for table in tables]
        if any(len(shape) != 4 for shape in shapes) or shapes[0][1:] != shapes[1][1:] or shapes[0][1] != shapes[0][2]:
            raise ValueError(f"expected pictures [P, t, t, 3] and cues [L, t, t, 3], got {shapes[0]} and {shapes[1]}")
        if shapes[0][0] > COVERED:
            raise ValueError(f"tile codes end at {COVERED - 1}, so at most {COVERED} pictures, got {shapes[0][0]}")
        self.register_buffer("pictures", torch.cat(tables), persistent=False)
        self.first_cue = shapes[0][0]
        self.channels_first = channels_first

    def forward(self, tiles: Tensor, cue: Tensor) -> Tensor:
        """Draw.

        Args:
            tiles: ``[..., V, V]`` integer tile codes below ``P``, or 255 where the cue is drawn.
            cue: ``[...]`` integers below ``L``.

        Returns:
            ``[..., V * t, V * t, 3]``, or channels first; same device as the module.

        Raises:
            ValueError: If the leading dimensions differ.
        """
        if tiles.shape[:-2] != cue.shape:
            raise ValueError(f"tiles {tuple(tiles.shape)} need a cue {tuple(tiles.shape[:-2])}, got {tuple(cue.shape)}")
        codes = torch.where(tiles == COVERED, self.first_cue + cue[..., None, None].long(), tiles.long())
        order = "... channel (v row) (w column)" if self.channels_first else "... (v row) (w column) channel"
        return rearrange(self.pictures[codes], f"... v w row column channel -> {order}")
