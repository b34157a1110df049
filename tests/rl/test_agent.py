"""The agent under ``fit``: learning, resume, determinism, processes, bad steps."""

import copy
import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from byol_ext.metrics.exploration import ExplorationTracker
from byol_ext.rl.agent import Objective, adam, optimizer_groups
from byol_ext.rl.curiosity.counts import NoBonus
from byol_ext.rl.curiosity.hindsight import BYOLHindsight
from byol_ext.rl.rollout import RewardMix, RolloutSource, prepare
from byol_ext.training import Run, TrainConfig, fit, load_checkpoint

CONFIG = TrainConfig(
    lr=3e-3,
    clip_norm=0.5,
    weight_decay=0.0,
    schedule="const",
    warmup=0.0,
    log_every=4,
    monitor_every=4,
    checkpoint_every=6,
    precision="no",
    trackers=(),
    device="cpu",
)


def train(path, learner, made, *, steps, resume=False, mix=None, epochs=2, minibatches=2, optimizer=None, **changes):
    source = RolloutSource(
        made,
        learner,
        mix=mix or RewardMix(clip_sign=False),
        epochs=epochs,
        minibatches=minibatches,
        tracker=ExplorationTracker(made.batch),
    )
    config = replace(CONFIG, steps=steps, **changes)
    run = Run.create(path, recipe="explore", config=config, resume=resume)
    result = fit(
        learner,
        source,
        config,
        prepare=prepare,
        run=run,
        resume=resume,
        monitors=[lambda model, out, step: source.metrics()],
        optimizer=optimizer or (lambda model: adam(model, lr=config.lr)),
    )
    return result, source


@pytest.mark.parametrize("algorithm", ["ppo", "vtrace", "vmpo"])
def test_it_learns_to_walk_to_the_end(tmp_path, agent, collector, algorithm):
    """A uniformly random walk ends one episode in five at the right end; all three algorithms learn to go there."""
    learner = agent(algorithm=algorithm)
    learner.bonus = NoBonus()
    object.__setattr__(learner.objective, "target_period", 2)
    options = {"epochs": 1, "minibatches": 1} if algorithm != "ppo" else {}
    made = collector(learner, envs=16, steps=32, slip=0.0, groups=2)
    _, source = train(tmp_path / "run", learner, made, steps=120, lr=1e-2, checkpoint_every=1000, **options)
    returns = source.tracker.metrics()
    assert returns["episode/return"] > 0.9, returns


def test_curiosity_trains_beside_the_policy(tmp_path, agent, collector):
    learner = agent(share="encoder+rnn")
    made = collector(learner, context=2, steps=16, envs=8)
    result, source = train(tmp_path / "run", learner, made, steps=24)
    names = {"bonus/loss", "policy/entropy", "policy/value/value", "ema/tau", "lifetime/cells", "reward/intrinsic"}
    records = Run.open(tmp_path / "run").metrics()
    assert names <= {name for record in records for name in record}
    assert result.skipped == 0
    assert source.rollouts == 6


@pytest.mark.parametrize("share", ["none", "encoder+rnn"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, agent, collector, share):
    """T12: 20 steps against 10, a checkpoint in the middle of a rollout, and 10 more: bit for bit."""
    whole = agent(share=share)
    train(tmp_path / "whole", whole, collector(whole, context=2, steps=8), steps=20)
    half = agent(share=share)
    train(tmp_path / "half", half, collector(half, context=2, steps=8), steps=10)
    rest = agent(share=share, seed=9)
    train(tmp_path / "half", rest, collector(rest, context=2, steps=8), steps=20, resume=True)
    for (name, expected), found in zip(whole.state_dict().items(), rest.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    states = [
        load_checkpoint(Run.open(tmp_path / name).latest).state["processes"][0]["source"] for name in ("whole", "half")
    ]
    assert states[0]["tracker"] == states[1]["tracker"]


def test_two_runs_of_a_seed_are_one(tmp_path, agent, collector):
    """T13."""
    losses = []
    for name in "ab":
        learner = agent()
        train(tmp_path / name, learner, collector(learner, groups=2, steps=8), steps=50, log_every=1)
        losses.append([record["loss"] for record in Run.open(tmp_path / name).metrics()])
    assert len(losses[0]) == 50
    assert losses[0] == losses[1]


def test_a_bad_step_is_skipped_and_statistics_stay(tmp_path, agent, collector):
    """T14: a loss that is no number is skipped; what rollouts have counted is not taken back."""
    learner = agent()
    forward = learner.forward

    def poisoned(views, ctx, step=0):
        out = forward(views, ctx, step)
        if step == 4:
            out.loss = out.loss * float("nan")
        return out

    learner.forward = poisoned
    result, source = train(tmp_path / "run", learner, collector(learner, steps=8), steps=12)
    assert result.skipped == 1
    assert int(learner.bonus.normaliser.count) == source.rollouts == 3


def test_the_target_moves_when_the_world_model_has_learned(agent, collector):
    learner = agent()
    source = RolloutSource(collector(learner, steps=8), learner, mix=RewardMix(), epochs=2, minibatches=1)
    moved = []
    for step, (_, batch) in enumerate(zip(range(4), source, strict=False)):
        views, ctx = prepare(batch, step)
        learner(views, ctx, step).loss.backward()
        moved.append("ema/tau" in learner.after_step(step))
    assert moved == [True, False, True, False]


def test_beliefs_of_the_world_model_are_the_policys(agent, collector):
    """A shared trunk runs once for both, with the numbers that it gives alone."""
    learner = agent(share="encoder+rnn")
    made = collector(learner, context=3, steps=9)
    source = RolloutSource(made, learner, mix=RewardMix(), epochs=2, minibatches=1)
    stream = iter(source)
    for _ in range(3):
        batch = next(stream)
    assert batch["context"] == 3
    assert batch["learn_bonus"]
    views, ctx = prepare(batch, 0)
    both = learner(views, ctx, 0).terms
    alone = learner(views, type(ctx)(data={"context": 3, "learn_bonus": False}), 0).terms
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], atol=1e-5, rtol=1e-4)


