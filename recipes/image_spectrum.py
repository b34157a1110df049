"""Why a run's bootstrapping works, or does not: what ``byol-ext image spectrum`` measures.

Spectra of the latents; eigenvalues of a linear predictor over the checkpoints, its filter against theory, and its
distance from an orthogonal matrix; the closed forms' filters on the run's own second moment; how much of pixels and
latents lies inside the hull of others; how far augmentations move the representation. Core-ssl spec 5, 6, 11, 12.

Legend: ``N`` pictures, ``c, M, M`` what the encoder sees, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap
from byol_ext.closed_form import ClosedForm
from byol_ext.images.linear_maps import (
    brightness_scale,
    brightness_shift,
    contrast,
    horizontal_flip,
    uniform_translation,
)
from byol_ext.metrics.augmentation_moments import AugmentationSensitivity, RandomMap
from byol_ext.metrics.hull import HullFraction, hull_fraction
from byol_ext.metrics.predictor_spectrum import PredictorSpectrum, filter_fit, linear_matrix, predictor_spectrum
from byol_ext.metrics.spectrum import linear_predictor_stats, std_sqrt_d
from byol_ext.spectral_filters import (
    ClosedFormKind,
    LeastSquares,
    Neumann,
    NewtonSchulz,
    Power,
    Stiefel,
    Visser,
    filter_response,
)
from byol_ext.training import Run, load_weights, process_device
from byol_ext.training.checkpoint import list_checkpoints
from recipes.image import fresh, load_run
from recipes.image_config import CLUTTER, ImageConfig
from recipes.image_data import Splits, channels, features, open_splits
from recipes.image_eval import branch_of, calibrate_norms, project, ranks, raw_pixels
from recipes.image_methods import PREDICTOR

ROWS = 2048
"""Training pictures whose latents are looked at."""
HULL_ROWS, HULL_QUERIES = 1000, 200
HULL_DIMS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
SENSITIVITY_SAMPLES = 64
THEORIES: dict[str, ClosedFormKind] = {
    "projection": LeastSquares(),
    "s^1/4": Power(0.25),
    "s^1/2": Power(0.5),
    "s": Power(1.0),
}
"""What a trained linear predictor may have become: a projection (2302.04817), or a power (DirectPred: 1/2)."""
KINDS: dict[str, ClosedFormKind] = {
    "LRP": LeastSquares(),
    "NE": Neumann(),
    "Visser, 40": Visser(),
    "NS, 9": NewtonSchulz(),
    "NS², 7": NewtonSchulz(steps=7, times=2),
    "Stiefel, 9": Stiefel(),
    "DirectPred": Power(0.5),
    "DirectCopy": Power(1.0),
}


@dataclass(frozen=True)
class Filter:
    """A closed form on a second moment: what the matrix iteration makes of it, and what scalar theory says.

    Attributes:
        name: Of the closed form.
        gain_D: ``v_j' P v_j``, float32 arithmetic.
        theory_D: ``g(s_j)``.
    """

    name: str
    gain_D: Tensor
    theory_D: Tensor

    @property
    def error(self) -> float:
        """Largest difference, as a share of the largest value."""
        return float((self.gain_D - self.theory_D).abs().max() / self.theory_D.abs().max())


@dataclass(frozen=True)
class Latents:
    """Features of a network on training pictures, and of the same network before training.

    Attributes:
        y_ND: Representations.
        z_ND: Projections.
    """

    y_ND: Tensor
    z_ND: Tensor


@dataclass(frozen=True)
class RunSpectrum:
    """All that is looked at of one run.

    Attributes:
        config: Its configuration.
        trained: Its latents.
        untrained: Those before training, with calibrated BatchNorm statistics.
        predictors: Step of each kept checkpoint -> its linear predictor, see :func:`predictors_over_time`; empty where
            there is none.
        kind: The predictor's formula, if it has one.
        filters: Closed forms on the run's second moment.
        hull: ``pixels``, ``y``, ``z`` -> by number of components, the share of test pictures inside the training
            pictures' hull; empty without test pictures.
        metrics: Flat names to numbers.
    """

    config: ImageConfig
    trained: Latents
    untrained: Latents
    predictors: dict[int, PredictorSpectrum]
    kind: ClosedFormKind | None
    filters: list[Filter]
    hull: dict[str, dict[int, HullFraction]]
    metrics: dict[str, float]


def inspect(path: Path) -> RunSpectrum:
    """Look at a trained run.

    Args:
        path: Run directory.

    Raises:
        FileNotFoundError: If there is no run, or it has no complete checkpoint.
    """
    config, experiment, run = load_run(path)
    splits = open_splits(config)
    before = fresh(config).model.to(process_device(config.train.device))
    calibrate_norms(branch_of(before), splits.train, config)
    trained, untrained = latents(experiment.model, splits, config), latents(before, splits, config)
    predictors = predictors_over_time(run, config, splits)
    predictor = {**experiment.model.predictors}.get(PREDICTOR)
    kind = predictor.kind if isinstance(predictor, ClosedForm) else None
    filters = closed_form_filters(second_moment(trained.z_ND))
    hull = hulls(experiment.model, splits, config)
    metrics = {f"trained/{name}": value for name, value in _latent_metrics(trained, experiment.model).items()}
    metrics |= {f"untrained/{name}": value for name, value in _latent_metrics(untrained, before).items()}
    matrix = linear_matrix(predictor) if predictor is not None else None
    if matrix is not None:
        last = predictors[max(predictors)]
        measured = linear_predictor_stats(matrix) | last.summary()
        metrics |= {f"predictor/{name}": value for name, value in measured.items()}
        metrics |= {f"predictor/r2/{name}": filter_fit(last, theory).r2 for name, theory in theories(kind).items()}
    metrics |= {f"filter_error/{each.name}": each.error for each in filters}
    metrics |= {f"hull/{name}/{k}": share.inside for name, shares in hull.items() for k, share in shares.items()}
    metrics |= sensitivity(experiment.model, splits, config)
    metrics |= {f"untrained/{name}": value for name, value in sensitivity(before, splits, config).items()}
    return RunSpectrum(config, trained, untrained, predictors, kind, filters, hull, metrics)


def theories(kind: ClosedFormKind | None) -> dict[str, ClosedFormKind]:
    """What a predictor's gains are held against: its own formula, or the candidates for a trained one."""
    return {"its own": kind} if kind is not None else THEORIES


