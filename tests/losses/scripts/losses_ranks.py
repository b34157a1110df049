"""Set losses and their gradients on the rows of one rank: ``losses_ranks.py RANK WORLD FOLDER``.

With one rank it writes what the whole batch gives. Everything goes to ``FOLDER/WORLD-RANK.pt``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from byol_ext.losses.coding_rate import emp_ssl, mcr2
from byol_ext.losses.contrastive import directclr, nt_xent
from byol_ext.losses.decoupled import dcl
from byol_ext.losses.dual import standardize_dimensions, vicreg_ctr, vicreg_exp
from byol_ext.losses.msb import singular_value_spread
from byol_ext.whitening import DecorrelatedBatchNorm

Loss = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


def clusters(z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return mcr2(z, membership=torch.softmax(z[0, :, :3], 1))


def standardized(z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return nt_xent(standardize_dimensions(z))


def whitened(z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    layer = DecorrelatedBatchNorm(z.shape[-1], group_size=2).double()
    a, b = layer(z[0]), layer(z[1])
    return (a - b).square().mean(), {"running": layer.running_covariance.sum()}


LOSSES: dict[str, Loss] = {
    "nt_xent": partial(nt_xent, similarity="square"),
    "directclr": partial(directclr, coordinates=4),
    "dcl": dcl,
    "dclw": partial(dcl, weight_sigma=0.5, detach_weights=False),
    "standardized": standardized,
    "vicreg_exp": vicreg_exp,
    "vicreg_ctr": vicreg_ctr,
    "emp_ssl": emp_ssl,
    "mcr2": clusters,
    "singular": singular_value_spread,
    "whitened": whitened,
}


def main(rank: int, world: int, folder: Path) -> None:
    if world > 1:
        rendezvous = f"file://{folder.resolve()}/rendezvous"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    everything = torch.randn(2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, loss in LOSSES.items():
        z = everything.chunk(world, 1)[rank].clone().requires_grad_()
        value, parts = loss(z)
        value.backward()
        # Data parallelism averages over ranks what the gather has summed.
        found[name] = {"loss": value.detach(), "gradient": z.grad / world, **parts}
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
