from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Forty tunes of two collections, all different."""
    rng = np.random.default_rng(0)
    root = tmp_path / "corpus"
    for collection, extra in (
        ("essenFolksong", "R: Liebes - Lied\nO: Europa, Luxemburg\n"),
        ("oneills1850", "R: jig\n"),
    ):
        (root / collection).mkdir(parents=True)
        tunes = []
        for number in range(20):
            bars = "|".join(" ".join(rng.choice(list("CDEFGABcdefg"), 4)) for _ in range(6))
            title = f"T: Tune of {collection} {chr(97 + number) * 3}\n"
            tunes.append(f"X:{number}\n{title}{extra}M:4/4\nL:1/4\nK:G\n{bars}|\n")
        (root / collection / "a.abc").write_text("\n".join(tunes))
    return root