def latents(model: Bootstrap, splits: Splits, config: ImageConfig) -> Latents:
    """Latents of evenly spaced training pictures, the model in evaluation mode."""
    branch = branch_of(model)
    y_ND = _spaced(features(branch.encoder, splits.train, config).x_ND, ROWS)
    return Latents(y_ND, project(branch.projector, y_ND))


def predictors_over_time(run: Run, config: ImageConfig, splits: Splits) -> dict[int, PredictorSpectrum]:
    """The linear predictor of each kept checkpoint in the eigenbasis of the second moment of its inputs.

    That is the moment that a closed form was computed from, which it keeps; for a trained predictor, that of the
    evaluation pictures.

    Args:
        run: The run.
        config: Its configuration.
        splits: Its pictures.

    Returns:
        By step; empty if the method has no linear predictor.
    """
    model = fresh(config).model.to(process_device(config.train.device)).eval()
    if PREDICTOR not in model.predictors or linear_matrix(model.predictors[PREDICTOR]) is None:
        return {}
    found = {}
    for path in list_checkpoints(run.checkpoints):
        step = load_weights(model, path)
        predictor = model.predictors[PREDICTOR]
        matrix = linear_matrix(predictor)
        assert matrix is not None
        if isinstance(predictor, ClosedForm):
            moment = predictor.moments[0]
        else:
            moment = second_moment(latents(model, splits, config).z_ND)
        found[step] = predictor_spectrum(matrix.cpu(), s_DD=moment.cpu())
    return found


