"""Evaluation of a frozen video encoder: retrieval, k-NN and linear probe, with the controls that make them readable.

Features are means of pooled backbone features over evenly spaced clips: of the clips (``raw``), and those side by side
with the features of the clips' first differences (``d1``). Nothing here trains the encoder, BatchNorm statistics
included. Probe scores are fractions, retrieval scores percent. Source: `specs/vididi.md` 6 and 10.

Legend: ``N`` videos, ``Q`` queries, ``D`` width of the features, ``B, V, C, T, H, W`` clips of videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byol_ext.metrics.bootstrap import bootstrap_interval
from byol_ext.metrics.classification import confusion
from byol_ext.metrics.probes import ProbeResult, Split, knn_probe, linear_probe
from byol_ext.metrics.ram import ram_probe
from byol_ext.metrics.retrieval import Ranking, rank_candidates
from byol_ext.video.samples import VideoSource
from byol_ext.video.transforms import CentreClip
from recipes.vididi_features import (
    ClipProtocol,
    OfClips,
    VideoTable,
    frozen,
    mean_over_clips,
    one_frame,
    shuffled_frames,
    tabulate,
)

CONTROLS = ("random_init", "single_frame", "shuffled", "appearance", "chance", "majority")
"""Words in the names of metrics that are controls."""


@dataclass(frozen=True)
class EvalConfig:
    """How a frozen encoder is measured."""

    protocol: ClipProtocol = field(default_factory=ClipProtocol)
    """Clips of a video."""
    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Lengths of the retrieved lists (spec 6)."""
    knn: int = 20
    """Neighbours that vote."""
    c: float = 0.1
    """Inverse strength of the linear probe's L2 penalty on standardised features (spec 10)."""
    controls: bool = True
    """Whether to probe frozen time (single frame), shuffled frames, the appearance and a random encoder too."""
    appearance: str | None = None
    """Fact of the videos that one frame shows, such as photograph: a probe for it tells whether appearance is kept."""
    authors_protocol: bool = False
    """Leave videos of too few frames out of gallery and queries, as the authors do; their ``--diff`` is
    ``retrieval/d1``. Numbers so obtained are not comparable with the literature (29 % of HMDB51 go)."""
    gallery_bad_fraction: float = 0.1
    """Largest share of training videos that may be unusable (counted); ``protocol.max_bad_fraction`` is for the test
    videos."""
    resamples: int = 2000
    """Bootstrap resamples of the test videos (whole groups) for 95 % intervals."""
    seed: int = 0
    """Seed of the pretraining, for the record; the evaluation draws nothing but ``protocol.seed``'s shuffles."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: Flat names to numbers, controls included.
        protocol: How, with all counts.
        train: Features of the training videos (the gallery).
        test: Features of the test videos (the queries).
        ranking: Where the videos of its class stand for each query, on raw features.
        queries: Rows of ``test`` that are queries.
        confusion: Counts ``[true, predicted]`` of the linear probe.
        classes: Names of the classes.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    train: VideoTable
    test: VideoTable
    ranking: Ranking
    queries: Tensor
    confusion: np.ndarray
    classes: list[str]

    @property
    def controls(self) -> dict[str, float]:
        """The metrics that are controls."""
        return {k: v for k, v in self.metrics.items() if any(word in k for word in CONTROLS)}


def evaluate(
    encoder: nn.Module,
    *,
    train: VideoSource,
    test: VideoSource,
    config: EvalConfig,
    centre: CentreClip,
    random_init: nn.Module | None = None,
) -> Evaluation:
    """Everything that is measured of a frozen encoder.

    Args:
        encoder: ``(x_BCTHW, order_B) -> [B, D]``, on its device; it is left in the mode it was in.
        train: Labelled videos: gallery, and training set of the probes.
        test: Labelled videos: queries, and test set of the probes.
        config: The protocol.
        centre: Resize, centre crop and normalisation of evaluation.
        random_init: The same encoder as it is before training, a control; on the same device.

    Raises:
        ValueError: If a source has no labels, or no test video has a class that is among the training videos.
        TooManyBadSamples: If videos cannot be used.
    """
    protocol = replace(config.protocol, short="drop") if config.authors_protocol else config.protocol
    device = next(encoder.parameters()).device
    encoders = {"": encoder} | ({"random_init_": random_init} if random_init is not None and config.controls else {})
    functions = feature_functions(encoders, controls=config.controls, batch=protocol.batch)
    for name, source in (("train", train), ("test", test)):
        if not source.classes:
            raise ValueError(f"the {name} source {source.fingerprint} has no classes; evaluation needs labels")
    with frozen(*encoders.values()):
        gallery = replace(protocol, max_bad_fraction=max(protocol.max_bad_fraction, config.gallery_bad_fraction))
        train_table = tabulate(train, functions, gallery, centre=centre, device=device)
        test_table = tabulate(test, functions, protocol, centre=centre, device=device)
    for name, table in (("train", train_table), ("test", test_table)):
        if bool((table.labels < 0).any()):
            raise ValueError(f"the {name} source holds videos without a label, such as {_unlabelled(table)}")
    metrics, ranking, queries = _retrieval(train_table, test_table, config, prefixes=list(encoders))
    probes, linear = _probes(train_table, test_table, config, prefixes=list(encoders), device=device)
    metrics |= probes
    for prefix in encoders:
        metrics |= _ram(train_table, test_table, prefix=prefix)
    labels, guesses = test_table.labels.numpy(), linear.score_NC.argmax(dim=1).numpy()
    count = max(len(test.classes), linear.score_NC.shape[1])
    names = [*test.classes, *(str(i) for i in range(len(test.classes), count))]
    return Evaluation(
        metrics,
        _protocol(train, test, train_table, test_table, config, protocol, queries=len(queries)),
        train_table,
        test_table,
        ranking,
        queries,
        confusion(labels, guesses, classes=count),
        names,
    )


def feature_functions(encoders: Mapping[str, nn.Module], *, controls: bool, batch: int) -> dict[str, OfClips]:
    """What is computed of each video, by name: ``raw`` and ``d1`` of each encoder, behind its prefix.

    Args:
        encoders: Encoders by prefix; the one named ``""`` gets the controls.
        controls: Whether to add ``single_frame`` and ``shuffled``.
        batch: Clips at a time.
    """
    found: dict[str, OfClips] = {}
    for prefix, encoder in encoders.items():
        found[f"{prefix}raw"] = _of_clips(encoder, 0, batch)
        found[f"{prefix}difference"] = _of_clips(encoder, 1, batch)
    if controls:
        raw = found["raw"]
        found["single_frame"] = lambda clips, keys: raw(one_frame(clips), keys)
        found["shuffled"] = lambda clips, keys: raw(shuffled_frames(clips, keys), keys)
    return found


def _of_clips(encoder: nn.Module, order: int, batch: int) -> OfClips:
    return lambda clips, keys: mean_over_clips(encoder, clips, order=order, batch=batch)


def raw_and_d1(table: VideoTable, prefix: str = "") -> Tensor:
    """Features of the clips beside those of their first differences ``[N, 2 D]`` (the authors' ``--diff``)."""
    return torch.cat([table.values[f"{prefix}raw"], table.values[f"{prefix}difference"]], dim=1)


def _retrieval(
    gallery: VideoTable, query: VideoTable, config: EvalConfig, *, prefixes: Sequence[str]
) -> tuple[dict[str, float], Ranking, Tensor]:
    """Same-class retrieval by cosine; queries without any video of their class in the gallery are left out."""
    known_Q = torch.isin(query.labels, gallery.labels)
    rows_Q = known_Q.nonzero().flatten()
    if not len(rows_Q):
        raise ValueError(
            f"no test video has a class of the {len(gallery)} training videos: their classes are "
            f"{query.labels.unique().tolist()} and {gallery.labels.unique().tolist()}"
        )

    def rank(query_ND: Tensor, gallery_ND: Tensor) -> Ranking:
        return rank_candidates(
            query_QD=query_ND[rows_Q],
            candidate_CD=gallery_ND,
            query_ids_Q=query.labels[rows_Q],
            candidate_ids_C=gallery.labels,
        )

    raw = rank(query.values["raw"], gallery.values["raw"])
    metrics = {f"retrieval/{k}": v for k, v in raw.metrics(ks=config.ks).items()}
    metrics |= _interval("retrieval/R@1", 100.0 * raw.hits_Q(1), _groups(query, rows_Q), config)
    chance = raw.chance(ks=config.ks)
    metrics |= {f"retrieval/chance/R@{k}": chance[f"R@{k}"] for k in config.ks}
    for prefix in prefixes:
        both = rank(raw_and_d1(query, prefix), raw_and_d1(gallery, prefix))
        metrics |= _recalls(f"{prefix}d1", both, config.ks)
        if prefix:
            own = rank(query.values[f"{prefix}raw"], gallery.values[f"{prefix}raw"])
            metrics |= _recalls(prefix.rstrip("_"), own, config.ks)
    metrics |= {
        "retrieval/n_query": float(len(rows_Q)),
        "retrieval/n_gallery": float(len(gallery)),
        "retrieval/n_skipped": float(gallery.skipped.total() + query.skipped.total()),
        "retrieval/n_without_class": float(len(query) - len(rows_Q)),
    }
    return metrics, raw, rows_Q


def _recalls(name: str, ranking: Ranking, ks: Sequence[int]) -> dict[str, float]:
    return {f"retrieval/{name}/R@{k}": 100.0 * float(ranking.hits_Q(k).mean()) for k in ks}


def _probes(
    train: VideoTable, test: VideoTable, config: EvalConfig, *, prefixes: Sequence[str], device: torch.device
) -> tuple[dict[str, float], ProbeResult]:
    """k-NN and linear probes of the classes, and those of the controls."""

    def fit(train_ND: Tensor, test_ND: Tensor) -> ProbeResult:
        return _linear(train_ND, train.labels, test_ND, test.labels, c=config.c, device=device)

    linear = fit(train.values["raw"], test.values["raw"])
    right_N = linear.score_NC.argmax(dim=1) == test.labels
    neighbours = knn_probe(
        train=Split(train.values["raw"], train.labels), test=Split(test.values["raw"], test.labels), k=config.knn
    )
    counts_C = torch.bincount(train.labels)
    metrics = {
        "probe/linear_accuracy": linear.metrics["accuracy"],
        **_interval("probe/linear_accuracy", right_N.double(), _groups(test, torch.arange(len(test))), config),
        "probe/knn_accuracy": neighbours.metrics["accuracy"],
        "probe/chance": 1.0 / int((counts_C > 0).sum()),
        "probe/majority_accuracy": float((test.labels == counts_C.argmax()).double().mean()),
    }
    for prefix in prefixes:
        metrics[f"probe/{prefix}linear_d1_accuracy"] = fit(raw_and_d1(train, prefix), raw_and_d1(test, prefix)).metrics[
            "accuracy"
        ]
    controls = {"single_frame": "single_frame", "shuffled": "shuffled", "random_init": "random_init_raw"}
    for name, feature in controls.items():
        if feature in train.values:
            scores = fit(train.values[feature], test.values[feature]).metrics
            metrics[f"probe/{name}_accuracy"] = scores["accuracy"]
    if config.appearance is not None and config.controls:
        for prefix in prefixes:
            metrics |= _appearance(train, test, config.appearance, c=config.c, prefix=prefix, device=device)
    return metrics, linear


def _linear(
    train_ND: Tensor, train_N: Tensor, test_ND: Tensor, test_N: Tensor, *, c: float, device: torch.device
) -> ProbeResult:
    """Logistic regression with one fixed C: nothing is chosen, so the training videos stand in for a validation set."""
    train = Split(train_ND.to(device), train_N)
    return linear_probe(train=train, validation=train, test=Split(test_ND.to(device), test_N), c_grid=(c,))


def _appearance(
    train: VideoTable, test: VideoTable, name: str, *, c: float, prefix: str, device: torch.device
) -> dict[str, float]:
    """Linear probe for a fact; videos without it, or with a value that training lacks, are left out."""
    values = sorted({str(facts[name]) for facts in train.facts if name in facts})
    rows_of: list[Tensor] = []
    labels_of: list[Tensor] = []
    for table in (train, test):
        rows = [i for i, facts in enumerate(table.facts) if name in facts and str(facts[name]) in values]
        rows_of.append(torch.tensor(rows, dtype=torch.int64))
        labels_of.append(torch.tensor([values.index(str(table.facts[i][name])) for i in rows], dtype=torch.int64))
    if not all(map(len, rows_of)):
        known = sorted({key for facts in (*train.facts, *test.facts) for key in facts})
        raise ValueError(f"appearance={name!r} is no fact that train and test videos share; their facts are {known}")
    train_ND, test_ND = (table.values[f"{prefix}raw"][rows] for table, rows in zip((train, test), rows_of, strict=True))
    result = _linear(train_ND, labels_of[0], test_ND, labels_of[1], c=c, device=device)
    majority = torch.bincount(labels_of[0]).argmax()
    return {
        f"probe/{prefix}appearance_accuracy": result.metrics["accuracy"],
        "probe/appearance_majority_accuracy": float((labels_of[1] == majority).double().mean()),
    }


def _ram(train: VideoTable, test: VideoTable, *, prefix: str) -> dict[str, float]:
    """Probe of the emulator's memory at the middle of each video, game by game, and its mean; nothing without RAM."""
    if not all("ram" in facts for facts in (*train.facts, *test.facts)):
        return {}
    found: dict[str, list[float]] = {}
    for game in sorted({facts.get("game", 0) for facts in train.facts}):
        features, memory = [], []
        for table in (train, test):
            rows = [i for i, facts in enumerate(table.facts) if facts.get("game", 0) == game]
            features.append(raw_and_d1(table, prefix)[rows].numpy())
            memory.append(np.array([facts["ram"][len(facts["ram"]) // 2] for facts in (table.facts[i] for i in rows)]))
        if not all(map(len, memory)):
            continue
        scores = ram_probe(train_ND=features[0], train_NR=memory[0], test_ND=features[1], test_NR=memory[1])
        for name, value in scores.items():
            found.setdefault(f"probe/{prefix}{name}", []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _groups(table: VideoTable, rows: Tensor) -> np.ndarray:
    """Number of the group of each row; a group name counts within its class, a video without one is its own."""
    names = [
        (int(table.labels[i]), table.groups[i] if table.groups[i] is not None else table.keys[i]) for i in rows.tolist()
    ]
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names])


def _interval(name: str, values_N: Tensor, groups_N: np.ndarray, config: EvalConfig) -> dict[str, float]:
    interval = bootstrap_interval(values_N.numpy(), groups=groups_N, resamples=config.resamples)
    return {f"{name}/low": interval.low, f"{name}/high": interval.high}


def _unlabelled(table: VideoTable) -> str:
    return table.keys[int((table.labels < 0).nonzero()[0])]


def _protocol(
    train: VideoSource,
    test: VideoSource,
    train_table: VideoTable,
    test_table: VideoTable,
    config: EvalConfig,
    protocol: ClipProtocol,
    *,
    queries: int,
) -> dict[str, Any]:
    """All that a reader needs to compare the numbers."""
    return {
        "gallery": train.fingerprint,
        "query": test.fingerprint,
        "n_gallery": len(train_table),
        "n_query": queries,
        "n_test": len(test_table),
        "classes": int(train_table.labels.unique().numel()),
        "n_skipped": train_table.skipped.total() + test_table.skipped.total(),
        "skipped": dict(train_table.skipped + test_table.skipped),
        "kept_although": dict(train_table.notes + test_table.notes),
        "clips": asdict(protocol),
        "authors_protocol": config.authors_protocol,
        "features": "mean over clips of pooled backbone features, encoder in eval mode (BatchNorm statistics frozen)",
        "retrieval": "cosine; a hit is a training video of the same class among the k nearest; d1 = raw beside D1",
        "linear": f"logistic regression on features standardised by the training set, C={config.c}",
        "knn": f"k={config.knn}, cosine, softmax vote at 0.07",
        "single_frame": "one frame of a video, repeated",
        "shuffled": f"frames of each clip in random order, seed {protocol.seed}, in training and test",
        "intervals": f"95 % bootstrap over test groups, {config.resamples} resamples",
        "metrics_in": "probe: fractions; retrieval: percent",
        "seed": config.seed,
    }
