"""T10: retrieval against hand-made matrices, brute force and exact chance."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from byol_ext.metrics.retrieval import (
    chance_metrics,
    rank_candidates,
    rank_similarity,
    retrieve,
    slap_compat_metrics,
)

# Rows: 3 audio items. Columns: 6 captions, owned by audio 0, 0, 0, 1, 2, 2 (unequal counts).
OWNER = torch.tensor([0, 0, 0, 1, 2, 2])
SCORES = torch.tensor(
    [
        [0.9, 0.2, 0.1, 0.8, 0.3, 0.4],
        [0.7, 0.6, 0.1, 0.5, 0.9, 0.2],
        [0.3, 0.8, 0.1, 0.6, 0.6, 0.5],
    ]
)


def brute_force(score_QC: Tensor, query_ids: list[int], candidate_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Best rank and AP@10 [Q, orders] in every order of ties, by Python loops over permutations of the candidates."""
    ranks, precisions = [], []
    for row, own in zip(score_QC.tolist(), query_ids, strict=True):
        best, ap = [], []
        for order in itertools.permutations(range(len(row))):
            ranked = sorted(order, key=lambda c: -row[c])
            positions = [i + 1 for i, c in enumerate(ranked) if candidate_ids[c] == own]
            best.append(positions[0])
            hits = [(n + 1) / position for n, position in enumerate(positions) if position <= 10]
            ap.append(sum(hits) / min(10, len(positions)))
        ranks.append(best)
        precisions.append(ap)
    return np.array(ranks), np.array(precisions)


def test_hand_made_multi_caption_audio_to_text():
    ranking = rank_similarity(SCORES, query_ids_Q=torch.arange(3), candidate_ids_C=OWNER)
    # audio 0: its .9 is first; audio 1: .5 is fourth; audio 2: .6 is tied with the wrong .6 behind .8, ranks 2 and 3.
    assert ranking.ranks_Q.tolist() == [1.0, 4.0, 2.5]
    assert ranking.correct_Q.tolist() == [3, 1, 2]
    # audio 0: correct at 1, 5, 6 -> (1 + 2/5 + 3/6) / 3.
    assert ranking.average_precision_Q[0].item() == pytest.approx((1 + 2 / 5 + 3 / 6) / 3)
    assert ranking.average_precision_Q[1].item() == pytest.approx(1 / 4)
    metrics = ranking.metrics(ks=(1, 3))
    assert metrics["R@1"] == pytest.approx(100 / 3)
    assert metrics["R@3"] == pytest.approx(200 / 3)
    assert metrics["MedR"] == 2.5
    assert metrics["MdNR"] == pytest.approx(100 * 2.5 / 6)
    assert metrics["MNR"] == pytest.approx(100 * 7.5 / 3 / 6)
    assert metrics["MRR"] == pytest.approx(100 * (1 + 1 / 4 + (1 / 2 + 1 / 3) / 2) / 3)
    assert ranking.metrics(ties="mid")["MRR"] == pytest.approx(100 * (1 + 1 / 4 + 1 / 2.5) / 3)
    assert metrics["tied"] == pytest.approx(100 / 3)