def test_rows_that_are_no_transitions_change_nothing(agent, collector):
    """T4, all losses together."""
    learner = agent(heads=("extrinsic", "intrinsic"))
    source = RolloutSource(collector(learner, context=2, steps=24), learner, mix=RewardMix(), epochs=1, minibatches=1)
    stream = iter(source)
    next(stream)
    batch = next(stream)
    bad = copy.deepcopy(batch)
    fake = ~bad["rollout"]["real"]
    assert fake.any()
    for name in ("reward", "log_prob"):
        bad["rollout"][name][fake] = 77.0
    bad["rollout"]["action"][fake] = 1 - bad["rollout"]["action"][fake]
    tail = fake[:, bad["context"] :]
    for values in (bad["rollout"]["rewards"], bad["rollout"]["returns"]):
        for value in values.values():
            value[tail] = -55.0
    bad["rollout"]["advantage"][tail] = 33.0
    losses = []
    for b in (batch, bad):
        views, ctx = prepare(b, 0)
        losses.append(learner(views, ctx, 0).loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


def test_the_critic_has_a_group_of_its_own(agent):
    learner = agent()
    trunk = learner.bonus.model.predictors["world_model"].trunk
    learner.bonus = BYOLHindsight(trunk, horizon=2, hind_dim=4, eps_dim=2, hidden=(8,), negatives="batch_time", n_neg=8)
    rest, critic = optimizer_groups(learner, critic_lr_scale=3.0)
    assert critic["lr_scale"] == 3.0
    assert critic["params"]
    assert not {id(p) for p in rest["params"]} & {id(p) for p in critic["params"]}
    everything = {id(p) for p in learner.parameters() if p.requires_grad}
    assert {id(p) for p in rest["params"] + critic["params"]} == everything
    adam(learner, lr=1e-3)


def test_heads_and_streams_must_agree(agent):
    learner = agent()
    with pytest.raises(ValueError, match="differ"):
        type(learner)(learner.policy, learner.bonus, Objective(streams={}))


def _sgd(model):
    """Unlike Adam's, its update is as close as the gradients are."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def _work(rank, world, port, out):
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    from conftest import SavedCorridor, make_agent

    from byol_ext.rl.collect import Collector

    learner = make_agent(share="encoder+rnn")
    envs = 8 // world
    made = Collector([SavedCorridor(envs)], learner.policy, steps=8, context=2, seed=0, first_env=rank * envs)
    train(
        out / f"world{world}",
        learner,
        made,
        steps=8,
        minibatches=1,
        find_unused_parameters=world > 1,
        checkpoint_every=1000,
        optimizer=_sgd,
    )
    if rank == 0:
        torch.save(learner.state_dict(), out / f"world{world}.pt")


def test_two_processes_equal_one(tmp_path):
    """T16: two processes of four environments and one of eight train the same weights."""
    context = multiprocessing.get_context("spawn")
    for world in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = [context.Process(target=_work, args=(rank, world, port, tmp_path)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * world
    one, two = (torch.load(tmp_path / f"world{world}.pt") for world in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
