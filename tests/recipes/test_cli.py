"""The command line: parsing, messages, exit codes, doctor, quickstart's report."""

import json
from dataclasses import replace

import pytest
import yaml

from byol_ext.training import plain
from recipes import cli
from recipes.config import from_dict, load, parse
from recipes.doctor import check_package, findings
from recipes.slap_compare import compare
from recipes.slap_config import PRESETS, SlapConfig, tiny


def run(*args):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(args))
    return stopped.value.code


def test_usage_and_unknown_commands(capsys):
    assert run() == 2
    assert run("--help") == 0
    assert "slap compare" in capsys.readouterr().out
    assert run("slpa") == 2
    assert run("slap", "trian") == 2
    assert "expected one of train" in capsys.readouterr().err


def test_presets_files_and_options(tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump({"ema": {"tau": 0.9}, "train": {"steps": 7}}))
    options = ["--preset", "tiny", "--config", str(saved), "--ema.tau-end", "0.99", "--train.betas", "0.8", "0.9"]
    config = parse(SlapConfig, PRESETS, options, prog="x", description="")
    assert (config.ema.tau, config.ema.tau_end, config.train.steps, config.name) == (0.9, 0.99, 7, "tiny")
    assert config.train.betas == (0.8, 0.9)


def test_a_saved_configuration_comes_back(tmp_path):
    file = tmp_path / "config.yaml"
    for preset in PRESETS.values():
        file.write_text(yaml.safe_dump(plain(preset())))
        assert load(SlapConfig, file) == preset()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"emma": {}}, "did you mean 'ema'"),
        ({"ema": {"tua": 0.9}}, "ema: unknown key 'tua'; did you mean 'tau'"),
        ({"ema": {"tau": "high"}}, "must be of type float"),
        ({"ema": {"schedule": "sine"}}, "'sine' is not one of 'const'"),
        ({"train": {"trackers": "wandb"}}, "must be a list"),
        ({"train": {"steps": 1.5}}, "must be of type int"),
    ],
)
def test_bad_configuration_names_the_field(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(SlapConfig, values, where="config.yaml")


def test_bad_options_exit_with_2(capsys, tmp_path):
    assert run("slap", "train", "--preset", "huge") == 2
    assert run("slap", "train", "--config", str(tmp_path / "none.yaml")) == 2
    assert run("slap", "train", "--ema.tua", "1") == 2
    assert run("slap", "train", "--preset", "tiny", "--loss.lam", "2") == 2
    assert "lam=2.0 must lie in [0, 1]" in capsys.readouterr().err
    assert run("slap", "eval") == 2
    assert run("slap", "compare", "--arms", "slpa") == 2
    assert run("slap", "compare", "--jobs", "0") == 2
    assert run("doctor", "--jsn") == 2
    assert run("slap", "--help") == 0


def test_help_is_a_manual(capsys):
    assert run("slap", "train", "--help") == 0
    text = capsys.readouterr().out
    assert "--ema.tau" in text
    assert "paper 4.3" in text


def test_failures_exit_with_1_and_say_why(capsys, tmp_path):
    assert run("slap", "eval", "--run", str(tmp_path)) == 1
    assert "is not a run directory" in capsys.readouterr().err
    assert run("slap", "train", "--preset", "base", "--root", str(tmp_path)) == 1
    assert "no data set is named" in capsys.readouterr().err


def test_train_then_eval_commands(config, tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(plain(config)))
    assert run("slap", "train", "--config", str(file)) == 0
    assert "retrieval/text_to_audio/R@1" in capsys.readouterr().out
    folder = tmp_path / "runs" / "slap" / "test"
    assert run("slap", "train", "--config", str(file)) == 1
    assert "resume it, or choose another name" in capsys.readouterr().err
    assert run("slap", "eval", "--run", str(folder), "--out", str(tmp_path / "again"), "--json") == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((folder / "results.json").read_text())
    assert "train/samples_seen" in first["metrics"]
    assert again["protocol"]["test"] == "tonecaps"
    for name, value in again["metrics"].items():
        assert value == pytest.approx(first["metrics"][name], abs=1e-6), name
    assert run("slap", "eval", "--run", str(folder), "--heads.dim", "8") == 2
    assert run("slap", "eval", "--run", str(folder), "--loss.name", "clap-infonce") == 2
    capsys.readouterr()
    assert run("slap", "train", "--config", str(folder / "config.yaml"), "--resume") == 0


def test_shard_command(tmp_path, capsys):
    assert run("slap", "shard", "tonecaps", str(tmp_path / "s"), "--split", "val", "--sample-rate", "16000") == 0
    assert list((tmp_path / "s").glob("*.tar"))
    from recipes.slap_sources import open_source

    assert len(open_source(str(tmp_path / "s"), split="val")) == 27


def test_compare_prints_paired_intervals(config, tmp_path, capsys):
    out = tmp_path / "compare"
    assert compare(config, arms=["slap", "clap-infonce"], seeds=[0], jobs=1, out=out) == 0
    printed = capsys.readouterr().out
    assert "slap - clap-infonce" in printed
    document = json.loads((out / "compare.json").read_text())
    assert set(document["metrics"]) == {"slap", "clap-infonce", "random-init"}
    row = next(row for row in document["rows"] if row["metric"] == "text_to_audio/R@1")
    assert row["chance"] == "1.9"
    assert (out / "compare.html").stat().st_size > 10_000
    stamp = (out / "slap" / "slap-seed0" / "results.json").stat().st_mtime_ns
    assert compare(config, arms=["slap", "clap-infonce"], seeds=[0], jobs=1, out=out) == 0
    assert (out / "slap" / "slap-seed0" / "results.json").stat().st_mtime_ns == stamp


def test_compare_refuses_results_of_another_configuration(config, tmp_path):
    folder = tmp_path / "slap" / "slap-seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain(replace(config, heads=replace(config.heads, dim=8)))))
    with pytest.raises(ValueError, match=r"heads\.dim was 8, now 16"):
        compare(config, arms=["slap"], seeds=[0], jobs=1, out=tmp_path)


def test_quickstart_writes_report_and_results(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recipes.slap_config.tiny", lambda: config)
    assert run("quickstart", "--only", "slap", "--out", str(tmp_path / "q")) == 0
    html = (tmp_path / "q" / "report.html").read_text()
    assert "untrained towers" in html
    assert html.count("data:image/png;base64") == 4
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert json.loads((tmp_path / "q" / "slap" / "results.json").read_text())["recipe"] == "slap"


def test_doctor(capsys):
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "ok", "seen", "remedy"} <= set(found[0])
    missing = check_package("search", "no-such-package")
    assert not missing.ok
    assert missing.remedy == "pip install 'byol_ext[search]'"
    assert any(finding.group == "device" for finding in findings())


def test_tiny_is_a_preset():
    assert PRESETS["tiny"]() == tiny()
