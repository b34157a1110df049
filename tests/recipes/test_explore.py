"""The exploration recipe end to end, tiny: every agent, resume, evaluation, recording, maps, study, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml

from byol_ext.rl.encoders import InputStatistics
from byol_ext.training import Run, load_checkpoint, plain
from recipes.cli import run as cli
from recipes.config import from_dict
from recipes.explore import (
    build,
    context_rows,
    intrinsic_coef,
    load_run,
    loop_config,
    seed_statistics,
    train,
    wander,
)
from recipes.explore_commands import train_and_evaluate
from recipes.explore_config import PRESETS, ExploreConfig, tiny
from recipes.explore_study import ABLATIONS, Ablation, Cell, ablation_cells, run_cell, run_cells

AGENTS = ("byol-explore", "byol-hindsight", "rnd", "icm", "ngu", "count", "none")


@pytest.fixture
def config(tmp_path) -> ExploreConfig:
    base = tiny()
    return replace(
        base,
        name="test",
        root=str(tmp_path / "runs"),
        env_steps=4 * 8 * 16,
        envs=replace(base.envs, num=8, noise="on_demand"),
        policy=replace(base.policy, width=16, mlp_hidden=(32,), memory=16),
        curiosity=replace(
            base.curiosity, horizon=4, hindsight_hidden=(16,), num_negatives=8, warmup_steps=1, ngu_capacity=64
        ),
        learn=replace(base.learn, steps=16, epochs=2, minibatches=2),
        train=replace(base.train, log_every=4, monitor_every=4, checkpoint_every=6),
        eval=replace(base.eval, episodes=2, max_steps=40, greedy=True),
    )


def weights(path):
    newest = Run.open(path).latest
    assert newest is not None
    return load_checkpoint(newest)


def test_train_evaluate_results_and_figures(config, tmp_path):
    assert train_and_evaluate(config) == 0
    run = tmp_path / "runs" / "explore" / "test"
    results = json.loads((run / "results.json").read_text())
    assert results["recipe"] == "explore"
    metrics = results["metrics"]
    assert metrics["train/env_steps"] == config.env_steps
    assert 0 <= metrics["maze/noise_asked"] <= 1
    assert metrics["eval/sampled/episodes"] == 2
    assert metrics["eval/greedy/length_mean"] == 40
    assert results["protocol"]["noise"] == "on_demand"
    assert {path.name for path in (run / "figures").glob("*.png")} == {"training.png", "cells.png"}
    assert len((run / "eval.jsonl").read_text().splitlines()) == 4
    names = {name for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert {"bonus/ell/k1", "bonus/ell/k4", "bonus/y/rankme", "noise/asked", "share/environments"} <= names


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains(config, agent):
    result, experiment, _ = train(replace(config, agent=agent, env_steps=2 * 8 * 16))
    assert result.skipped == 0
    assert experiment.source.rollouts == 2


@pytest.mark.parametrize("agent", ["byol-explore", "byol-hindsight"])
@pytest.mark.parametrize("share", ["encoder+rnn", "encoder", "none"])
def test_sharing_is_what_it_says(config, agent, share):
    changed = replace(config, agent=agent, curiosity=replace(config.curiosity, share=share), env_steps=8 * 16)
    _, experiment, _ = train(changed)
    policy = {id(p) for p in experiment.agent.policy.trunk.parameters()}
    bonus = {id(p) for p in experiment.agent.bonus.parameters()}
    encoder = {id(p) for p in experiment.agent.policy.trunk.encoder.parameters()}
    shared = policy & bonus
    assert shared == {"encoder+rnn": policy, "encoder": encoder, "none": set()}[share]


def test_a_random_agent_is_uniform(config):
    experiment, run = wander(replace(config, agent="random", env_steps=8 * 16 * 40))
    metrics = experiment.source.metrics()
    assert abs(metrics["action/noop"] - 0.2) < 4 * (0.2 * 0.8 / (8 * 16 * 40)) ** 0.5
    assert metrics["noise/asked"] == pytest.approx(metrics["action/noop"], abs=0.01)
    assert Run.open(run.path).metrics()[-1]["env_steps"] == 8 * 16 * 40


def test_stopped_and_resumed_it_is_the_same_run(config, tmp_path):
    """The maze is saved exactly, so a run goes on bit by bit, also out of the middle of a rollout."""
    train(replace(config, name="whole"))
    half = replace(config, name="half")
    train(replace(half, env_steps=config.env_steps // 2))
    result, _, _ = train(half, resume=True)
    assert result.step == 16
    a, b = (weights(tmp_path / "runs" / "explore" / name) for name in ("whole", "half"))
    for name, value in a.model.items():
        assert torch.equal(value, b.model[name]), name
    sources = [checkpoint.state["processes"][0]["source"] for checkpoint in (a, b)]
    assert sources[0]["tracker"] == sources[1]["tracker"]


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_run(config, tmp_path):
    """``kill -9`` of the command at five moments."""
    train(replace(config, name="whole", env_steps=40 * 8 * 16))
    killed = replace(config, name="killed", env_steps=40 * 8 * 16)
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(plain(killed)))
    command = [sys.executable, "-m", "recipes.cli", "explore", "train", "--config", str(file), "--resume"]
    log = tmp_path / "runs" / "explore" / "killed" / "metrics.jsonl"
    for lines in (3, 9, 15, 21, 27):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < lines):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, capture_output=True).returncode == 0
    a, b = (weights(tmp_path / "runs" / "explore" / name) for name in ("whole", "killed"))
    assert a.step == b.step
    for name, value in a.model.items():
        assert torch.equal(value, b.model[name]), name


def test_commands_on_a_run(config, tmp_path, capsys):
    train_and_evaluate(replace(config, env_steps=8 * 16 * 2))
    folder = str(tmp_path / "runs" / "explore" / "test")
    capsys.readouterr()
    assert cli(["explore", "eval", "--run", folder, "--episodes", "1", "--max-steps", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["eval/sampled/length_mean"] == 10
    out = tmp_path / "episode.gif"
    assert cli(["explore", "record", "--run", folder, "--out", str(out), "--max-steps", "12", "--json"]) == 0
    recorded = json.loads(capsys.readouterr().out)
    assert recorded["length"] == 12
    assert out.exists()
    assert (tmp_path / "episode-moments.png").exists()
    assert cli(["explore", "rooms", "--run", folder, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"] > 1
    assert (tmp_path / "cells.png").exists()


def test_study(config, tmp_path, capsys):
    file = tmp_path / "base.yaml"
    file.write_text(yaml.safe_dump(plain(config)))
    args = ["explore", "study", "--config", str(file), "--out", str(tmp_path / "study"), "--env-steps", "8500"]
    args += ["--agents", "rnd", "random", "--noise", "none", "on_demand", "--seeds", "1", "--jobs", "1"]
    assert cli(args) == 0
    table = capsys.readouterr().out
    assert "| none | rnd | 1 |" in table
    assert "| on_demand | random | 1 |" in table
    assert (tmp_path / "study" / "coverage.png").exists()
    began = time.monotonic()
    assert cli([*args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert time.monotonic() - began < 20
    noisy = next(row for row in rows if (row["noise"], row["agent"]) == ("on_demand", "random"))
    assert noisy["noise asked"]["mean"] == pytest.approx(0.2, abs=0.05)


def test_ablation_shares_the_preset_s_own_value_with_the_study(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ABLATIONS, "horizon", Ablation("byol-explore", "none", "horizon", (1, 4)))
    base = replace(config, root=str(tmp_path), env_steps=8 * 16 * 2)
    cells = ablation_cells(ABLATIONS["horizon"], base, seeds=2)
    assert [cell.name for cell in cells] == [
        "byol-explore-none-horizon-1-0",
        "byol-explore-none-0",  # 4 is the configuration's own
        "byol-explore-none-horizon-1-1",
        "byol-explore-none-1",
    ]
    for cell in cells:
        assert run_cell(base, cell) == 0
    configs = [Run.open(tmp_path / "explore" / cell.name).config for cell in cells]
    assert [(c["curiosity"]["horizon"], c["seed"]) for c in configs] == [(1, 0), (4, 0), (1, 1), (4, 1)]
    file = tmp_path / "base.yaml"
    file.write_text(yaml.safe_dump(plain(base)))
    args = ["explore", "study", "--ablate", "horizon", "--config", str(file), "--out", str(tmp_path), "--seeds", "2"]
    capsys.readouterr()
    waiting: list[str] = []
    monkeypatch.setattr(
        "recipes.explore_study.run_missing",
        lambda tasks, *, finished, jobs, logs: waiting.extend(tasks.keys() - set(finished)),
    )
    assert cli([*args, "--env-steps", str(base.env_steps)]) == 0
    assert waiting == []
    table = capsys.readouterr().out
    assert "| none | byol-explore, horizon 1 | 2 |" in table
    assert "| none | byol-explore, horizon 4 | 2 |" in table
    assert len(json.loads((tmp_path / "study-horizon.json").read_text())) == 2


def test_a_cell_of_fewer_steps_goes_on(config, tmp_path):
    base = replace(config, root=str(tmp_path), env_steps=8 * 16)
    cell = Cell("rnd", "none", 0)
    assert run_cell(base, cell) == 0
    longer = replace(base, env_steps=2 * 8 * 16)
    run_cells(longer, [cell], jobs=1)
    assert json.loads((tmp_path / "explore" / cell.name / "results.json").read_text())["metrics"]["env_steps"] == 256


def test_weight_of_the_intrinsic_reward():
    """Rewards of unit deviation are weighted down where values of their own share a trunk."""
    base, paper, maze = (PRESETS[name]() for name in ("base", "paper", "maze"))
    assert intrinsic_coef(base) == intrinsic_coef(replace(base, agent="byol-hindsight")) == 0.03
    assert intrinsic_coef(replace(base, agent="rnd")) == intrinsic_coef(paper) == intrinsic_coef(maze) == 1.0
    assert intrinsic_coef(replace(base, reward=replace(base.reward, intrinsic_coef=0.5))) == 0.5


def test_input_statistics_are_seeded_and_resumed(config, tmp_path):
    """A random agent's observations come first; a resumed run has the same statistics, encoder and target alike."""
    standardised = replace(config, policy=replace(config.policy, standardise=True))
    experiment = build(standardised)
    seed_statistics(experiment)
    counts = {float(m.running.count) for m in experiment.agent.modules() if isinstance(m, InputStatistics)}
    assert counts == {8 * (128 * config.curiosity.warmup_steps // 8 // 4)}
    train(replace(standardised, name="whole"))
    half = replace(standardised, name="half")
    train(replace(half, env_steps=config.env_steps // 2))
    train(half, resume=True)
    a, b = (weights(tmp_path / "runs" / "explore" / name) for name in ("whole", "half"))
    assert any("statistics.running.mean" in name for name in a.model)
    for name, value in a.model.items():
        assert torch.equal(value, b.model[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "MontezumaRevengo"}, "MontezumaRevenge"),
        ({"env": "CartPole-v1"}, "pictures"),
        ({"env": "MountainCarContinuous-v0"}, "discrete"),
        ({"env": "StochasticMaze", "noise": "brownion"}, "brownian"),
    ],
)
def test_environments_that_do_not_fit(config, change, message):
    envs = replace(config.envs, noise=change.get("noise", "none"))
    with pytest.raises(ValueError, match=message):
        build(replace(config, env=change["env"], envs=envs))


def test_configurations_that_cannot_work(config):
    with pytest.raises(ValueError, match="pools"):
        replace(config, envs=replace(config.envs, num=9, groups=2))
    with pytest.raises(ValueError, match="minibatches"):
        replace(config, learn=replace(config.learn, minibatches=3))
    with pytest.raises(ValueError, match="context"):
        replace(config, curiosity=replace(config.curiosity, context=99))
    with pytest.raises(ValueError, match="memory=0"):
        build(replace(config, policy=replace(config.policy, memory=0)))


def test_presets_are_saved_and_read(tmp_path):
    for name, preset in PRESETS.items():
        made = preset()
        assert from_dict(ExploreConfig, yaml.safe_load(yaml.safe_dump(plain(made))), where="x") == made
        assert made.name == name
        assert loop_config(made).steps >= 1
    assert context_rows(PRESETS["base"]()) == 7
    assert context_rows(PRESETS["paper"]()) == 0


def test_a_crash_keeps_the_last_checkpoint(config, monkeypatch):
    """An environment that dies in the middle of a run: a clear error, and the run can go on from its checkpoint."""
    import recipes.explore as recipe

    whole = recipe.make_envs

    def dying(*args, **kwargs):
        env = whole(*args, **kwargs)
        step, count = env.step, [0]

        def stepped(actions):
            count[0] += 1
            if count[0] > 40:
                raise RuntimeError("environment 3 crashed in step() at step 41")
            return step(actions)

        env.step = stepped
        return env

    monkeypatch.setattr(recipe, "make_envs", dying)
    with pytest.raises(RuntimeError, match="environment 3 crashed"):
        train(config)
    monkeypatch.setattr(recipe, "make_envs", whole)
    assert Run.open(f"{config.root}/explore/test").latest.name == "step-6"
    result, _, _ = train(config, resume=True)
    assert result.step == 16


def test_another_recipes_run_is_refused(tmp_path):
    Run.create(tmp_path / "x", recipe="slap", config={}).write_config()
    with pytest.raises(ValueError, match="not of explore"):
        load_run(tmp_path / "x")


def test_atari_end_to_end(config, tmp_path):
    """Montezuma's Revenge with few frames: rooms in training where the back end shows RAM, a recording with both."""
    pytest.importorskip("ale_py")
    atari = replace(
        config,
        name="atari",
        env="MontezumaRevenge",
        agent="rnd",
        env_steps=4 * 8 * 2,
        envs=replace(config.envs, num=4, noise="none", groups=2),
        policy=replace(config.policy, encoder="nature", width=32, memory=0),
        learn=replace(config.learn, steps=8, epochs=1, minibatches=2),
        eval=replace(config.eval, episodes=1, max_steps=6, greedy=False),
    )
    assert train_and_evaluate(atari) == 0
    metrics = json.loads((tmp_path / "runs" / "explore" / "atari" / "results.json").read_text())["metrics"]
    assert metrics["atari/frames_per_second"] > 0
    folder = str(tmp_path / "runs" / "explore" / "atari")
    out = str(tmp_path / "m.gif")
    assert cli(["explore", "record", "--run", folder, "--max-steps", "5", "--out", out]) == 0
    if "lifetime/rooms" in metrics:
        assert metrics["atari/rooms"] == 1
        assert cli(["explore", "rooms", "--run", folder]) == 0
        assert (tmp_path / "runs" / "explore" / "atari" / "figures" / "rooms.png").exists()
