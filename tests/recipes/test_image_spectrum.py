"""The spectrum of a run: filters against theory, the predictor over checkpoints, invariances that are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from byol_ext.metrics.predictor_spectrum import linear_matrix
from byol_ext.training import Run
from recipes import image_spectrum
from recipes.image import fresh, load_run, train
from recipes.image_config import ImageConfig, clutter
from recipes.image_data import open_splits
from recipes.image_eval import branch_of
from recipes.image_methods import BRANCH, PREDICTOR
from recipes.image_spectrum import closed_form_filters, inspect, second_moment, sensitivity, theories
from recipes.image_spectrum_command import spectrum_command
from recipes.image_variants import with_method


def small(root: Path, method: str, **train_options: float) -> ImageConfig:
    config = with_method(clutter(), method)
    options = {"steps": 6, "log_every": 1, "monitor_every": 2, "checkpoint_every": 2} | train_options
    return replace(
        config,
        name=method,
        root=str(root),
        data=replace(config.data, batch=32),
        encoder=replace(config.encoder, channels=(8, 8), strides=(2, 2)),
        method=replace(config.method, projector=(16, 6), predictor_hidden=16),
        train=replace(config.train, **options),  # type: ignore[arg-type]
        eval=replace(config.eval, draws=1),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind of predictor: trained linear, closed form, MLP, none."""
    root = tmp_path_factory.mktemp("runs")
    for method in ("linear", "directpred", "simclr"):
        train(small(root, method))
    return root


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows and queries: linear programs take their time."""
    for name, value in {"ROWS": 200, "HULL_ROWS": 40, "HULL_QUERIES": 10, "HULL_DIMS": (1, 2)}.items():
        monkeypatch.setattr(image_spectrum, name, value)
    monkeypatch.setattr(image_spectrum, "SENSITIVITY_SAMPLES", 8)


def test_closed_forms_are_the_filters_of_theory() -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    s_D = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02], dtype=torch.float64)
    filters = {each.name: each for each in closed_form_filters(basis @ torch.diag(s_D) @ basis.mT)}
    assert len(filters) == 8
    assert all(each.error < 1e-4 for each in filters.values()), {n: f.error for n, f in filters.items()}
    torch.testing.assert_close(filters["DirectPred"].theory_D, (s_D / 4).sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(filters["NE"].gain_D, 2 * s_D / 4 - (s_D / 4) ** 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(filters["LRP"].gain_D, torch.ones(8, dtype=torch.float64), rtol=1e-4, atol=0)


def test_a_trained_linear_predictor_over_its_checkpoints(root: Path) -> None:
    found = inspect(root / "image" / "linear")
    assert sorted(found.predictors) == [2, 4, 6]
    assert theories(found.kind).keys() == {"projection", "s^1/4", "s^1/2", "s"}
    _, experiment, _ = load_run(root / "image" / "linear")
    matrix = linear_matrix(experiment.model.predictors[PREDICTOR])
    assert matrix is not None
    last = found.predictors[6]
    torch.testing.assert_close(last.singular_D, torch.linalg.svdvals(matrix.double()))
    torch.testing.assert_close(
        last.s_D, torch.linalg.eigvalsh(second_moment(found.trained.z_ND)).flip(0), rtol=1e-8, atol=1e-10
    )
    expected = float((last.singular_D / last.singular_D[0] - 1).square().mean().sqrt())
    assert found.metrics["predictor/polar_distance"] == pytest.approx(expected)
    assert found.metrics["trained/rankme"] != pytest.approx(found.metrics["untrained/rankme"])
    assert 0.0 <= found.metrics["hull/z/2"] <= 1.0
    assert found.hull["pixels"][1].queries == 10


def test_a_closed_form_is_held_against_its_own_filter(root: Path) -> None:
    found = inspect(root / "image" / "directpred")
    assert theories(found.kind).keys() == {"its own"}
    assert found.metrics["predictor/r2/its own"] > 0.999
    assert found.metrics["predictor/asymmetry"] < 1e-5


def test_pages(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear = root / "image" / "linear"
    assert spectrum_command([str(linear), str(root / "image" / "directpred"), "--label", "method.name", "--json"]) == 0
    saved = json.loads((linear / "spectrum.json").read_text())
    assert saved == json.loads(capsys.readouterr().out)
    assert len(saved["s"]) == 6
    assert saved["predictor"].keys() == {"2", "4", "6"}
    html = (linear / "spectrum.html").read_text()
    assert html.count("data:image/png") == 6
    assert "The linear predictor" in html
    assert spectrum_command([str(root / "image" / "simclr")]) == 0
    html = (root / "image" / "simclr" / "spectrum.html").read_text()
    assert "The linear predictor" not in html
    assert html.count("data:image/png") == 3


def test_runs_that_the_label_does_not_tell_apart_are_refused(root: Path) -> None:
    runs = [str(root / "image" / name) for name in ("linear", "directpred")]
    with pytest.raises(ValueError, match=r"equal method\.target\.tau.*--label"):
        spectrum_command(runs)
    with pytest.raises(ValueError, match="no such setting"):
        spectrum_command([*runs, "--label", "method.tau"])


class Centred(nn.Module):
    """Pixels less their mean: blind to a shift of brightness, linear in a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x - x.mean((1, 2, 3), keepdim=True)).flatten(1)


def test_sensitivity_knows_an_invariant_representation(tmp_path: Path) -> None:
    config = small(tmp_path, "byol")
    model = fresh(config).model.eval()
    branch_of(model).encoder = Centred()
    found = sensitivity(model, open_splits(config), config)
    assert found["augmentation/brightness, +-.4/sensitivity"] < 1e-8
    # f x with f uniform on 1 -+ .4 has variance .4^2 / 3: E |x|^2 against the variance over pictures.
    scale = found["augmentation/brightness, 1 +-.4/sensitivity"]
    assert scale == pytest.approx(found["augmentation/contrast, 1 +-.4/sensitivity"], rel=1e-4)
    assert scale > 0.4**2 / 3
    assert math.isfinite(found["augmentation/flip/sensitivity"])


def test_another_recipes_run_is_refused(root: Path, tmp_path: Path) -> None:
    Run.create(tmp_path / "other", recipe="image-supervised", config={"a": 1})
    with pytest.raises(ValueError, match="not of image"):
        inspect(tmp_path / "other")
    assert BRANCH == "image"