def second_moment(z_ND: Tensor) -> Tensor:
    """``Z'Z / N`` in float64, not centred."""
    return z_ND.double().mT @ z_ND.double() / len(z_ND)


def closed_form_filters(s_DD: Tensor) -> list[Filter]:
    """Each closed form on a second moment, by its matrix formula in float32 and by scalar theory.

    Args:
        s_DD: Second moment, float64.

    Example:
        >>> [round(f.gain_D[1].item(), 3) for f in closed_form_filters(torch.eye(2)) if f.name == "NS, 9"]
        [1.0]
    """
    s_D, basis_DD = (x.flip(-1) for x in torch.linalg.eigh(s_DD.double()))
    s_D = s_D.clamp_min(0.0)
    found = []
    for name, kind in KINDS.items():
        p_DD = kind.solve(s_DD.float(), s_DD.float()).double()
        gain_D = torch.einsum("ij,ik,kj->j", basis_DD, p_DD, basis_DD)
        # In float32, as the formula: what counts as zero is a matter of precision.
        found.append(Filter(name, gain_D, filter_response(kind, s_D.float()).double()))
    return found


def hulls(model: Bootstrap, splits: Splits, config: ImageConfig) -> dict[str, dict[int, HullFraction]]:
    """Share of test pictures, and of their latents, inside the hull of training ones, by leading components."""
    if splits.test is None:
        return {}
    branch, found = branch_of(model), {}
    pair, flat = (splits.train, splits.test), raw_pixels(splits)
    y = [features(branch.encoder, pictures, config).x_ND for pictures in pair]
    spaces = {
        "pixels": [features(flat, pictures, config).x_ND for pictures in pair],
        "y": y,
        "z": [project(branch.projector, y_ND) for y_ND in y],
    }
    for name, (train_ND, test_ND) in spaces.items():
        dims = [k for k in HULL_DIMS if k < train_ND.shape[1]]
        found[name] = hull_fraction(_spaced(train_ND, HULL_ROWS), _spaced(test_ND, HULL_QUERIES), dims=dims)
    return found


def sensitivity(model: Bootstrap, splits: Splits, config: ImageConfig) -> dict[str, float]:
    """How far linear augmentations move the representation, as a share of its variance over pictures.

    Args:
        model: In evaluation mode.
        splits: The pictures.
        config: The configuration.

    Returns:
        ``augmentation/{name}/sensitivity``: 0 invariant, 1 as far as another picture.
    """
    branch = branch_of(model)
    device = next(branch.parameters()).device
    whole = replace(config, eval=replace(config.eval, patches=1))
    x_ND = _spaced(features(lambda x: x.flatten(1), splits.train, whole).x_ND, SENSITIVITY_SAMPLES)
    x_NcMM = x_ND.unflatten(1, (channels(config), config.data.size, config.data.size)).to(device)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in _normalisation(config))
    encoder = branch.encoder

    def encode(model: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = encoder((x - mean) / std)
        return y

    maps: dict[str, RandomMap] = {
        "translation by 2 pixels": uniform_translation(2),
        "flip": horizontal_flip(),
        "brightness, +-.4": brightness_shift(-0.4, 0.4),
        "brightness, 1 +-.4": brightness_scale(0.6, 1.4),
        "contrast, 1 +-.4": contrast(0.6, 1.4),
    }
    return AugmentationSensitivity(maps, x_NcMM * std + mean, encode)(model, 0)


def _normalisation(config: ImageConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return ((0.0,), (1.0,)) if config.data.train == CLUTTER else (config.augment.mean, config.augment.std)


def _spaced(x_ND: Tensor, rows: int) -> Tensor:
    return x_ND[torch.linspace(0, len(x_ND) - 1, min(len(x_ND), rows)).round().long()]


def _latent_metrics(found: Latents, model: Bootstrap) -> dict[str, float]:
    ranked = ranks(found.y_ND, branch_of(model).projector)
    return ranked | {"std_sqrt_d": std_sqrt_d(found.z_ND)}
