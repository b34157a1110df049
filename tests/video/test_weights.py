"""Loading torchvision's files, which have a classifier and the names of the whole model."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from byol_ext.video import encoders
from byol_ext.video.encoders import VideoEncoder
from byol_ext.video.order_norm import separate_norms_by_order
from byol_ext.video.weights import load_torchvision_weights

models = pytest.importorskip("torchvision.models.video")


def tiny(width: int = 4) -> nn.Module:
    """A model with the parts of torchvision's video ResNets."""
    model = nn.Module()
    model.stem = nn.Sequential(nn.Conv3d(3, width, 3, padding=1), nn.BatchNorm3d(width))
    model.layer1 = nn.Sequential(nn.Conv3d(width, width, 1))
    model.fc = nn.Linear(width, 400)
    return model


def tiny_encoder(width: int = 4) -> VideoEncoder:
    model = tiny(width)
    del model.fc
    trunk = nn.Sequential()
    for name, part in model.named_children():
        trunk.add_module(name, part)
    return VideoEncoder(trunk, width=width)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_are_those_of_the_saved_model(tmp_path, suffix):
    model, encoder = models.s3d(weights=None).eval(), encoders.s3d(8).eval()
    path = tmp_path / f"s3d{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.state_dict(), path)
    assert load_torchvision_weights(encoder, path) == ["classifier.1.bias", "classifier.1.weight"]
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder.feature_map(x), model.features(x))


def test_files_without_batch_counters_are_taken(tmp_path):
    state = tiny().state_dict()
    del state["stem.1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    encoder = tiny_encoder()
    assert load_torchvision_weights(encoder, tmp_path / "old.pth") == ["fc.bias", "fc.weight"]
    assert torch.equal(encoder.trunk.stem[0].weight, state["stem.0.weight"])


def test_wrong_tensors_are_named_and_nothing_is_loaded(tmp_path):
    encoder = tiny_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = tiny(5).state_dict()
    state["layer9.weight"] = state.pop("layer1.0.bias")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"stem.0.weight is \[5, 3, 3, 3, 3\] in the file and \[4, 3, 3, 3, 3\]"):
        load_torchvision_weights(encoder, tmp_path / "other.pth")
    state = tiny().state_dict()
    state["layer9.weight"] = state.pop("layer1.0.bias")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"layer1.0.bias is missing; layer9.weight is unknown"):
        load_torchvision_weights(encoder, tmp_path / "other.pth")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_many_problems_are_counted(tmp_path):
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="and 3 more"):
        load_torchvision_weights(tiny_encoder(), tmp_path / "empty.pth")


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.pth", b"not weights"), ("empty.pth", b""), ("text.safetensors", b"not weights"), ("cut.safetensors", b"")],
)
def test_files_that_are_no_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_torchvision_weights(tiny_encoder(), tmp_path / name)


def test_other_contents_and_uses(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_torchvision_weights(tiny_encoder(), tmp_path / "absent.pth")
    torch.save({"state_dict": {}}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match="no state dict"):
        load_torchvision_weights(tiny_encoder(), tmp_path / "nested.pth")
    torch.save(tiny().state_dict(), tmp_path / "fine.pth")
    with pytest.raises(ValueError, match="before separate_norms_by_order"):
        load_torchvision_weights(separate_norms_by_order(tiny_encoder()), tmp_path / "fine.pth")
