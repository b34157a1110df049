"""ClutterDigits: small digits at random places among clutter and noise, a benchmark that a random encoder fails.

Core spec 15. Each of scikit-learn's digits is pasted at a uniform place on a 16x16 canvas by pixel-wise maximum with a
contrast U(.5, 1), likewise a 4x4 piece of another training digit with a contrast U(.4, 1), and Gaussian noise of
standard deviation .1 is added. What a picture is of is the only thing that two draws share. What the spec leaves open:
the permutation that splits the digits, and that noise is not clipped.

Legend: ``N`` digits of a split, ``B`` pictures, ``S = 16`` side of a canvas.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from byol_ext.images.packaged import Split, digits_split
from byol_ext.rng import keyed_uniform, sample_keys

SIDE, DIGIT, PIECE = 16, 8, 4
CONTRAST, CLUTTER, NOISE = (0.5, 1.0), (0.4, 1.0), 0.1
"""Ranges of the contrast of the digit and of the distractor, and standard deviation of the noise."""
_LAYOUT, _NOISE, _EVALUATION = 0x40000, 0x50000, 1 << 32


class ClutterDigits(Dataset[dict[str, Any]]):
    """The digits of a split, and the pictures made of them, drawn on the device and keyed by sample and view.

    An item is ``{"ids", "epochs", "labels"}``, numbers that PyTorch's collation turns into tensors.

    Args:
        split: 1,297 digits to train on, or 500 to test; both take their distractors from the training digits.
        seed: Seed of the pictures.

    Raises:
        ValueError: For another split.

    Example:
        >>> train = ClutterDigits("train")
        >>> views = train.views(torch.tensor([3, 5]), torch.tensor([0, 0]), names=("a", "b"))
        >>> len(train), views["a"].shape
        (1297, torch.Size([2, 1, 16, 16]))
    """

    def __init__(self, split: Split, *, seed: int = 0) -> None:
        self.split, self.seed = split, seed
        images, target = _digits()
        self.positions = torch.from_numpy(digits_split(split).copy())
        self.labels = target[self.positions].numpy()
        self._images, self._train = images, torch.from_numpy(digits_split("train").copy())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple("0123456789")

    @property
    def fingerprint(self) -> str:
        """Split and seed."""
        return f"clutter-digits-{self.split}-{self.seed}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an id (epoch 0) or of ``(id, epoch)``.

        Raises:
            IndexError: If there is no such id.
        """
        i, epoch = (int(index[0]), int(index[1])) if isinstance(index, tuple) else (int(index), 0)
        if not 0 <= i < len(self):
            raise IndexError(f"digit {i} of {len(self)}")
        return {"ids": i, "epochs": epoch, "labels": int(self.labels[i])}

    def views(self, ids_B: Tensor, epochs_B: Tensor, *, names: tuple[str, ...] = ("a", "b")) -> dict[str, Tensor]:
        """Independent draws of some digits.

        Args:
            ids_B: Positions in the split, int64.
            epochs_B: Epoch of each; another epoch gives other draws.
            names: Name of each view.

        Returns:
            By view, ``[B, 1, 16, 16]`` float32 on the device of ``ids_B``.
        """
        keys_B = sample_keys(self.seed, epochs_B, ids_B)
        return {name: self.draw(ids_B, keys_B, view=view) for view, name in enumerate(names)}

    def evaluation(self, *, draws: int = 4, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
        """The same pictures each time, ``draws`` of each digit (4, core spec 15), which no training epoch sees.

        Returns:
            Pictures ``[N * draws, 1, 16, 16]`` float32 and labels ``[N * draws]`` int64, those of a digit in a row.
        """
        ids = torch.arange(len(self), device=device).repeat_interleave(draws)
        draw = torch.arange(draws, device=device).repeat(len(self))
        pictures = self.draw(ids, sample_keys(self.seed, _EVALUATION - 1 - draw, ids))
        return pictures, torch.from_numpy(self.labels).to(device).repeat_interleave(draws)

    def draw(self, ids_B: Tensor, keys_B: Tensor, *, view: int = 0) -> Tensor:
        """Pictures of some digits.

        Args:
            ids_B: Positions in the split.
            keys_B: One key a picture.
            view: Number of the view; other numbers draw other pictures.

        Returns:
            ``[B, 1, 16, 16]`` float32.
        """
        device = ids_B.device
        u_nB = keyed_uniform(keys_B, 9, stream=_LAYOUT + view).T
        images_N88, train_N = self._images.to(device), self._train.to(device)
        digit_B = self.positions.to(device)[ids_B]
        other_B = train_N[_pick(u_nB[3], len(train_N) - int(self.split == "train"))]
        if self.split == "train":  # the last one takes the place of the digit itself: each other one is as likely
            other_B = torch.where(other_B == digit_B, train_N[-1], other_B)
        canvas = _paste(images_N88[digit_B] * _between(CONTRAST, u_nB[0]), u_nB[1], u_nB[2])
        piece_B44 = _cut(images_N88[other_B], u_nB[4], u_nB[5]) * _between(CLUTTER, u_nB[6])
        canvas = torch.maximum(canvas, _paste(piece_B44, u_nB[7], u_nB[8]))
        return (canvas + NOISE * _normal(keys_B, _NOISE + view).view_as(canvas))[:, None]


def _paste(pictures_Bhw: Tensor, u_top_B: Tensor, u_left_B: Tensor) -> Tensor:
    """Pictures at uniform places on black canvases, ``[B, S, S]``."""
    side = pictures_Bhw.shape[-1]
    top_B, left_B = (_pick(u_B, SIDE - side + 1) for u_B in (u_top_B, u_left_B))
    canvas_BSS = pictures_Bhw.new_zeros(len(pictures_Bhw), SIDE, SIDE)
    step = torch.arange(side, device=pictures_Bhw.device)
    rows_Bh1, columns_B1w = (top_B[:, None] + step)[..., None], (left_B[:, None] + step)[:, None]
    canvas_BSS[torch.arange(len(pictures_Bhw), device=step.device)[:, None, None], rows_Bh1, columns_B1w] = pictures_Bhw
    return canvas_BSS


def _cut(digits_B88: Tensor, u_top_B: Tensor, u_left_B: Tensor) -> Tensor:
    """A piece at a uniform place of each digit, ``[B, 4, 4]``."""
    top_B, left_B = (_pick(u_B, DIGIT - PIECE + 1) for u_B in (u_top_B, u_left_B))
    step = torch.arange(PIECE, device=digits_B88.device)
    rows_Bh1, columns_B1w = (top_B[:, None] + step)[..., None], (left_B[:, None] + step)[:, None]
    return digits_B88[torch.arange(len(digits_B88), device=step.device)[:, None, None], rows_Bh1, columns_B1w]


def _normal(keys_B: Tensor, stream: int) -> Tensor:
    """Standard normal numbers of each pixel, ``[B, S * S]``, by Box and Muller."""
    u_B2n = keyed_uniform(keys_B, SIDE * SIDE, stream=stream).unflatten(1, (2, -1))
    radius = (-2.0 * torch.log1p(-u_B2n[:, 0])).sqrt()
    angle = 2.0 * math.pi * u_B2n[:, 1]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)


def _between(limits: tuple[float, float], u_B: Tensor) -> Tensor:
    return (limits[0] + (limits[1] - limits[0]) * u_B)[:, None, None]


def _pick(u_B: Tensor, n: int) -> Tensor:
    """Integers in ``[0, n)``."""
    return (u_B * n).long()


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits, float32 ``[1797, 8, 8]`` in [0, 1], and which digit each is."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy((data.images / 16.0).astype(np.float32)), torch.from_numpy(data.target.astype(np.int64))
