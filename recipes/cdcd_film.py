"""How a sequence came about: what a model thought of each position at each step.

Legend: ``L`` positions, ``V`` vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Frame(NamedTuple):
    """One sequence at one step of its making; tensors on the CPU.

    Attributes:
        step: Index of the step.
        t: Noise level or time; of mdlm, the share of the wanted tokens that are hidden.
        tokens_L: The likeliest token of each position, int64; given and revealed ones as they are.
        p_L: Its probability, float32; 1 where given or revealed.
        entropy_L: Entropy of the position's probabilities in nats, float32; 0 where given or revealed.
    """

    step: int
    t: float
    tokens_L: Tensor
    p_L: Tensor
    entropy_L: Tensor


def frame(step: int, t: float, p_LV: Tensor, *, tokens_L: Tensor, open_L: Tensor) -> Frame:
    """A frame from a model's probabilities.

    Args:
        step: Index of the step.
        t: Noise level.
        p_LV: Probabilities of the tokens.
        tokens_L: Tokens, read where they are settled.
        open_L: Bool, true where they are not.

    Example:
        >>> p_LV = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
        >>> shown = frame(0, 1.0, p_LV, tokens_L=torch.tensor([0, 1]), open_L=torch.tensor([True, False]))
        >>> shown.tokens_L.tolist(), shown.p_L.tolist()
        ([1, 1], [0.75, 1.0])
    """
    p_L, best_L = p_LV.float().max(-1)
    entropy_L = torch.special.entr(p_LV.float()).sum(-1)
    shown = torch.where(open_L, best_L, tokens_L), torch.where(open_L, p_L, 1.0), torch.where(open_L, entropy_L, 0.0)
    return Frame(step, t, *(value.cpu() for value in shown))


def evenly(frames: list[Frame], count: int) -> list[Frame] | None:
    """``count`` of the frames, the first and the last among them; None for none.

    Example:
        >>> import math
        >>> empty = torch.zeros(0)
        >>> [shot.step for shot in evenly([Frame(i, math.nan, empty, empty, empty) for i in range(9)], 3)]
        [0, 4, 8]
    """
    if not count:
        return None
    if count >= len(frames):
        return frames
    places = torch.linspace(0, len(frames) - 1, count).round().long() if count > 1 else torch.tensor([len(frames) - 1])
    return [frames[place] for place in places.tolist()]
