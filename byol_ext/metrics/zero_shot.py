"""Zero-shot classification: a class is the text that describes it.

Source: `specs/slap.md` section 12.2.

Legend: `N` audio items, `T` templates, `C` classes, `D` embedding width.

The choice of a template is a choice made on the test set unless it is fixed beforehand. So every template, their mean,
and the ensemble are reported, and the best of them carries its name: `best_of_4_on_test`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from byol_ext.metrics.classification import accuracy, balanced_accuracy, multi_label_metrics

SLAP_TEMPLATES = ("{}", "{} music", "this sounds like {}", "A {} track")
LAION_SOUND_TEMPLATES = ("This is a sound of {}",)
LAION_GENRE_TEMPLATES = ("This audio is a {} song.",)


def fill_templates(classes: Sequence[str], templates: Sequence[str] = SLAP_TEMPLATES) -> list[list[str]]:
    """One list of class descriptions a template.

    Raises:
        ValueError: no classes or templates, a template without `{}`, or an empty class name.

    >>> fill_templates(["jazz"], ["{} music", "A {} track"])
    [['jazz music'], ['A jazz track']]
    """
    if not classes or not templates:
        raise ValueError(f"{len(classes)} classes and {len(templates)} templates: both must be at least 1")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} for the class name")
    for row, name in enumerate(classes):
        if not name.strip():
            raise ValueError(f"class {row} has an empty name")
    return [[template.replace("{}", name) for name in classes] for template in templates]


def embed_templates(
    classes: Sequence[str],
    embed_text: Callable[[list[str]], Tensor],
    *,
    templates: Sequence[str] = SLAP_TEMPLATES,
) -> Tensor:
    """Embed every class under every template.

    Args:
        classes: class names as a listener would say them ("hip hop", not "hiphop").
        embed_text: maps n strings to [n, D].
        templates: strings with one `{}`; the default is SLAP's set [paper section 5.3].

    Returns:
        [T, C, D], as embedded.
    """
    filled = fill_templates(classes, templates)
    text = embed_text([caption for row in filled for caption in row])
    return rearrange(text, "(t c) d -> t c d", t=len(filled), c=len(classes))


def ensemble_vectors(text_TCD: Tensor) -> Tensor:
    """Class vectors [C, D]: the normalised mean over templates of normalised text embeddings."""
    return F.normalize(F.normalize(text_TCD.float(), dim=-1).mean(dim=0), dim=-1)


def class_scores(audio_ND: Tensor, class_CD: Tensor) -> Tensor:
    """Cosine of every item with every class vector, float32 [N, C]."""
    with torch.autocast(audio_ND.device.type, enabled=False):
        return F.normalize(audio_ND.float(), dim=-1) @ F.normalize(class_CD.float(), dim=-1).T


def zero_shot_metrics(
    *,
    audio_ND: Tensor,
    text_TCD: Tensor,
    labels: Tensor,
    known_NC: Tensor | None = None,
    prefix: str = "zero_shot",
) -> dict[str, float]:
    """All template choices, with chance.

    Args:
        audio_ND: audio embeddings.
        text_TCD: class descriptions, from `embed_templates`.
        labels: class numbers [N] (accuracy, balanced accuracy), or 0/1 [N, C] (macro AUROC, mAP, mAR).
        known_NC: multi-label only: where a label is known.
        prefix: first part of the names.

    Returns:
        Flat names `{prefix}/{choice}/{metric}` with choice in `template_0`.., `mean` (mean of the template scores),
        `ensemble` (one averaged vector a class; the headline), `best_of_T_on_test` (chosen on the test labels, per
        metric: an upper bound, and SLAP's published reading), and `{prefix}/chance/{metric}`. With class numbers also
        `{prefix}/majority/accuracy`, the share of the most frequent label: where classes are unbalanced, accuracy
        must beat this and not only 1/C. Balanced accuracy is the mean recall over the classes among the labels.
        Fractions.

    Raises:
        ValueError: shapes that do not match.

    >>> eye = torch.eye(3)
    >>> zero_shot_metrics(audio_ND=eye, text_TCD=eye[None], labels=torch.arange(3))["zero_shot/ensemble/accuracy"]
    1.0
    """
    templates, classes = text_TCD.shape[:2]
    if labels.shape not in {(len(audio_ND),), (len(audio_ND), classes)}:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected ({len(audio_ND)},) class numbers or "
            f"({len(audio_ND)}, {classes}) zeros and ones"
        )
    per_template = [_score(class_scores(audio_ND, class_CD), labels, known_NC) for class_CD in text_TCD]
    ensemble = _score(class_scores(audio_ND, ensemble_vectors(text_TCD)), labels, known_NC)
    out: dict[str, float] = {}
    for t, metrics in enumerate(per_template):
        out |= {f"{prefix}/template_{t}/{key}": value for key, value in metrics.items()}
    for key, value in ensemble.items():
        values = [metrics[key] for metrics in per_template]
        out[f"{prefix}/mean/{key}"] = float(np.mean(values))
        out[f"{prefix}/ensemble/{key}"] = value
        out[f"{prefix}/best_of_{templates}_on_test/{key}"] = max(values)
    out |= {f"{prefix}/chance/{key}": value for key, value in _chance(labels, known_NC, classes).items()}
    if labels.ndim == 1:
        out[f"{prefix}/majority/accuracy"] = float(labels.unique(return_counts=True)[1].max()) / len(labels)
    return out | {f"{prefix}/items": float(len(audio_ND)), f"{prefix}/classes": float(classes)}


def _score(score_NC: Tensor, labels: Tensor, known_NC: Tensor | None) -> dict[str, float]:
    if labels.ndim == 1:
        label, predicted = labels.cpu().numpy(), score_NC.argmax(dim=1).cpu().numpy()
        return {"accuracy": accuracy(label, predicted), "balanced_accuracy": balanced_accuracy(label, predicted)}
    known = None if known_NC is None else known_NC.cpu().numpy()
    return multi_label_metrics(labels.cpu().numpy(), score_NC.cpu().numpy(), known_NC=known)


def _chance(labels: Tensor, known_NC: Tensor | None, classes: int) -> dict[str, float]:
    """Scores that know nothing: accuracies 1/C; AUROC 1/2, mAP the share of positives, mAR (n + 1) / 2n for n tags."""
    if labels.ndim == 1:
        return {"accuracy": 1.0 / classes, "balanced_accuracy": 1.0 / classes}
    known = torch.ones_like(labels, dtype=torch.bool) if known_NC is None else known_NC.bool()
    positive_NC = (labels > 0) & known
    with_positive_C = positive_NC.any(dim=0)
    share_C = positive_NC.sum(dim=0)[with_positive_C] / known.sum(dim=0)[with_positive_C]
    tags_N = known.sum(dim=1)[positive_NC.any(dim=1)].double()
    return {"auroc": 0.5, "mAP": float(share_C.mean()), "mAR": float(((tags_N + 1) / (2 * tags_N)).mean())}
