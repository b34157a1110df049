"""What a result depends on besides its configuration: versions, device, source revision."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("byol_ext", "torch", "transformers", "accelerate", "numpy", "torchaudio")


def environment(device: torch.device | str | None = None) -> dict[str, Any]:
    """Versions, device, git revision and time, for ``results.json`` and checkpoints.

    Args:
        device: What computed; default: CUDA where PyTorch sees it.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "device": device_name(device),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": git_revision(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def process_device(choice: str = "auto") -> torch.device:
    """Device of this process among those of its launcher.

    Args:
        choice: ``cpu``, ``cuda``, or ``auto``: CUDA where PyTorch sees it.
    """
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def device_name(device: torch.device | str | None = None) -> str:
    """Name of the GPU or of the processor.

    Args:
        device: Which; default: CUDA where PyTorch sees it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_revision() -> str | None:
    """Commit of the package's source tree, with ``-dirty`` where tracked files changed; ``None`` outside a checkout."""
    here = Path(__file__).resolve().parent
    # A package installed under some other project's checkout must not report that project's commit.
    listed = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    commit = _git(here, "rev-parse", "HEAD")
    if listed is None or commit is None:
        return None
    return f"{commit}-dirty" if _git(here, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
