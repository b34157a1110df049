"""The supervised control: the recipe's encoder with a linear layer, on the same pictures, views and steps.

Legend: ``B`` images, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext.bootstrap import Ctx, Out
from byol_ext.heads import batch_norms
from byol_ext.images.encoders import ImageEncoder
from byol_ext.ledger import BadSampleLedger
from byol_ext.training import FitResult, Run, fit
from recipes.image import FREE, account, scale_lr
from recipes.image_config import ImageConfig
from recipes.image_data import Prepare, Splits, open_splits, training_source
from recipes.image_methods import build_encoder, build_optimizer

RECIPE = "image-supervised"


class Classifier(nn.Module):
    """An encoder with a linear layer; a :class:`byol_ext.training.Trainable`.

    Args:
        encoder: The encoder.
        classes: Number of classes ``K``.

    Example:
        >>> from byol_ext.images.encoders import small_cnn
        >>> model = Classifier(small_cnn(), 10)
        >>> out = model({"a": torch.zeros(2, 1, 16, 16)}, Ctx(data={"truth": torch.tensor([3, -1])}), 0)
        >>> sorted(out.terms)
        ['accuracy', 'cross_entropy']
    """

    def __init__(self, encoder: ImageEncoder, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, classes)

    @property
    def couples_samples(self) -> bool:
        """Whether BatchNorm takes statistics over the batch."""
        return bool(self.coupling_reasons())

    @property
    def encoder_couples_samples(self) -> bool:
        """The same: all BatchNorm is in the encoder."""
        return self.couples_samples

    def coupling_reasons(self) -> list[str]:
        """Names of the BatchNorm layers."""
        return [f"encoder.{name}" for name in batch_norms(self.encoder)]

    def forward(self, views: Mapping[str, Tensor], ctx: Ctx, step: int) -> Out:
        """Cross-entropy on the first view; pictures without a label have no part in it.

        Args:
            views: Views of the pictures.
            ctx: ``data["truth"]`` ``[B]``, -1 without a label.
            step: Not used.
        """
        label_B = ctx.data["truth"]
        logits_BK = self.head(self.encoder(next(iter(views.values())))).float()
        known_B = label_B >= 0
        # A sum over no picture is 0, where a mean is NaN.
        total = F.cross_entropy(logits_BK, label_B, ignore_index=-1, reduction="sum")
        count = known_B.sum().clamp_min(1)
        right = ((logits_BK.argmax(1) == label_B) & known_B).sum() / count
        return Out(loss=total / count, terms={"cross_entropy": (total / count).detach(), "accuracy": right})

    def after_step(self, step: int) -> dict[str, float]:
        """Nothing is left to do."""
        return {}


def train_supervised(config: ImageConfig, *, resume: bool = False) -> tuple[FitResult, Classifier, Splits, Run]:
    """Train the control; the method of the configuration plays no part.

    Args:
        config: The recipe's configuration.
        resume: Whether to continue the run of that name.

    Returns:
        How it ended, the model in evaluation mode, the data, the run.
    """
    splits = open_splits(config)
    path = Path(config.root) / "image" / config.name
    again = "byol-ext image compare, with the options that it had"
    run = Run.create(path, recipe=RECIPE, config=config, resume=resume, resume_command=again, free=FREE)
    torch.manual_seed(config.seed)
    encoder = build_encoder(config)
    scaled = scale_lr(config)
    model = Classifier(encoder, max(len(splits.train.classes), int(torch.as_tensor(splits.train.labels).max()) + 1))
    ledger = BadSampleLedger(max_bad_fraction=config.data.max_bad_fraction)
    try:
        result = fit(
            model,
            training_source(config, splits),
            scaled,
            prepare=Prepare(config, splits, names=frozenset({"truth"}), ledger=ledger),
            run=run,
            resume=resume,
            optimizer=build_optimizer(config, scaled),
            unit="images",
        )
        ledger.check()
    finally:
        account(run, ledger)
    model.eval()
    return result, model, splits, run
