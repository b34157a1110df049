"""Actions of persons: pool a video feature map inside each person's box and classify it.

Legend: ``B`` clips, ``D`` width, ``t, h, w`` size of the feature map, ``R`` boxes, ``C`` actions, ``S`` cells a side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from byol_ext._extras import require


class RoiHead(nn.Module):
    """Mean over time, RoIAlign, maximum over the cells, dropout, one linear layer (PySlowFast's AVA recipe, spec 6).

    Train it with :func:`torch.nn.functional.binary_cross_entropy_with_logits`: actions do not exclude each other.

    Args:
        width: Channels of the feature map.
        actions: Actions to tell.
        cells: Cells a side of a box (7).
        dropout: Share of features dropped in training (0.5).

    Raises:
        ImportError: Without torchvision; names the extra.

    Example:
        >>> head = RoiHead(8, actions=3).eval()
        >>> boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.25, 0.75, 0.75]])
        >>> head(torch.randn(2, 8, 4, 7, 7), box_R4=boxes, clip_R=torch.tensor([0, 1])).shape
        torch.Size([2, 3])
    """

    def __init__(self, width: int, *, actions: int, cells: int = 7, dropout: float = 0.5) -> None:
        super().__init__()
        self._roi_align = require("torchvision.ops", extra="vididi").roi_align
        self.cells = cells
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(width, actions)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, map_BDthw: Tensor, *, box_R4: Tensor, clip_R: Tensor) -> Tensor:
        """Logits of each box.

        Args:
            map_BDthw: Feature maps.
            box_R4: Boxes (x1, y1, x2, y2) as shares of the picture that the map covers.
            clip_R: Which clip each box lies in.

        Returns:
            ``[R, C]`` logits; their sigmoid is the probability of each action.

        Raises:
            ValueError: If boxes and clips do not fit together.
        """
        if box_R4.shape != (len(clip_R), 4):
            raise ValueError(f"boxes {tuple(box_R4.shape)} and {len(clip_R)} clip numbers: expected [R, 4] and [R]")
        if len(clip_R) and not 0 <= int(clip_R.min()) <= int(clip_R.max()) < len(map_BDthw):
            raise ValueError(f"clip numbers {int(clip_R.min())}..{int(clip_R.max())} of {len(map_BDthw)} clips")
        flat_BDhw = map_BDthw.mean(2)
        height, width = flat_BDhw.shape[-2:]
        scale_4 = torch.tensor([width, height, width, height], dtype=flat_BDhw.dtype, device=flat_BDhw.device)
        region_R5 = torch.cat([clip_R.to(flat_BDhw)[:, None], box_R4.to(flat_BDhw) * scale_4], dim=1)
        cells_RDSS = self._roi_align(flat_BDhw, region_R5, output_size=self.cells, aligned=True)
        logits_RC: Tensor = self.classify(self.dropout(cells_RDSS.amax((2, 3))))
        return logits_RC
