"""The layering of the design, read from the imports of every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("audio", "text", "video", "images")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            module = node.module or ""
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def reaches(path: Path, *packages: str) -> list[str]:
    return [name for name in imports(path) for p in packages if name == p or name.startswith(p + ".")]


@pytest.mark.parametrize("path", files("byol_ext"), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_knows_no_recipe_and_no_other_room(path):
    assert not reaches(path, "recipes", "envs", "tests", "benchmarks")
    room = path.relative_to(ROOT / "byol_ext").parts[0]
    if room in ROOMS:
        assert not reaches(path, *(f"byol_ext.{other}" for other in ROOMS if other != room))
    if room in (
        "losses",
        "bootstrap.py",
        "target.py",
        "ema.py",
        "graph.py",
        "heads.py",
        "predictors.py",
        "schedules.py",
    ):
        assert not reaches(path, *(f"byol_ext.{r}" for r in (*ROOMS, "training", "metrics", "rl", "diffusion")))


@pytest.mark.parametrize("path", files("envs"), ids=lambda p: str(p.relative_to(ROOT)))
def test_environments_import_neither_torch_nor_the_library(path):
    assert not reaches(path, "torch", "byol_ext", "recipes")


@pytest.mark.parametrize("path", [p for d in ("byol_ext", "envs", "recipes") for p in files(d)], ids=str)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) < 400, f"{path} is about more than one thing"
