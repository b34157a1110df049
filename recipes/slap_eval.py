"""Evaluation of audio-text towers: embeddings, retrieval, zero-shot, probes, modality gap, figures.

It reads a model and data and never trains the model. SLAP is compared by predictions, ``q`` against ``q``, CLAP by
projections, ``z`` against ``z`` (paper 5.1).

Legend: ``N`` clips, ``M`` captions, ``W`` windows, ``D`` width, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from byol_ext.audio.data import AudioTextDataset, SampleSource
from byol_ext.audio.waves import Windows, cut_windows, pool_windows
from byol_ext.bootstrap import Bootstrap
from byol_ext.ledger import BadSampleLedger
from byol_ext.metrics.bootstrap import bootstrap_interval
from byol_ext.metrics.classification import confusion
from byol_ext.metrics.modality_gap import gap_metrics, gap_shift_curve
from byol_ext.metrics.probes import Split, linear_probe, mlp_probe, probe_summary
from byol_ext.metrics.retrieval import Retrieval, retrieve, slap_compat_metrics
from byol_ext.metrics.spectrum import CollapseMonitor
from byol_ext.metrics.zero_shot import class_scores, ensemble_vectors, zero_shot_metrics
from byol_ext.text import normalize_caption, to_device
from byol_ext.training.figures import confusion_figure, gap_shift_figure, modality_pca, similarity_matrix
from recipes.slap_config import SlapConfig
from recipes.slap_model import FrontEnd, Tokenize

Prompts = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass
class Towers:
    """A model with its inputs: the graph, the front-end of the audio view, the tokenizer of the text view."""

    model: Bootstrap
    front: FrontEnd
    tokenize: Tokenize

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def audio(self, wave_WS: Tensor) -> dict[str, Tensor]:
        """``y``, ``z`` and ``q`` (``z`` where the model predicts nothing) of clips, on the CPU."""
        return self._embed("audio", self.front(wave_WS.to(self.device)))

    @torch.no_grad()
    def text(self, captions: Sequence[str], *, batch: int = 256) -> dict[str, Tensor]:
        """The same of captions, each text embedded once."""
        unique = list(dict.fromkeys(captions))
        parts = []
        for start in range(0, len(unique), batch):
            tokens = self.tokenize(unique[start : start + batch])
            parts.append(self._embed("text", to_device(tokens, self.device)))
        row = {text: i for i, text in enumerate(unique)}
        rows = torch.tensor([row[text] for text in captions])
        return {name: torch.cat([part[name] for part in parts])[rows] for name in parts[0]}

    def _embed(self, view: str, x: Any) -> dict[str, Tensor]:
        found = self.model.embed({view: x})[view]
        return {name: found.get(name, found["z"]).float().cpu() for name in ("y", "z", "q")}


@dataclass
class Embedded:
    """A set's embeddings.

    Attributes:
        audio: ``y``, ``z``, ``q`` of each clip ``[N, D]``; ``z`` and ``q`` unit vectors pooled over windows.
        text: ``y``, ``z``, ``q`` of each caption ``[M, D]``.
        owner_M: Clip of each caption.
        captions: The captions.
        tags: Facts of each clip.
        bad: Unusable clips, left out.
        windows: Windows embedded.
    """

    audio: dict[str, Tensor]
    text: dict[str, Tensor]
    owner_M: Tensor
    captions: list[str]
    tags: list[Mapping[str, Any]]
    bad: int = 0
    windows: int = 0

    def retrieval(self, on: str = "q") -> Retrieval:
        """Ranks both ways."""
        return retrieve(audio_ND=self.audio[on], text_MD=self.text[on], audio_of_text_M=self.owner_M)

    def pairs(self, on: str = "q") -> tuple[Tensor, Tensor]:
        """Clips and their first captions, row by row."""
        first = torch.full((len(self.tags),), len(self.owner_M), dtype=torch.int64)
        first.scatter_reduce_(0, self.owner_M, torch.arange(len(self.owner_M)), reduce="amin")
        return self.audio[on], self.text[on][first]


@dataclass
class Evaluation:
    """Flat metrics, protocol, and the ranks that paired intervals need."""

    metrics: dict[str, float]
    protocol: dict[str, Any]
    embedded: Embedded
    retrieval: Retrieval
    confusions: dict[str, tuple[Any, list[str]]] = field(default_factory=dict)


def embed_pairs(
    towers: Towers, source: SampleSource, config: SlapConfig, *, texts: bool = True, limit: int | None = None
) -> Embedded:
    """Embed a set, deterministically: every clip by its windows, every caption once.

    Args:
        towers: The model; it is left in the mode it was in.
        source: Clips and captions.
        config: Clip length, windows, batch.
        texts: Whether to embed captions too.
        limit: Most clips, evenly spaced.

    Raises:
        TooManyBadSamples: If more clips than ``data.max_bad_fraction`` cannot be used.
    """
    training = towers.model.training
    towers.model.eval()
    try:
        return _embed_pairs(towers, source, config, texts, limit)
    finally:
        towers.model.train(training)


def _embed_pairs(towers: Towers, source: SampleSource, config: SlapConfig, texts: bool, limit: int | None) -> Embedded:
    rate = towers.front.sample_rate
    dataset = AudioTextDataset(source, sr=rate, clip_seconds=None, train=False, normalize=normalize_caption)
    ledger = BadSampleLedger(max_bad_fraction=config.data.max_bad_fraction)
    count = min(limit or len(dataset), len(dataset))
    chosen = torch.linspace(0, len(dataset) - 1, count).round().long().unique().tolist()
    captions: list[str] = []
    tags: list[Mapping[str, Any]] = []
    owner: list[int] = []
    window_owner: list[int] = []

    def windows() -> Iterator[Tensor]:
        for index in chosen:
            item = dataset[index]
            if "audio" not in item:
                ledger.update({"seen": 1, "bad": item["bad"], "errors": item["errors"]})
                continue
            ledger.update({"seen": 1, "bad": {}, "errors": []})
            captions.extend(item["captions"])
            owner.extend([len(tags)] * len(item["captions"]))
            cut_WS, _ = cut_windows(
                item["audio"],
                windows=Windows.parse(config.eval.windows),
                length=round(config.data.clip_seconds * rate),
                sample_rate=rate,
                fill=config.data.fill,
            )
            window_owner.extend([len(tags)] * len(cut_WS))
            tags.append(item["tags"])
            yield torch.from_numpy(cut_WS)

    parts = [towers.audio(wave_WS) for wave_WS in _batches(windows(), config.eval.batch)]
    ledger.check()
    owner_W = torch.tensor(window_owner)
    windowed = {name: torch.cat([part[name] for part in parts]) for name in ("y", "z", "q")}
    audio = {name: pool_windows(windowed[name], owner_N=owner_W) for name in ("z", "q")}
    count_N = torch.bincount(owner_W)[:, None]
    y_ND = torch.zeros(len(tags), windowed["y"].shape[1]).index_add_(0, owner_W, windowed["y"]) / count_N
    text = towers.text(captions) if texts else {}
    return Embedded(
        audio | {"y": y_ND}, text, torch.tensor(owner), captions, tags, bad=ledger.bad.total(), windows=len(owner_W)
    )


def _batches(parts: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Windows of several clips as batches of about ``size``."""
    held: list[Tensor] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= size:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)


