import unicodedata

import numpy as np
import pytest

from byol_ext.text.transforms import (
    CaptionAugment,
    TruncationCount,
    choose_caption,
    drop_sentences,
    normalize_caption,
    normalize_captions,
    shuffle_sentences,
    split_sentences,
    tags_to_prompt,
    usable_captions,
)

CAPTION = "A slow reel. It is played on a flute. In cut time!"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  a  slow\t\nreel ", "a slow reel"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u00a0reel", "a reel"),
        ("a\x00b", "a b"),
        ("ok", "ok"),
    ],
)
def test_normal_form(given: str, expected: str) -> None:
    normal = normalize_caption(given)
    assert normal == expected
    assert unicodedata.is_normalized("NFC", normal)
    assert normalize_caption(normal) == normal


@pytest.mark.parametrize("bad", ["", "   ", "\n\t", None, 3, 1.5, ["a"], b"a", "\u200b", "\x00"])
def test_unusable_query_names_the_row(bad: object) -> None:
    with pytest.raises(ValueError, match="row 1"):
        normalize_captions(["a reel", bad])


def test_one_string_and_empty_list_are_refused() -> None:
    with pytest.raises(ValueError, match="list"):
        normalize_captions("a reel")
    with pytest.raises(ValueError, match="at least one"):
        normalize_captions([])


def test_training_drops_unusable_captions() -> None:
    assert usable_captions(["a reel", None, "", " a  reel", 4, "a jig"]) == ["a reel", "a jig"]
    assert usable_captions([None, "  "]) == []


def test_choice_is_first_in_evaluation_and_uniform_in_training() -> None:
    captions = ["a", "b", "c"]
    assert choose_caption(captions, None) == "a"
    rng = np.random.default_rng(0)
    counts = np.unique([choose_caption(captions, rng) for _ in range(3000)], return_counts=True)[1]
    assert (abs(counts - 1000) < 4 * np.sqrt(3000 * 2 / 9)).all()
    with pytest.raises(ValueError, match="usable_captions"):
        choose_caption([], rng)


def test_sentences_are_shuffled_and_dropped_whole() -> None:
    rng = np.random.default_rng(0)
    sentences = split_sentences(CAPTION)
    assert len(sentences) == 3
    orders = {shuffle_sentences(CAPTION, rng) for _ in range(100)}
    assert len(orders) == 6
    assert all(sorted(split_sentences(order)) == sorted(sentences) for order in orders)
    kept = {drop_sentences(CAPTION, rng, chance=0.5) for _ in range(200)}
    assert len(kept) == 7
    assert all(set(split_sentences(text)) <= set(sentences) for text in kept)
    assert drop_sentences(CAPTION, rng, chance=1.0) in sentences
    assert drop_sentences(CAPTION, rng, chance=0.0) == CAPTION


def test_tag_prompts_name_only_given_tags() -> None:
    tags = {"instrument": "flute", "kind": "reel", "bpm": 90, "origin": None}
    assert tags_to_prompt(tags) == "flute, reel"
    rng = np.random.default_rng(0)
    prompts = {tags_to_prompt(tags, rng, templates=("{}",)) for _ in range(100)}
    assert prompts == {"flute", "reel", "flute, reel", "reel, flute"}
    with pytest.raises(ValueError, match="at least one tag"):
        tags_to_prompt({"bpm": 90})


def test_augmentation_depends_on_the_generator_alone() -> None:
    augment = CaptionAugment(shuffle=0.5, drop=0.3, tag_prompt=0.3)
    captions, tags = [CAPTION, "Another. Caption."], {"instrument": "flute", "kind": "reel", "title": "Secret"}

    def draw(seed: int) -> str:
        return augment(captions, tags, np.random.default_rng(seed))

    drawn = [draw(seed) for seed in range(60)]
    assert drawn == [draw(seed) for seed in range(60)]
    assert len(set(drawn)) > 10
    assert not any("Secret" in text for text in drawn)
    assert augment(captions, tags, None) == CAPTION
    assert CaptionAugment()([CAPTION], {}, np.random.default_rng(0)) == CAPTION


def test_truncation_count() -> None:
    count = TruncationCount()
    assert count.share == 0.0
    count.add([3, 9, 5], limit=5)
    count.add([2], limit=5)
    assert (count.seen, count.truncated, count.longest, count.share) == (4, 1, 9, 0.25)
