"""Two processes give losses with relations the value and gradient of the whole batch, and equal queues."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "scripts" / "relation_ranks.py"


def test_two_ranks_equal_one(tmp_path):
    commands = [(0, 1), (0, 2), (1, 2)]
    processes = [subprocess.Popen([sys.executable, SCRIPT, str(r), str(w), tmp_path]) for r, w in commands]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    whole, first, second = (torch.load(tmp_path / f"{w}-{r}.pt") for r, w in commands)
    queues = [found.pop("queue") for found in (whole, first, second)]
    assert len(whole) == 8
    for name, expected in whole.items():
        one, two = first[name], second[name]
        gradient = torch.cat([one["gradient"], two["gradient"]], 1)
        torch.testing.assert_close(gradient, expected["gradient"], msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close((one["loss"] + two["loss"]) / 2, expected["loss"], msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(queues[1]["rows"], queues[2]["rows"])
    assert torch.equal(queues[1]["labels"], queues[2]["labels"])
    # The rows come rank by rank, so their order differs from one process' when several views enter.
    for key in ("rows", "labels"):
        torch.testing.assert_close(queues[1][key].flatten().sort()[0], queues[0][key].flatten().sort()[0])