def evaluate(
    towers: Towers, *, test: SampleSource, config: SlapConfig, prompts: Prompts, train: SampleSource | None = None
) -> Evaluation:
    """Everything that is measured of a model.

    Args:
        towers: The model.
        test: Test pairs.
        config: Protocol.
        prompts: For each tag, each class' descriptions.
        train: Training pairs for probes; ``None`` leaves the probes out.
    """
    embedded = embed_pairs(towers, test, config)
    on = compared_on(config)
    retrieval = embedded.retrieval(on)
    metrics = retrieval.metrics() | recall_intervals(retrieval, embedded.owner_M)
    if on == "q":
        metrics |= embedded.retrieval("z").metrics(prefix="retrieval_z")
    audio_ND, text_ND = embedded.pairs(on)
    metrics |= gap_metrics(audio_ND=audio_ND, text_ND=text_ND, seed=config.seed, compat=config.eval.compat)
    if config.eval.compat:
        metrics |= slap_compat_metrics(audio_ND=audio_ND, text_MD=text_ND)
    metrics |= CollapseMonitor()({"audio": embedded.audio["z"], "text": embedded.text["z"]}, step=0)
    result = Evaluation(metrics, {}, embedded, retrieval)
    probe_set = None
    if train is not None and prompts and config.eval.probes:
        probe_set = embed_pairs(towers, train, config, texts=False, limit=config.eval.probe_samples)
    for tag, classes in prompts.items():
        if not any(tags.get(tag) in classes for tags in embedded.tags):
            continue  # a domain that does not have the tag
        _classify(towers, result, tag, classes, on=on, probe_set=probe_set, config=config)
    probed = len(probe_set.tags) if probe_set is not None else 0
    result.protocol = {
        "test": config.data.test or config.data.val or config.data.train,
        "clips": len(embedded.tags),
        "captions": len(embedded.captions),
        "captions_of_several_clips": shared_captions(embedded),
        "unusable_clips": embedded.bad,
        "windows": f"{config.eval.windows} of {config.data.clip_seconds} s, {embedded.windows} in all",
        "compared": f"{on} with {on}, cosine",
        "retrieval": "multi-caption: every caption ranks all clips; every clip ranks all captions, best of its own",
        "zero_shot": "classes by the normalised mean of their normalised descriptions; best of N is chosen on test",
        "probes": f"frozen y, {probed} training clips, {config.eval.probe_seeds} MLP seeds",
        "front_end": towers.front.hash,
        "seed": config.seed,
    }
    return result


def compared_on(config: SlapConfig) -> str:
    """Which embedding a method is compared by: SLAP by predictions, CLAP by projections (paper 5.1)."""
    return "q" if config.loss.name == "slap" else "z"