def test_hand_made_text_to_audio_every_caption_is_a_query():
    ranking = rank_similarity(SCORES.T, query_ids_Q=OWNER, candidate_ids_C=torch.arange(3))
    assert ranking.ranks_Q.tolist() == [1.0, 3.0, 2.0, 3.0, 2.0, 1.0]
    three_level = (1 + 1 / 2 + 1 / 3) / 3
    assert ranking.average_precision_Q.tolist() == pytest.approx([1, 1 / 3, three_level, 1 / 3, 1 / 2, 1])


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_equals_brute_force_over_tie_orders(seed):
    generator = torch.Generator().manual_seed(seed)
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 1])
    scores = torch.randint(0, 3, (3, 7), generator=generator) / 4  # many ties
    ranking = rank_similarity(scores, query_ids_Q=torch.arange(3), candidate_ids_C=owner)
    ranks, precisions = brute_force(scores, [0, 1, 2], owner.tolist())
    assert ranking.ranks_Q.tolist() == pytest.approx(ranks.mean(axis=1))
    assert ranking.average_precision_Q.tolist() == pytest.approx(precisions.mean(axis=1))
    metrics = ranking.metrics(ks=(1, 2, 3))
    for k in (1, 2, 3):
        assert ranking.hits_Q(k).tolist() == pytest.approx((ranks <= k).mean(axis=1))
        assert metrics[f"R@{k}"] == pytest.approx(100 * (ranks <= k).mean())
    assert metrics["MRR"] == pytest.approx(100 * (1 / ranks).mean())
    assert metrics["MedR"] == np.median(ranks)
    assert metrics["MNR"] == pytest.approx(100 * ranks.mean() / 7)


def test_average_precision_equals_brute_force_without_ties():
    generator = torch.Generator().manual_seed(4)
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 1])
    scores = torch.randn(3, 7, generator=generator)
    ranking = rank_similarity(scores, query_ids_Q=torch.arange(3), candidate_ids_C=owner)
    _, precisions = brute_force(scores, [0, 1, 2], owner.tolist())
    assert ranking.average_precision_Q.tolist() == pytest.approx(precisions.mean(axis=1))


def test_average_precision_divides_by_ten_when_there_are_more_captions():
    scores = torch.arange(20.0).flip(0)[None]
    owner = torch.tensor([0] * 15 + [1] * 5)
    ranking = rank_similarity(scores, query_ids_Q=torch.tensor([0]), candidate_ids_C=owner)
    assert ranking.average_precision_Q.item() == pytest.approx(1.0)


def test_mid_rank_is_the_spec_formula_for_one_correct_candidate():
    scores = torch.tensor([[0.5, 0.5, 0.7, 0.5, 0.1]])
    ranking = rank_similarity(scores, query_ids_Q=torch.tensor([0]), candidate_ids_C=torch.arange(5))
    assert ranking.ranks_Q.item() == 1 + 1 + (3 - 1) / 2


def test_duplicate_captions_of_the_same_audio_cost_nothing():
    text = torch.eye(3)[[0, 0, 1, 2]]
    ranking = retrieve(audio_ND=torch.eye(3), text_MD=text, audio_of_text_M=torch.tensor([0, 0, 1, 2])).audio_to_text
    assert ranking.ranks_Q.tolist() == [1.0, 1.0, 1.0]
    assert ranking.metrics()["mAP@10"] == 100.0


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_constant_embeddings_score_chance(scale):
    owner = torch.arange(20).repeat_interleave(torch.tensor([1, 2, 3, 4] * 5))
    audio = scale * torch.randn(37).expand(20, 37)
    text = scale * torch.randn(37).expand(50, 37)
    both = retrieve(audio_ND=audio, text_MD=text, audio_of_text_M=owner)
    flat = both.metrics()
    for ranking in (both.text_to_audio, both.audio_to_text):
        got, chance = ranking.metrics(), ranking.chance()
        assert got.pop("tied") == 100.0
        assert got == pytest.approx(chance)
        for k in (1, 5, 10):
            assert 100 * float(ranking.hits_Q(k).mean()) == pytest.approx(chance[f"R@{k}"])
        assert ranking.metrics(ties="mid")["R@1"] == 0.0
    for key, value in flat.items():
        for direction in ("text_to_audio", "audio_to_text"):
            if f"/{direction}/chance/" in key:
                assert flat[key.replace("/chance/", "/")] == pytest.approx(value), key


def test_constant_embeddings_score_chance_under_slap_names():
    compat = slap_compat_metrics(audio_ND=torch.ones(20, 3), text_MD=torch.ones(20, 3))
    assert compat["retrieval/compat_slap/text_to_audio/R@5"] == pytest.approx(25)


