"""Losses with relations, and queues, on the rows of one rank: ``relation_ranks.py RANK WORLD FOLDER``.

With one rank it writes what the whole batch gives. Everything goes to ``FOLDER/WORLD-RANK.pt``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from byol_ext.losses.similarity_graph import graph_barlow, graph_info_nce, label_graph, spectral_contrastive, vic2
from byol_ext.losses.soft_targets import contrast_targets, soft_byol
from byol_ext.queue import Queue
from byol_ext.semantic_positives import semppl


def main(rank: int, world: int, folder: Path) -> None:
    if world > 1:
        rendezvous = f"file://{folder.resolve()}/rendezvous"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(0)
    everything = torch.randn(4, 8, 6, dtype=torch.float64, generator=generator)
    all_draws = torch.rand(8, 2, generator=generator)
    label = torch.tensor([0, 1, -1, 0, 2, -1, 1, 1]).chunk(world)[rank]
    queue = Queue(10, 6).double()
    queue.push(torch.randn(5, 6, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 2, 0, 1]))
    graph = label_graph(label)
    draw = all_draws.chunk(world)[rank]

    def pair(loss, z: Tensor):
        return loss(q=z[0], target=z[1])

    losses = {
        "spectral": partial(spectral_contrastive, graph=graph),
        "views": spectral_contrastive,
        "vic2": partial(vic2, graph=graph),
        "info_nce": partial(graph_info_nce, graph=graph),
        "barlow": partial(graph_barlow, graph=graph),
        "soft_byol": partial(pair, partial(soft_byol, neighbours=3)),
        "contrast": partial(pair, contrast_targets),
        "semppl": partial(semppl, label=label, draw=draw, queue=queue),
    }
    found = {}
    for name, loss in losses.items():
        z = everything.chunk(world, 1)[rank].clone().requires_grad_()
        value, _ = loss(z)
        value.backward()
        # Data parallelism averages over ranks what the gather has summed.
        found[name] = {"loss": value.detach(), "gradient": z.grad / world}
    queue.commit()
    rows, labels = queue.rows()
    found["queue"] = {"rows": rows, "labels": labels}
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