def shared_captions(embedded: Embedded) -> float:
    """Share of captions that stand at more than one clip: each is a right answer that counts as wrong."""
    owners: dict[str, set[int]] = {}
    for caption, owner in zip(embedded.captions, embedded.owner_M.tolist(), strict=True):
        owners.setdefault(caption.casefold(), set()).add(owner)
    return sum(len(owners[caption.casefold()]) > 1 for caption in embedded.captions) / len(embedded.captions)


def recall_intervals(retrieval: Retrieval, owner_M: Tensor, *, resamples: int = 2000) -> dict[str, float]:
    """95 % bootstrap intervals of the recalls over queries; captions of one clip are drawn together.

    Args:
        retrieval: Ranks both ways.
        owner_M: Clip of each caption.
        resamples: Bootstrap samples.

    Returns:
        ``retrieval/DIRECTION/R@K/low`` and ``.../high`` in percent.
    """
    found = {}
    for direction, ranking, groups in (
        ("text_to_audio", retrieval.text_to_audio, owner_M.numpy()),
        ("audio_to_text", retrieval.audio_to_text, None),
    ):
        for k in (1, 5, 10):
            hits_Q = 100.0 * ranking.hits_Q(k).numpy()
            interval = bootstrap_interval(hits_Q, groups=groups, resamples=resamples)
            found[f"retrieval/{direction}/R@{k}/low"] = interval.low
            found[f"retrieval/{direction}/R@{k}/high"] = interval.high
    return found


def _classify(
    towers: Towers,
    result: Evaluation,
    tag: str,
    classes: Mapping[str, Sequence[str]],
    *,
    on: str,
    probe_set: Embedded | None,
    config: SlapConfig,
) -> None:
    """Zero-shot accuracy and probes of one tag."""
    names = list(classes)
    number = {name: i for i, name in enumerate(names)}
    test = result.embedded
    rows = torch.tensor([i for i, tags in enumerate(test.tags) if tags.get(tag) in number])
    labels = torch.tensor([number[test.tags[i][tag]] for i in rows.tolist()])
    templates = len(next(iter(classes.values())))
    texts = [classes[name][t] for t in range(templates) for name in names]
    text_TCD = towers.text(texts)[on].reshape(templates, len(names), -1)
    audio_ND = test.audio[on][rows]
    result.metrics |= zero_shot_metrics(audio_ND=audio_ND, text_TCD=text_TCD, labels=labels, prefix=f"zero_shot/{tag}")
    guess = class_scores(audio_ND, ensemble_vectors(text_TCD)).argmax(dim=1)
    result.confusions[tag] = (confusion(labels.numpy(), guess.numpy(), classes=len(names)), names)
    if probe_set is None:
        return
    fit_rows = torch.tensor([i for i, tags in enumerate(probe_set.tags) if tags.get(tag) in number])
    fit_labels = torch.tensor([number[probe_set.tags[i][tag]] for i in fit_rows.tolist()])
    train_split = Split(probe_set.audio["y"][fit_rows], fit_labels)
    test_split = Split(test.audio["y"][rows], labels)
    linear = linear_probe(train=train_split, test=test_split, seed=config.seed)
    result.metrics |= {f"probe/{tag}/linear_{name}": value for name, value in linear.metrics.items()}
    order = torch.randperm(len(fit_labels), generator=torch.Generator().manual_seed(config.seed))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    mlp = mlp_probe(
        train=Split(train_split.x_ND[kept], fit_labels[kept]),
        validation=Split(train_split.x_ND[held], fit_labels[held]),
        test=test_split,
        seeds=range(config.eval.probe_seeds),
    )
    result.metrics |= probe_summary(mlp, prefix=f"probe/{tag}/mlp")
    majority = torch.bincount(fit_labels, minlength=len(names)).argmax()
    result.metrics[f"probe/{tag}/majority_accuracy"] = float((labels == majority).float().mean())


def draw(evaluation: Evaluation, folder: Path, *, on: str) -> list[Path]:
    """Figures of an evaluation.

    Args:
        evaluation: What was measured.
        folder: Where the PNGs go.
        on: The embedding that is compared, ``q`` or ``z``.
    """
    audio_ND, text_ND = evaluation.embedded.pairs(on)
    paths = [
        modality_pca(audio_ND=audio_ND, text_ND=text_ND, path=folder / "modalities_pca.png"),
        similarity_matrix(audio_ND=audio_ND, text_ND=text_ND, path=folder / "similarity.png"),
    ]
    chance = {f"R@{k}": evaluation.metrics[f"retrieval/chance/R@{k}"] for k in (1, 5, 10)}
    curve = gap_shift_curve(audio_ND=F.normalize(audio_ND, dim=1), text_ND=F.normalize(text_ND, dim=1))
    paths.append(gap_shift_figure(curve, path=folder / "gap_shift.png", pairs=len(audio_ND), chance=chance))
    for tag, (counts, names) in evaluation.confusions.items():
        if len(names) <= 40:
            paths.append(confusion_figure(counts, names=names, path=folder / f"zero_shot_{tag}.png"))
    return paths
