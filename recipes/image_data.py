"""The pictures of a run: where they come from, the views that training sees, and the pictures that evaluation sees.

Legend: ``B`` images, ``V`` views, ``P`` patches of a picture, ``c, M, M`` what the encoder sees, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from byol_ext._extras import require
from byol_ext.bootstrap import Bootstrap, Ctx, SetTerm
from byol_ext.images.clutter_digits import ClutterDigits
from byol_ext.images.data import Images, collate, squares
from byol_ext.images.decode import Decoder
from byol_ext.images.packaged import digits, fashion_mnist, fold, openclipart
from byol_ext.images.readers import HFImages, class_folders
from byol_ext.images.samples import ImageSource, ImageSubset
from byol_ext.images.views import make_views
from byol_ext.ledger import BadSampleLedger
from byol_ext.losses.msb import noise_directions
from byol_ext.metrics.few_labels import label_subset
from byol_ext.metrics.probes import Split
from byol_ext.rng import keyed_uniform, sample_keys
from byol_ext.training import LoaderSource, ResumableSampler
from recipes.image_config import CLUTTER, GREY_SETS, DataConfig, ImageConfig
from recipes.image_views import augments, centre_crop, patch_views, rotated, turns, view_names

Pictures = ClutterDigits | ImageSource
_DRAWS, _SHOWN_SEED = 0x60000, 0


@dataclass(frozen=True)
class Splits:
    """Training pictures, and test pictures where there are any.

    Attributes:
        train: To pretrain and to fit probes on.
        test: To measure on.
        shown: Which labels of the training pictures the method may see, bool ``[N]``.
    """

    train: Pictures
    test: Pictures | None
    shown: Tensor


def channels(config: ImageConfig) -> int:
    """Channels that the encoder sees; three numbers of ``augment.mean`` make three of a grey picture."""
    if config.data.train == CLUTTER:
        return 1
    return max(1 if config.data.train in GREY_SETS else config.data.channels, len(config.augment.mean))


def open_splits(config: ImageConfig) -> Splits:
    """Open the training and the test pictures.

    The split, its fraction and the shown labels are the same for all seeds; ``config.seed`` draws ClutterDigits'
    training pictures, while its test pictures are the same for all.

    Args:
        config: The recipe's configuration.

    Raises:
        FileNotFoundError: If a path or package is not there.
        TooManyBadSamples: If pictures are brought into memory and too many are bad.
    """
    data = config.data
    if data.train == CLUTTER:
        train: Pictures = ClutterDigits("train", seed=config.seed)
        return Splits(train, ClutterDigits("test"), _shown(train, data.label_share))
    pictures, test = _open(data)
    if data.fraction < 1.0:
        kept = label_subset(torch.from_numpy(np.asarray(pictures.labels)), share=data.fraction, seed=_SHOWN_SEED)
        pictures = ImageSubset(pictures, kept.numpy())
    if data.squares:
        pictures, test = _in_memory(pictures, data), None if test is None else _in_memory(test, data)
    return Splits(pictures, test, _shown(pictures, data.label_share))


def _shown(pictures: Pictures, share: float) -> Tensor:
    labels = torch.from_numpy(np.asarray(pictures.labels))
    shown = torch.zeros(len(labels), dtype=torch.bool)
    if share > 0:
        shown[label_subset(labels, share=share, seed=_SHOWN_SEED)] = True
    return shown


def _in_memory(pictures: ImageSource, data: DataConfig) -> ImageSource:
    ledger = BadSampleLedger(max_bad_fraction=data.max_bad_fraction)
    return squares(pictures, data.squares, ledger=ledger)


def _open(data: DataConfig) -> tuple[ImageSource, ImageSource | None]:
    decoder = Decoder(channels=data.channels)
    if data.train == "digits":
        return digits("train"), digits("test")
    if data.train == "fashion-mnist":
        return fashion_mnist("train"), fashion_mnist("test")
    if data.train == "openclipart":
        return fold(openclipart(decoder=decoder), data.fold)
    if data.train.startswith("hf:"):
        return _open_hf(data, decoder)
    root, test = _folders(Path(data.train), data.test)
    train = class_folders(root, decoder=decoder)
    return train, None if test is None else class_folders(test, classes=train.classes, decoder=decoder)


def _folders(root: Path, named: str) -> tuple[Path, Path | None]:
    """The training folder and the test folder: named, inside as ``train`` and ``test`` or ``val``, or beside it."""
    root, around = (root / "train", root) if (root / "train").is_dir() else (root, root.parent)
    if named:
        return root, Path(named)
    beside = [around / name for name in ("test", "val")] if root.name == "train" else []
    return root, next((folder for folder in beside if folder.is_dir()), None)


def _open_hf(data: DataConfig, decoder: Decoder) -> tuple[ImageSource, ImageSource | None]:
    hf = require("datasets", extra="image")
    name = data.train.removeprefix("hf:")
    parts = hf.load_from_disk(name) if Path(name).is_dir() else hf.load_dataset(name)
    if "train" not in parts:
        raise ValueError(f"{data.train} has the splits {sorted(parts)}; expected one called 'train'")
    wanted = [data.test] if data.test else ["test", "validation"]
    test = next((part for part in wanted if part in parts), None)
    if data.test and test is None:
        raise ValueError(f"data.test={data.test!r}: {data.train} has the splits {sorted(parts)}")
    label = data.label_column or None

    def images(part: str) -> HFImages:
        return HFImages(parts[part], image=data.image_column, label=label, decoder=decoder)

    return images("train"), None if test is None else images(test)


def training_source(config: ImageConfig, splits: Splits) -> LoaderSource:
    """Endless batches of the training pictures, in an order that ``config.seed`` decides.

    Args:
        config: The recipe's configuration.
        splits: The pictures.
    """
    train, data = splits.train, config.data
    sampler = ResumableSampler(len(train), data.batch, seed=config.seed)
    if isinstance(train, ClutterDigits):
        return LoaderSource(train, sampler, num_workers=data.workers)
    return LoaderSource(Images(train, seed=config.seed), sampler, collate=collate, num_workers=data.workers)


def context_names(model: Bootstrap) -> frozenset[str]:
    """What the set terms and predictors of a graph read besides latents, by its name in ``Ctx.data``."""
    read = {name for term in model.set_terms if isinstance(term, SetTerm) for name in term.data}
    own = {getattr(predictor, "data", None) for predictor in model.predictors.values()}
    return frozenset(read | {name for name in own if isinstance(name, str)})


class Prepare:
    """Batches on the device to views, and what the method reads besides: labels, ids, rotations, random numbers.

    Args:
        config: The recipe's configuration.
        splits: The pictures.
        names: What the method reads, see :func:`context_names`.
        ledger: Account of unusable pictures.
    """

    def __init__(
        self, config: ImageConfig, splits: Splits, *, names: frozenset[str] = frozenset(), ledger: BadSampleLedger
    ) -> None:
        self.config, self.splits, self.names, self.ledger = config, splits, names, ledger
        self.views = view_names(config.augment)
        self.augments = {} if config.data.train == CLUTTER else augments(config)

    def __call__(self, batch: Mapping[str, Any], step: int) -> tuple[dict[str, Any], Ctx]:
        """``(batch, step) -> (views, Ctx)``."""
        keys_B = sample_keys(self.config.seed, batch["epochs"], batch["ids"])
        views = self._views(batch, keys_B)
        facts: dict[str, Callable[[], Tensor]] = {
            "ids": lambda: batch["ids"],
            "truth": lambda: batch["labels"],
            "label": lambda: self._shown_labels(batch),
            "draw": lambda: keyed_uniform(keys_B, len(views), stream=_DRAWS),
            "noise": lambda: self._noise(batch["ids"], step),
            "g": lambda: self._relative_turn(keys_B),
        }
        if self.config.augment.preset == "rotate":
            angle_BV = turns(keys_B, views=len(views), most=self.config.augment.max_angle)
            views = {name: rotated(x, angle_BV[:, v]) for v, (name, x) in enumerate(views.items())}
        return views, Ctx(data={name: facts[name]() for name in self.names})

    def _views(self, batch: Mapping[str, Any], keys_B: Tensor) -> dict[str, Tensor]:
        if isinstance(self.splits.train, ClutterDigits):
            return self.splits.train.views(batch["ids"], batch["epochs"], names=self.views)
        self.ledger.update(batch)
        if self.augments:
            return make_views(self.augments, batch["images"], batch["sizes"], keys_B)
        picture = centre_crop(self.config)(batch["images"], batch["sizes"])
        return dict.fromkeys(self.views, picture)

    def _shown_labels(self, batch: Mapping[str, Any]) -> Tensor:
        shown_B = self.splits.shown.to(batch["ids"].device)[batch["ids"]]
        return torch.where(shown_B, batch["labels"], -1)

    def _noise(self, ids_B: Tensor, step: int) -> Tensor:
        """Directions that are new each step (MSBReg)."""
        keys_B = sample_keys(self.config.seed, step, ids_B)
        return noise_directions(keys_B, width=self.config.method.projector[-1])

    def _relative_turn(self, keys_B: Tensor) -> Tensor:
        """The rotation from the first view to the second, ``(cos, sin)``."""
        angle_BV = turns(keys_B, views=2, most=self.config.augment.max_angle)
        turn_B = angle_BV[:, 1] - angle_BV[:, 0]
        return torch.stack([turn_B.cos(), turn_B.sin()], 1)


def evaluation_batches(
    pictures: Pictures, config: ImageConfig, *, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures that a frozen encoder is measured on, the same each time; unusable ones are left out.

    ClutterDigits gives ``eval.draws`` pictures of each digit. With ``eval.patches`` above 1 each picture comes as so
    many crops, of which features are to be averaged.

    Args:
        pictures: A split.
        config: The recipe's configuration.
        device: Where to.

    Yields:
        ``[B, P, c, M, M]`` float32 and labels ``[B]`` int64, -1 without one.

    Raises:
        TooManyBadSamples: If too many pictures are bad.
        ValueError: If ClutterDigits is to be cut into patches.
    """
    count, batch = config.eval.patches, config.eval.batch
    if isinstance(pictures, ClutterDigits):
        if count != 1:
            raise ValueError("clutter-digits has no patches: eval.patches must be 1")
        drawn, labels = pictures.evaluation(draws=config.eval.draws, device=device)
        yield from zip(drawn[:, None].split(batch), labels.split(batch), strict=True)
        return
    ledger = BadSampleLedger(max_bad_fraction=config.data.max_bad_fraction)
    loader = DataLoader(Images(pictures, on_bad="report"), batch, collate_fn=collate, num_workers=config.data.workers)
    for items in loader:
        ledger.update(items)
        if not len(items["labels"]):
            continue
        images, labels = items["images"].to(device), items["labels"].to(device)
        if count == 1:
            yield centre_crop(config)(images, items["sizes"])[:, None], labels
        else:
            keys_B = sample_keys(0, items["epochs"], items["ids"])
            crops = make_views(patch_views(config, count), images, items["sizes"], keys_B)
            yield torch.stack(list(crops.values()), 1), labels
    ledger.check()


@torch.no_grad()
def features(network: nn.Module | Callable[[Tensor], Tensor], pictures: Pictures, config: ImageConfig) -> Split:
    """Features of a split, on the CPU, for probes; the network is used in the mode that it is in.

    Args:
        network: ``[N, c, M, M] -> [N, D]``.
        pictures: The split; those without a label are left out.
        config: The recipe's configuration.
    """
    device = torch.device("cpu")
    if isinstance(network, nn.Module):
        device = next((p.device for p in network.parameters()), device)
    rows, labels = [], []
    for x_BPcMM, y_B in evaluation_batches(pictures, config, device=device):
        out_BPD = network(x_BPcMM.flatten(0, 1)).unflatten(0, x_BPcMM.shape[:2])
        known_B = y_B >= 0
        rows.append(out_BPD.float().mean(1)[known_B].cpu())
        labels.append(y_B[known_B].cpu())
    return Split(torch.cat(rows), torch.cat(labels))
