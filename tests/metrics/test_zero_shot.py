import pytest
import torch

from byol_ext.metrics.zero_shot import (
    LAION_GENRE_TEMPLATES,
    LAION_SOUND_TEMPLATES,
    SLAP_TEMPLATES,
    class_scores,
    embed_templates,
    ensemble_vectors,
    fill_templates,
    zero_shot_metrics,
)


def test_templates_of_the_papers():
    assert fill_templates(["jazz"])[2] == ["this sounds like jazz"]
    assert fill_templates(["dog"], LAION_SOUND_TEMPLATES) == [["This is a sound of dog"]]
    assert fill_templates(["rock"], LAION_GENRE_TEMPLATES) == [["This audio is a rock song."]]
    assert len(SLAP_TEMPLATES) == 4


def test_embed_templates_keeps_templates_and_classes_apart():
    seen: list[str] = []

    def embed(captions: list[str]) -> torch.Tensor:
        seen.extend(captions)
        return torch.arange(len(captions)).float()[:, None].expand(-1, 3)

    text = embed_templates(["a", "b"], embed, templates=("{}", "x {}", "{} y"))
    assert seen == ["a", "b", "x a", "x b", "a y", "b y"]
    assert text[:, :, 0].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_ensemble_normalises_before_and_after_the_mean():
    text = torch.tensor([[[10.0, 0.0]], [[0.0, 1.0]]])
    assert torch.allclose(ensemble_vectors(text), torch.tensor([[0.5**0.5, 0.5**0.5]]))


def test_every_choice_is_reported_and_the_best_is_labelled():
    audio = torch.eye(4)
    text = torch.stack([torch.eye(4), torch.eye(4)[[1, 0, 2, 3]], torch.eye(4)[[1, 2, 3, 0]]])
    metrics = zero_shot_metrics(audio_ND=audio, text_TCD=text, labels=torch.arange(4))
    assert [metrics[f"zero_shot/template_{i}/accuracy"] for i in range(3)] == [1.0, 0.5, 0.0]
    assert metrics["zero_shot/mean/accuracy"] == 0.5
    assert metrics["zero_shot/best_of_3_on_test/accuracy"] == 1.0
    assert metrics["zero_shot/chance/accuracy"] == 0.25
    assert metrics["zero_shot/items"] == 4
    assert "zero_shot/ensemble/accuracy" in metrics


def test_unbalanced_classes_show_the_majority_and_the_mean_recall():
    labels = torch.tensor([0] * 8 + [1, 2])
    audio = torch.eye(4)[[0] * 8 + [1, 0]]  # class 2 is taken for class 0; class 3 has no item
    metrics = zero_shot_metrics(audio_ND=audio, text_TCD=torch.eye(4)[None], labels=labels)
    assert metrics["zero_shot/majority/accuracy"] == 0.8
    assert metrics["zero_shot/chance/accuracy"] == metrics["zero_shot/chance/balanced_accuracy"] == 0.25
    assert metrics["zero_shot/ensemble/accuracy"] == 0.9
    for choice in ("template_0", "mean", "ensemble", "best_of_1_on_test"):
        assert metrics[f"zero_shot/{choice}/balanced_accuracy"] == pytest.approx(2 / 3)


def test_multi_label_with_unknown_tags():
    generator = torch.Generator().manual_seed(0)
    text = torch.eye(6)[None]
    labels = (torch.rand(80, 6, generator=generator) < 0.3).float()
    audio = labels + 0.3 * torch.randn(80, 6, generator=generator)
    known = torch.rand(80, 6, generator=generator) < 0.7
    metrics = zero_shot_metrics(audio_ND=audio, text_TCD=text, labels=labels, known_NC=known)
    assert metrics["zero_shot/ensemble/auroc"] > 0.9
    assert not any("accuracy" in key for key in metrics)
    assert metrics["zero_shot/chance/auroc"] == 0.5
    assert metrics["zero_shot/chance/mAP"] == pytest.approx(0.3, abs=0.08)
    assert metrics["zero_shot/chance/mAR"] == pytest.approx(0.61, abs=0.05)


def test_scores_do_not_depend_on_length_or_autocast():
    audio, text = torch.randn(5, 8), torch.randn(3, 8)
    expected = class_scores(audio, text)
    assert torch.allclose(class_scores(7 * audio, 0.1 * text), expected, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(class_scores(audio, text), expected)


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], ("{}",), "at least 1"),
        (["a"], (), "at least 1"),
        (["a"], ("song",), "no {}"),
        (["a", " "], ("{}",), "class 1"),
    ],
)
def test_bad_templates(classes, templates, message):
    with pytest.raises(ValueError, match=message):
        fill_templates(classes, templates)


def test_bad_labels():
    with pytest.raises(ValueError, match="labels have shape"):
        zero_shot_metrics(audio_ND=torch.eye(3), text_TCD=torch.eye(3)[None], labels=torch.arange(4))
