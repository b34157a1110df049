"""Two processes that gather give the loss and the gradient of the whole batch."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "scripts" / "losses_ranks.py"
MEAN_OF_PARTS = ("loss", "accuracy", "a_to_b", "b_to_a", "invariance", "similarity", "positive", "negative")


def test_two_ranks_equal_one(tmp_path):
    commands = [(0, 1), (0, 2), (1, 2)]
    processes = [subprocess.Popen([sys.executable, SCRIPT, str(r), str(w), tmp_path]) for r, w in commands]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    whole, first, second = (torch.load(tmp_path / f"{w}-{r}.pt") for r, w in commands)
    assert len(whole) == 11
    for name, expected in whole.items():
        gradient = torch.cat([first[name]["gradient"], second[name]["gradient"]], 1)
        torch.testing.assert_close(gradient, expected["gradient"], msg=lambda m, n=name: f"{n}: {m}")
        for key, value in expected.items():
            if key == "gradient":
                continue
            one, two = first[name][key], second[name][key]
            found = (one + two) / 2 if key in MEAN_OF_PARTS else one
            torch.testing.assert_close(found, value, msg=lambda m, n=name, k=key: f"{n} {k}: {m}")