def test_options_of_ties_agree_without_ties():
    ranking = retrieve(audio_ND=torch.randn(41, 8), text_MD=torch.randn(41, 8)).text_to_audio
    assert ranking.metrics(ties="mid") == pytest.approx(ranking.metrics())
    even = retrieve(audio_ND=torch.randn(40, 8), text_MD=torch.randn(40, 8)).text_to_audio
    assert even.metrics()["MedR"] == even.metrics(ties="mid")["MedR"] == np.median(even.ranks_Q)


def test_nearly_constant_embeddings_are_ties_not_luck():
    base = torch.randn(64)
    audio = base + 1e-6 * torch.randn(200, 64)
    ranking = retrieve(audio_ND=audio, text_MD=audio + 0).text_to_audio
    assert ranking.metrics()["tied"] == 100.0
    assert ranking.metrics()["MNR"] == pytest.approx(50, abs=1)


def test_chance_agrees_with_random_rankings():
    counts = torch.tensor([1, 1, 3, 5])
    generator = np.random.default_rng(0)
    pool = 12
    ranks = np.array(
        [[generator.permutation(pool)[:m].min() + 1 for m in counts.tolist()] for _ in range(20_000)], dtype=float
    )
    chance = chance_metrics(candidates=pool, correct_Q=counts)
    assert chance["R@1"] == pytest.approx(100 * (ranks <= 1).mean(), abs=0.5)
    assert chance["R@5"] == pytest.approx(100 * (ranks <= 5).mean(), abs=0.5)
    assert chance["MRR"] == pytest.approx(100 * (1 / ranks).mean(), abs=0.5)
    assert chance["MNR"] == pytest.approx(100 * ranks.mean() / pool, abs=0.5)
    assert chance["MedR"] == np.median(ranks)
    assert chance["R@10"] <= 100.0


def test_chance_of_average_precision_equals_mean_over_all_rankings():
    owner = [0, 0, 1, 1, 1]
    total = []
    for order in itertools.permutations(range(5)):
        positions = [i + 1 for i, c in enumerate(order) if owner[c] == 0]
        total.append(sum((n + 1) / p for n, p in enumerate(positions)) / 2)
    chance = chance_metrics(candidates=5, correct_Q=torch.tensor([2]))
    assert chance["mAP@10"] == pytest.approx(100 * np.mean(total))


def test_direction_names():
    """Both captions point at audio 0, but each audio finds its own text: swapped names would show."""
    audio = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    text = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
    metrics = retrieve(audio_ND=audio, text_MD=text).metrics()
    assert metrics["retrieval/text_to_audio/R@1"] == 50.0  # caption 1 prefers audio 0
    assert metrics["retrieval/audio_to_text/R@1"] == 100.0  # audio 1 prefers caption 1
    assert metrics["retrieval/chance/R@1"] == pytest.approx(50.0)
    assert metrics["retrieval/audio_to_text/candidates"] == 2
    compat = slap_compat_metrics(audio_ND=audio, text_MD=text)
    assert compat["retrieval/compat_slap/audio_to_text/R@1"] == 50.0
    assert compat["retrieval/compat_slap/text_to_audio/R@1"] == 100.0


def test_compat_divides_by_the_largest_observed_rank_and_takes_first_captions():
    audio, text = torch.randn(10, 8), torch.randn(10, 8)
    rank = retrieve(audio_ND=audio, text_MD=text).text_to_audio.ranks_Q - 1
    compat = slap_compat_metrics(audio_ND=audio, text_MD=text)
    assert compat["retrieval/compat_slap/audio_to_text/MNR"] == pytest.approx(100 * float((rank / rank.max()).mean()))
    doubled = torch.stack([text, torch.randn(10, 8)], dim=1).flatten(0, 1)
    owner = torch.arange(10).repeat_interleave(2)
    assert slap_compat_metrics(audio_ND=audio, text_MD=doubled, audio_of_text_M=owner) == compat
    perfect = slap_compat_metrics(audio_ND=torch.eye(4), text_MD=torch.eye(4))
    assert perfect["retrieval/compat_slap/audio_to_text/MNR"] == 0.0


