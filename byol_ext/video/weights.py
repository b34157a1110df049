"""Kinetics-supervised torchvision weights from a local file, as a baseline or a start.

They expect frames normalised by :data:`KINETICS_MEAN` and :data:`KINETICS_STD` (R3D, R(2+1)D, MC3), or by ImageNet's
mean and std (S3D, Video Swin), as torchvision's weight cards say.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from byol_ext.video.encoders import VideoEncoder
from byol_ext.video.order_norm import OrderBatchNorm

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)
_CLASSIFIERS = ("fc.", "classifier.", "head.")
_NAMED = 5


def load_torchvision_weights(encoder: VideoEncoder, path: str | Path) -> list[str]:
    """Load a torchvision video model's file, such as ``r3d_18-b3b3357e.pth``, into the encoder of the same kind.

    Args:
        encoder: Made by :func:`byol_ext.video.encoders.r3d_18` and its like. Convert its norms afterwards.
        path: A state dict, ``.pth`` or ``.safetensors``. Nothing is downloaded.

    Returns:
        Names of the classifier's tensors, which are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no state dict, or its tensors differ from the encoder's in name or shape.
    """
    if any(isinstance(layer, OrderBatchNorm) for layer in encoder.modules()):
        raise ValueError("load weights before separate_norms_by_order: it starts every order from their statistics")
    state = _read(Path(path))
    dropped = sorted(name for name in state if name.startswith(_CLASSIFIERS))
    kept = {name: tensor for name, tensor in state.items() if name not in dropped}
    own = encoder.trunk.state_dict()
    problems = [
        f"{name} is {list(tensor.shape)} in the file and {list(own[name].shape)} in the encoder"
        for name, tensor in kept.items()
        if name in own and own[name].shape != tensor.shape
    ]
    # Files older than PyTorch 0.4.1 do not count batches.
    problems += [f"{name} is missing" for name in own if name not in kept and not name.endswith("num_batches_tracked")]
    problems += [f"{name} is unknown to the encoder" for name in kept if name not in own]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError(
            f"{path} does not fit this encoder: {'; '.join(problems[:_NAMED])}{more}. "
            "Give the file of the same torchvision model"
        )
    encoder.trunk.load_state_dict(own | kept)
    return dropped


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no weights at {path}; download a file named by torchvision.models.video, such as "
            "R3D_18_Weights.KINETICS400_V1.url"
        )
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no state dict: expected tensors by name, as torchvision's files hold them")
    return state
