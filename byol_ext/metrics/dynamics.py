"""What features know of a video's dynamics: agreement between orders, classes in space, and clips without motion.

Source: spec vididi section 11. Rates are fractions; nothing here runs an encoder.

Legend: ``N`` videos, ``D`` width, ``B`` clips, ``C`` channels, ``T`` frames, ``H, W`` their size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import silhouette_score
from torch import Tensor


def derivative_agreement(raw_ND: Tensor, derivative_ND: Mapping[int, Tensor]) -> dict[str, float]:
    """Cosine between a clip's features and those of its derivatives, beside that of different videos.

    An encoder that collapsed agrees with itself, too, hence the mismatched cosine. Both are also computed after the
    mean of each set is taken away: features behind a ReLU are positive, and their cosines high whatever they say.

    Args:
        raw_ND: Features of the clips.
        derivative_ND: Features of their differences, by order (1, 2).

    Returns:
        For each order k: `dynamics/agreement_dk`, `dynamics/agreement_dk_mismatched`, `dynamics/agreement_dk_centred`.

    Raises:
        ValueError: For shapes that differ, fewer than two videos, or values that are not finite.

    Example:
        >>> eye = torch.eye(3)
        >>> derivative_agreement(eye, {1: 2 * eye})["dynamics/agreement_d1_mismatched"]
        0.0
    """
    raw = _features("raw", raw_ND)
    n = len(raw)
    out: dict[str, float] = {}
    for order, features in derivative_ND.items():
        other = _features(f"order {order}", features)
        if other.shape != raw.shape:
            raise ValueError(f"raw features {tuple(raw.shape)}, order {order} {tuple(other.shape)}: expected the same")
        a, b = F.normalize(raw, dim=1), F.normalize(other, dim=1)
        own, everything = float((a * b).sum()), float(a.sum(0) @ b.sum(0))
        centred = F.cosine_similarity(raw - raw.mean(0), other - other.mean(0), dim=1)
        out[f"dynamics/agreement_d{order}"] = own / n
        out[f"dynamics/agreement_d{order}_mismatched"] = (everything - own) / (n * (n - 1))
        out[f"dynamics/agreement_d{order}_centred"] = float(centred.mean())
    return out


def class_separation(features_ND: Tensor, label_N: Tensor, *, max_items: int = 4000, seed: int = 0) -> dict[str, float]:
    """How far classes lie apart, in cosine distance.

    Args:
        features_ND: Features.
        label_N: Classes.
        max_items: Videos used at most, drawn at random (distances grow with the square).
        seed: Of that draw.

    Returns:
        `dynamics/silhouette` (-1 to 1; 0 for features that say nothing of the class), `dynamics/within` and
        `dynamics/between`: mean distance of different videos of one class, and of two classes.

    Raises:
        ValueError: Unless there are at least two classes and two videos of one of them.
    """
    features, label = _features("the features", features_ND).cpu(), label_N.cpu()
    if len(features) > max_items:
        keep = torch.from_numpy(np.random.default_rng(seed).permutation(len(features))[:max_items])
        features, label = features[keep], label[keep]
    classes = len(label.unique())
    if len(label) != len(features) or not 2 <= classes < len(label):
        raise ValueError(
            f"{classes} classes among {len(label)} labels and {len(features)} videos: expected one label a video, at "
            "least two classes, and a class with two videos"
        )
    unit = F.normalize(features, dim=1)
    distance = (1.0 - unit @ unit.T).clamp(min=0.0).fill_diagonal_(0.0)
    same = label[:, None] == label
    return {
        "dynamics/silhouette": float(silhouette_score(distance.numpy(), label.numpy(), metric="precomputed")),
        "dynamics/within": float(distance[same & ~torch.eye(len(label), dtype=torch.bool)].mean()),
        "dynamics/between": float(distance[~same].mean()),
    }


def freeze_time(clips_BCTHW: Tensor, *, frame: int | None = None, repeats: int | None = None) -> Tensor:
    """Clips that stand still in their middle: one frame repeated, the frames around it before and after.

    Retrieval of such clips says how much of R@1 needs motion. With ``repeats = T`` nothing moves, with 1 (and the
    default frame) the clip is unchanged; the authors use 1, 8 and 15 repeats (spec section 11).

    For a control of single frames freeze one clip a video: the mean over clips that were frozen at several moments
    still knows where things were, and so how they moved.

    Args:
        clips_BCTHW: Clips.
        frame: The frame that is repeated; default the middle one, ``(T - 1) // 2``.
        repeats: How often it is seen; default T.

    Returns:
        Clips of the same shape.

    Raises:
        ValueError: If the clip has no such frame or not so many.

    Example:
        >>> clip = torch.arange(5.0).reshape(1, 1, 5, 1, 1)
        >>> freeze_time(clip, repeats=3).flatten().tolist()
        [1.0, 2.0, 2.0, 2.0, 3.0]
        >>> freeze_time(clip).flatten().tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    count = clips_BCTHW.shape[2]
    repeats = count if repeats is None else repeats
    frame = (count - 1) // 2 if frame is None else frame
    if not 1 <= repeats <= count:
        raise ValueError(f"repeats={repeats} in clips of {count} frames: expected 1 to {count}")
    if not 0 <= frame < count:
        raise ValueError(f"frame={frame} in clips of {count} frames: expected 0 to {count - 1}")
    from_start_T = torch.arange(count, device=clips_BCTHW.device) - (count - repeats) // 2
    offset_T = from_start_T.clamp(max=0) + (from_start_T - repeats + 1).clamp(min=0)
    return clips_BCTHW[:, :, (frame + offset_T).clamp(0, count - 1)]


def swap_backgrounds(clips_BTHWC: Tensor, moving_BTHW: Tensor, *, donor_B: Tensor) -> Tensor:
    """Clips with their moving pixels before another clip's background.

    A background is the median over time of the pixels that do not move, so that the donor's own object is gone. Where a
    pixel of the donor moves in every frame, its plain median over time stands in.

    Args:
        clips_BTHWC: Pictures, uint8 or float.
        moving_BTHW: Bool, exact or from `byol_ext.video.saliency.frame_difference_mask`.
        donor_B: Which clip gives each its background.

    Returns:
        The shape and dtype of the clips.
    """
    pixels = clips_BTHWC.float()
    still = pixels.masked_fill(moving_BTHW[..., None], float("nan")).nanmedian(dim=1).values
    background = torch.where(still.isnan(), pixels.median(dim=1).values, still)
    swapped = torch.where(moving_BTHW[..., None], pixels, background[donor_B][:, None])
    return swapped.to(clips_BTHWC.dtype)


def _features(name: str, features_ND: Tensor) -> Tensor:
    features = features_ND.detach().double()
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name}: {tuple(features.shape)}, expected [videos, width] with at least two videos")
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name}: holds NaN or Inf")
    return features