def test_chunks_and_order_of_captions_do_not_matter():
    audio, text = torch.randn(30, 16), torch.randn(75, 16)
    owner = torch.cat([torch.arange(30), torch.randint(0, 30, (45,))])
    whole = retrieve(audio_ND=audio, text_MD=text, audio_of_text_M=owner)
    chunked = retrieve(audio_ND=audio, text_MD=text, audio_of_text_M=owner, chunk_elements=100)
    order = torch.randperm(75)
    shuffled = retrieve(audio_ND=audio, text_MD=text[order], audio_of_text_M=owner[order])
    for ours in (chunked, shuffled):
        assert torch.equal(ours.audio_to_text.ranks_Q, whole.audio_to_text.ranks_Q)
        assert torch.allclose(ours.audio_to_text.average_precision_Q, whole.audio_to_text.average_precision_Q)
    assert torch.equal(chunked.text_to_audio.ranks_Q, whole.text_to_audio.ranks_Q)
    assert torch.equal(shuffled.text_to_audio.ranks_Q, whole.text_to_audio.ranks_Q[order])


def test_float32_under_autocast():
    audio, text = torch.randn(50, 64), torch.randn(50, 64)
    plain = retrieve(audio_ND=audio, text_MD=text).text_to_audio.ranks_Q
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(retrieve(audio_ND=audio, text_MD=text).text_to_audio.ranks_Q, plain)


def test_hits_are_per_query_and_average_to_recall():
    ranking = retrieve(audio_ND=torch.randn(40, 8), text_MD=torch.randn(40, 8)).text_to_audio
    assert ranking.hits_Q(5).shape == (40,)
    assert 100 * float(ranking.hits_Q(5).mean()) == pytest.approx(ranking.metrics()["R@5"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_MD": torch.randn(4, 5)}, "audio_of_text_M"),
        ({"audio_of_text_M": torch.tensor([0, 1, 3])}, "outside"),
        ({"audio_of_text_M": torch.tensor([0, 1])}, "shape"),
        ({"audio_of_text_M": torch.tensor([0, 1, 1])}, r"\[2\] have no correct"),
        ({"text_MD": torch.full((3, 5), float("nan"))}, "NaN"),
        ({"text_MD": torch.randn(3, 6)}, "wide"),
        ({"audio_ND": torch.randn(0, 5), "text_MD": torch.randn(0, 5)}, "at least one row"),
    ],
)
def test_bad_inputs(change, message):
    arguments = {"audio_ND": torch.randn(3, 5), "text_MD": torch.randn(3, 5)} | change
    with pytest.raises(ValueError, match=message):
        retrieve(**arguments)


def test_missing_candidates_are_named_with_their_global_row():
    with pytest.raises(ValueError, match=r"queries \[5\]"):
        rank_candidates(
            query_QD=torch.randn(6, 3),
            candidate_CD=torch.randn(5, 3),
            query_ids_Q=torch.arange(6),
            candidate_ids_C=torch.arange(5),
            chunk_elements=10,
        )


def test_k_below_one_and_impossible_chance():
    ranking = retrieve(audio_ND=torch.eye(3), text_MD=torch.eye(3)).text_to_audio
    with pytest.raises(ValueError, match="at least 1"):
        ranking.hits_Q(0)
    with pytest.raises(ValueError, match="pool"):
        chance_metrics(candidates=3, correct_Q=torch.tensor([4]))
    with pytest.raises(ValueError, match="no queries"):
        chance_metrics(candidates=3, correct_Q=torch.tensor([], dtype=torch.int64))
