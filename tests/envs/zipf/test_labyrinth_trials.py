"""The labyrinth's trials on a screen, read off its state."""

import numpy as np

from envs.zipf.labyrinth import ZipfLabyrinthVector, looks
from envs.zipf.labyrinth._motion import ACT, TURN_LEFT, TURN_RIGHT
from envs.zipf.labyrinth._trials import DELAY, STUDY, TEST
from envs.zipf.labyrinth.baselines import oracle
from envs.zipf.labyrinth.state import NORTH


def make(name, num_envs=1, *, seed=0):
    env = ZipfLabyrinthVector(num_envs, levels=[name], rare=1, size=(1, 1))
    env.reset(seed=seed)
    return env


def run_trials(name, steps=1500, num_envs=8):
    """Plays with the oracle; yields the state before each answer phase begins."""
    env = make(name, num_envs, seed=4)
    before = env._state.agents.phase.copy()
    for _ in range(steps):
        *_, terminated, _, _ = env.step(oracle(env))
        if terminated.any():
            return
        agents = env._state.agents
        for e in np.flatnonzero(agents.phase != before):
            yield env, int(e), int(agents[e].phase)
        before = agents.phase.copy()


def shown(env, e):
    return [(int(t.look), round(float(t.x), 3)) for t in env._state.things[e, 3:15] if t.present]


def test_mapping_binds_each_picture_to_one_side():
    sides, count = {}, 0
    for env, e, phase in run_trials("psychlab_arbitrary_visuomotor_mapping"):
        if phase == TEST:
            ((look, _),) = shown(env, e)
            sides.setdefault((e, look), set()).add(int(env._state.agents[e].answer))
            count += 1
    assert count > 100
    assert all(len(side) == 1 for side in sides.values())
    assert len({tuple(side) for side in sides.values()}) == 2


def test_recognition_asks_whether_a_picture_was_shown_before():
    known, answers = {}, []
    for env, e, phase in run_trials("psychlab_continuous_recognition"):
        if phase == TEST:
            ((look, _),) = shown(env, e)
            assert (env._state.agents[e].answer > 0) == (look in known.setdefault(e, set()))
            answers.append(look in known[e])
            known[e].add(look)
    assert 0.3 < np.mean(answers) < 0.7


def test_comparison_shows_waits_and_shows_again():
    studied, delays, same = {}, set(), []
    clock = 0
    for env, e, phase in run_trials("psychlab_sequential_comparison"):
        clock = int(env.streams.step[0])
        if phase == STUDY:
            studied[e] = (shown(env, e), clock)
        elif phase == DELAY:
            assert clock - studied[e][1] == 22
            assert shown(env, e) == []
            studied[e] = (studied[e][0], clock)
        elif phase == TEST:
            delays.add(clock - studied[e][1])
            assert (shown(env, e) == studied[e][0]) == (env._state.agents[e].answer > 0)
            assert [x for _, x in shown(env, e)] == [x for _, x in studied[e][0]]
            same.append(env._state.agents[e].answer > 0)
    assert min(delays) >= 2
    assert 40 < max(delays) <= 64
    assert 0.3 < np.mean(same) < 0.7


def test_search_shows_4_to_12_pictures_with_at_most_one_target():
    counts = set()
    for env, e, phase in run_trials("psychlab_visual_search"):
        if phase == TEST:
            found = [look for look, _ in shown(env, e)]
            counts.add(len(found))
            assert found.count(looks.LOOKALIKE) == (env._state.agents[e].answer > 0)
            assert set(found) <= {looks.LOOKALIKE + k for k in range(3)}
    assert min(counts) == 4
    assert max(counts) == 12


def test_sixty_trials_end_the_episode_and_wrong_answers_give_nothing():
    env, total = make("psychlab_visual_search"), 0.0
    for _ in range(2250):
        agent = env._state.agents[0]
        turned = int(agent.heading) - NORTH
        if agent.phase == TEST:
            action = TURN_LEFT if agent.answer > 0 else TURN_RIGHT
        else:
            action = ACT if turned == 0 else TURN_LEFT if turned > 0 else TURN_RIGHT
        _, reward, terminated, *_ = env.step([action])
        total += reward[0]
        if terminated[0]:
            break
    assert terminated[0]
    assert total == 0
    assert env._state.agents[0].count == 60
