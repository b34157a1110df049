"""SIE's conditional predictor: a matrix generated from a group element acts on the latent (arXiv 2302.10283).

``rho_g(z) = W(g) z`` with ``W(g) = reshape(H g)`` and ``H`` linear without bias, so ``W`` is linear in ``g`` and
``W(0) = 0``: the predictor cannot ignore the group element and so cannot make the latent invariant. The elements are
relative rotations as quaternions, four numbers, and possibly differences of colours.

Legend: ``B`` batch, ``G`` numbers of a group element, ``D`` width; leading dims are free.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from byol_ext.predictors import Ctx, Prediction, Predictor


class Hypernetwork(nn.Module):
    """The linear map from a group element to a matrix, and that matrix on a latent.

    Args:
        element: ``G``: 4 for a quaternion, 6 with SIE's two colour differences.
        width: ``D`` of the latents it acts on.

    Example:
        >>> hyper = Hypernetwork(4, 8)
        >>> hyper(torch.randn(2, 8), g=torch.randn(2, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(self, element: int, width: int) -> None:
        super().__init__()
        self.element, self.width = element, width
        self.linear = nn.Linear(element, width * width, bias=False)

    def matrix(self, g: Tensor) -> Tensor:
        """``W(g)``: ``[..., G] -> [..., D, D]``; memory grows with batch times ``D^2``, unlike :meth:`forward`'s."""
        return rearrange(self.linear(g), "... (i j) -> ... i j", i=self.width)

    def forward(self, z: Tensor, *, g: Tensor) -> Tensor:
        """``W(g) z`` without forming ``W(g)``: ``[..., D], [..., G] -> [..., D]``.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if z.shape[-1] != self.width or g.shape[-1] != self.element or z.shape[:-1] != g.shape[:-1]:
            raise ValueError(
                f"expected latents [..., {self.width}] and group elements [..., {self.element}] of equal leading dims, "
                f"got {tuple(z.shape)} and {tuple(g.shape)}"
            )
        # Each of the G basis matrices acts on z; g weighs the results.
        basis = rearrange(self.linear.weight, "(i j) g -> (g i) j", i=self.width)
        images = rearrange(F.linear(z, basis), "... (g i) -> ... g i", g=self.element)
        return (g.to(images.dtype)[..., None] * images).sum(-2)


class GroupPredictor(Predictor):
    """Predicts the latent of a transformed view: the group element moves the equivariant coordinates.

    A graph with edges both ways has two of these over one hypernetwork, one that reads ``g`` and one that reads its
    inverse.

    Args:
        hyper: The hypernetwork; its width is that of the equivariant coordinates.
        data: Name in ``ctx.data`` of the group elements ``[..., G]``.
        invariant: Leading coordinates that pass unchanged: SIE's invariant half, where one latent holds both.

    Example:
        >>> predictor = GroupPredictor(Hypernetwork(4, 8), data="rotation", invariant=2)
        >>> predictor(torch.randn(3, 10), Ctx(data={"rotation": torch.randn(3, 4)})).q.shape
        torch.Size([3, 10])
    """

    def __init__(self, hyper: Hypernetwork, *, data: str = "g", invariant: int = 0) -> None:
        super().__init__()
        self.hyper, self.data, self.invariant = hyper, data, invariant

    def forward(self, z: Tensor, ctx: Ctx) -> Prediction:
        """``[..., invariant + D] -> [..., invariant + D]``.

        Raises:
            KeyError: If the step has no group elements.
        """
        if self.data not in ctx.data:
            raise KeyError(f"ctx.data lacks the group elements {self.data!r}; it has {sorted(ctx.data)}")
        moved = self.hyper(z[..., self.invariant :], g=ctx.data[self.data])
        return Prediction(torch.cat([z[..., : self.invariant].to(moved.dtype), moved], -1), {})


def canonical_quaternion(q: Tensor, *, scalar: Literal["first", "last"] = "last") -> Tensor:
    """The one of ``q`` and ``-q``, which are one rotation, whose scalar part is not negative.

    A linear hypernetwork would map the two to opposite predictions. Half-turns, whose scalar part is zero, take the
    sign at which their first component other than zero is positive; near them the choice jumps, as any choice must.

    Args:
        q: Quaternions ``[..., 4]``.
        scalar: Where the scalar part is: ``last`` as in SciPy, ``first`` as in most textbooks.

    Returns:
        ``[..., 4]``, of the norm given.

    Raises:
        ValueError: If the last dim is not 4.

    Example:
        >>> canonical_quaternion(torch.tensor([0.6, 0.0, 0.0, -0.8])).tolist()
        [-0.6000000238418579, -0.0, -0.0, 0.800000011920929]
    """
    if q.shape[-1] != 4:
        raise ValueError(f"expected quaternions [..., 4], got {tuple(q.shape)}")
    if scalar not in ("first", "last"):
        raise ValueError(f"scalar={scalar!r} is not one of 'first', 'last'")
    ordered = q if scalar == "first" else q.roll(1, -1)
    first = (ordered != 0).to(torch.uint8).argmax(-1, keepdim=True)
    return q * torch.where(ordered.gather(-1, first) < 0, -1.0, 1.0).to(q.dtype)
