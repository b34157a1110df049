"""The labyrinth's rules, read off its state: each mechanic does what its level is about."""

from collections import deque

import numpy as np
import pytest

from envs.zipf.labyrinth import LEVELS, ZipfLabyrinthVector, detokenize, looks
from envs.zipf.labyrinth._motion import ACT, FORWARD, TURN_LEFT
from envs.zipf.labyrinth.baselines import random_player
from envs.zipf.labyrinth.state import Role
from envs.zipf.labyrinth.text import COLOUR_WORDS, PLURALS, SHAPE_WORDS

EIGHT = looks.SHAPES


def make(name, num_envs=1, *, seed=0, size=(1, 1)):
    env = ZipfLabyrinthVector(num_envs, levels=[name], rare=1, size=size)
    env.reset(seed=seed)
    return env


def put_agent(env, x, y, heading=0, e=0):
    agent = env._state.agents[e]
    agent.x, agent.y, agent.heading, agent.angle = x, y, heading, heading * np.pi / 12
    agent.eye = looks.HEIGHT[env._state.cells[e, int(y), int(x)]] + 0.5


def step(env, action):
    """The reward of the first sub-environment, and whether it ended."""
    _, reward, terminated, truncated, _ = env.step(np.full(env.num_envs, action))
    return reward[0], bool(terminated[0] or truncated[0])


def touch(env, s, e=0):
    """Moves the agent onto a thing; the reward of a turn there."""
    thing = env._state.things[e, s]
    put_agent(env, thing.x, thing.y, e=e)
    return step(env, TURN_LEFT)[0]


def present(env, role, e=0):
    return [s for s, t in enumerate(env._state.things[e]) if t.role == role and t.present]


def passable(cells, start, goal, codes):
    """Breadth first over cells of these codes, from (x, y) to (x, y)."""
    queue, seen = deque([start]), {start}
    while queue:
        x, y = queue.popleft()
        if (x, y) == goal:
            return True
        for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if near not in seen and cells[near[1], near[0]] in codes:
                seen.add(near)
                queue.append(near)
    return False


def cell_of(record):
    return int(record.x), int(record.y)


FLOORS = set(np.flatnonzero(looks.IS_FLOOR).tolist())


def test_good_and_bad_objects_have_their_values_and_one_pairing_is_held_out():
    env = make("rooms_collect_good_objects_train", 64)
    pairings = set()
    for e in range(64):
        things = env._state.things[e, :12]
        good = {int(t.look) for t in things if t.value == 1}
        bad = {int(t.look) for t in things if t.value == -1}
        assert len(good) == len(bad) == 1
        pairings.add((int(env._state.cells[e, 1, 1]), good.pop(), bad.pop()))
    assert len(pairings) == 3
    assert touch(env, 0) == 1
    assert touch(env, 6) == -1


def test_the_last_good_object_restocks_the_room():
    env = make("rooms_collect_good_objects_train")
    assert [touch(env, s) for s in range(6)] == [1] * 6
    assert len(present(env, Role.PICKUP)) == 12
    assert env._state.agents[0].right == 1


def test_mushrooms_grow_again_after_a_minute():
    env = make("natlab_varying_map_regrowth")
    s = present(env, Role.PICKUP)[0]
    assert touch(env, s) == 1
    put_agent(env, *(np.array(cell_of(env._state.things[0, present(env, Role.PICKUP)[0]])) + 0.05))
    back = 1
    while not env._state.things[0, s].present:
        env.step([TURN_LEFT])
        back += 1
    assert 900 <= back <= 901


def test_the_fixed_map_is_fixed_and_the_hundred_maps_repeat():
    def maps(name, seeds, n):
        return [env._state.cells[e].tobytes() for env in (make(name, n, seed=s) for s in seeds) for e in range(n)]

    assert len(set(maps("natlab_fixed_large_map", (0, 1), 4))) == 1
    env = make("natlab_fixed_large_map", 8)
    places = {tuple((t.x, t.y) for t in env._state.things[e, :30]) for e in range(8)}
    assert len(places) == 1
    assert len({(a.x, a.y) for a in env._state.agents}) > 4
    assert 85 < len(set(maps("natlab_varying_map_randomized", (0,), 400))) <= 100
    assert len(set(maps("natlab_varying_map_regrowth", (0,), 60))) == 60


@pytest.mark.parametrize("level", [level for level in LEVELS if "natlab" in level.name or "explore" in level.name])
def test_everything_can_be_reached(level):
    env, n = make(level.name, 12), 12
    for e in range(n):
        cells, start = env._state.cells[e], cell_of(env._state.agents[e])
        for thing in env._state.things[e]:
            if thing.role != Role.NONE:
                assert passable(cells, start, cell_of(thing), FLOORS)


@pytest.mark.parametrize("name", ["explore_obstructed_goals_small", "explore_obstructed_goals_large"])
def test_gates_open_and_shut_between_rounds_and_leave_a_way(name):
    env = make(name, 24)
    layouts = [set() for _ in range(24)]
    for _ in range(6):
        for e in range(24):
            cells = env._state.cells[e]
            layouts[e].add(tuple(map(tuple, np.argwhere(cells == looks.GATE))))
            assert passable(cells, cell_of(env._state.agents[e]), cell_of(env._state.things[e, 0]), FLOORS)
            put_agent(env, env._state.things[e, 0].x, env._state.things[e, 0].y, e=e)
        assert step(env, TURN_LEFT)[0] == 10
    assert all(len(seen) > 1 for seen in layouts)


def test_the_watermaze_platform_is_unseen_and_stays_for_the_episode():
    env = make("rooms_watermaze", 8)
    assert (env._state.things["texture"] == -1).all()
    place = env._state.things[0, 0].x, env._state.things[0, 0].y
    for _ in range(3):
        assert touch(env, 0) == 10
        assert (env._state.things[0, 0].x, env._state.things[0, 0].y) == place
        assert cell_of(env._state.agents[0]) != cell_of(env._state.things[0, 0])
    assert len({(t.x, t.y) for t in env._state.things[:, 0]}) > 3


def test_a_key_opens_the_door_of_its_colour_once_and_one_is_held():
    env = make("rooms_keys_doors_puzzle", 32)
    agent, cells, things = env._state.agents[0], env._state.cells[0], env._state.things[0]
    first = min(present(env, Role.KEY), key=lambda s: things[s].order)
    colour = int(things[first].kind)
    assert touch(env, first) == 1
    assert agent.held == colour
    assert agent.overlay == looks.KEY + colour
    other = next(s for s in present(env, Role.KEY) if s != first)
    assert touch(env, other) == 0
    assert things[other].present
    y, x = np.argwhere(cells == looks.DOOR + colour)[0]
    for heading, (dx, dy) in ((0, (-1, 0)), (6, (0, -1)), (12, (1, 0)), (18, (0, 1))):
        if cells[y + dy, x + dx] in FLOORS:
            put_agent(env, x + dx + 0.5, y + dy + 0.5, heading)
            for _ in range(5):
                step(env, FORWARD)
            break
    assert cells[y, x] in FLOORS
    assert agent.held == -1


def test_a_door_without_its_key_stays_shut():
    env = make("rooms_keys_doors_puzzle", 16)
    before = (env._state.cells >= looks.DOOR).sum()
    player = random_player(0)
    for e in range(16):
        for thing in env._state.things[e]:
            if thing.role == Role.KEY:
                thing.present = 0
    for _ in range(300):
        env.step(player(env))
    assert (env._state.cells >= looks.DOOR).sum() == before


def test_the_costly_object_is_the_key_of_the_rich_room_where_there_is_one():
    env = make("rooms_exploit_deferred_effects_train", 64)
    rooms = 0
    for e in range(64):
        things, cells = env._state.things[e], env._state.cells[e]
        values = sorted(t.value for t in things if t.role != Role.NONE)
        door = ((cells >= looks.DOOR) & (cells < looks.DOOR + 6)).any()
        assert values == ([-3, 1, 1, 1, 1, 10, 10] if door else [-3, 1, 1, 1, 1])
        rooms += door
    assert 16 < rooms < 48


def test_the_object_that_was_not_shown_is_the_right_one():
    env = make("rooms_select_nonmatching_object")
    for _ in range(5):
        things = env._state.things[0]
        sample = int(things[0].look)
        assert touch(env, 1) == 1, "the pad"
        room = env._state.cells[0][cell_of(env._state.agents[0])[::-1]]
        by_value = {t.value: t for t in things if t.role == Role.ROUND}
        assert by_value[-10].look == sample != by_value[10].look
        assert room == env._state.cells[0][cell_of(by_value[10])[::-1]]
        assert touch(env, 3) == 10
        assert env._state.things[0, 0].look == sample
    assert touch(env, 2) == -10


@pytest.mark.parametrize("name", [level.name for level in LEVELS if "skymaze" in level.name])
def test_platforms_only_lead_down_and_decoys_strand(name):
    env = make(name, 64)
    player = random_player(3)
    eye = env._state.agents.eye.copy()
    for _ in range(200):
        *_, terminated, truncated, _ = env.step(player(env))
        if (terminated | truncated).any():
            break
        assert (env._state.agents.eye <= eye + 1e-9).all()
        eye = env._state.agents.eye.copy()
    goal = env._state.things[:, 0]
    codes = env._state.cells[np.arange(64), goal.y.astype(int), goal.x.astype(int)]
    assert (codes == looks.PLATFORM).all()


def test_hard_sky_mazes_have_more_decoys():
    def platforms(name):
        return (make(name, 200)._state.cells != looks.VOID).sum((1, 2)).mean()

    assert platforms("skymaze_irreversible_path_hard") > 1.15 * platforms("skymaze_irreversible_path_varied")


def objects_of(env, e):
    """Word pairs, places and values of what can be picked in a round, with the word of their room's colour."""
    for thing in env._state.things[e]:
        if thing.role == Role.ROUND and thing.look < looks.OBJECTS:
            shape, colour = divmod(int(thing.look), EIGHT)
            room = env._state.cells[e][cell_of(thing)[::-1]] - looks.ROOM_FLOOR
            yield COLOUR_WORDS[colour], SHAPE_WORDS[shape], COLOUR_WORDS[room], float(thing.width), float(thing.value)


def meant(sentence, colour, shape, room, width):
    """The sentence read by a person."""
    words = sentence.split()
    if words[:6] == ["pick", "an", "object", "that", "is", "not"]:
        return colour != words[6]
    if "room" in words:
        return room == words[-2] and words[2] in (colour, shape)
    if words[2] in ("small", "big"):
        return shape == words[3] and (width > 0.6) == (words[2] == "big")
    return {"object", colour, shape} >= set(words[2:]) and bool({colour, shape} & set(words[2:]))


@pytest.mark.parametrize("name", [level.name for level in LEVELS if level.name.startswith("language")][:3])
def test_exactly_the_objects_that_are_meant_are_right(name):
    env, sentences = make(name, 128), set()
    for _ in range(4):
        for e in range(128):
            sentence = detokenize(env._state.tokens[e])
            sentences.add(sentence)
            values = []
            for colour, shape, room, width, value in objects_of(env, e):
                assert value == (1 if meant(sentence, colour, shape, room, width) else -1), sentence
                values.append(value)
            assert {1.0, -1.0} == set(values), "an object to pick and one to leave"
            put_agent(env, env._state.things[e, 1].x, env._state.things[e, 1].y, e=e)
        step(env, TURN_LEFT)
    assert len(sentences) > 30


def test_the_answers_to_questions_are_true():
    env, asked = make("language_answer_quantitative_question", 128), {}
    for _ in range(6):
        for e in range(128):
            sentence = detokenize(env._state.tokens[e])
            words = sentence.split()
            seen = [divmod(int(t.look), EIGHT) for t in env._state.things[e, :6] if t.present]
            colour = COLOUR_WORDS.index(words[-2])
            if words[1] == "anything":
                about = [c == colour for _, c in seen]
            else:
                shape = (PLURALS if words[2] in PLURALS else SHAPE_WORDS).index(words[2])
                about = [c == colour for s, c in seen if s == shape]
            assert len(about) > 1
            rule = {"all": all, "any": any, "anything": any, "most": lambda x: sum(x) * 2 > len(x)}[words[1]]
            yes, no = (next(t for t in env._state.things[e] if t.look == look) for look in (looks.YES, looks.NO))
            assert (yes.value, no.value) == ((1, -1) if rule(about) else (-1, 1)), sentence
            asked.setdefault(words[1], []).append(rule(about))
            put_agent(env, yes.x, yes.y, e=e)
        step(env, TURN_LEFT)
    assert set(asked) == {"all", "any", "anything", "most"}
    assert all(0.35 < np.mean(answers) < 0.65 for answers in asked.values())


def test_a_shot_tags_whom_it_is_aimed_at_and_not_through_walls():
    env = make("lasertag_one_opponent_small")
    agent, cells, bot = env._state.agents[0], env._state.cells[0], env._state.things[0, 0]
    cells[1:4, 1:10] = looks.THEME_FLOOR
    bot.x, bot.y, bot.aim_x, bot.aim_y = 6.5, 2.5, 6.5, 2.5
    put_agent(env, 1.5, 2.5, heading=12)
    assert step(env, ACT)[0] == 0, "aimed the other way"
    assert step(env, ACT)[0] == 0, "not ready"
    agent.cooldown, agent.heading, agent.angle = 0, 0, 0.0
    cells[1:4, 4] = looks.THEME_WALL
    bot.x, bot.y, bot.aim_x, bot.aim_y = 6.5, 2.5, 6.5, 2.5
    assert step(env, ACT)[0] == 0, "through a wall"
    cells[1:4, 4], agent.cooldown = looks.THEME_FLOOR, 0
    bot.x, bot.y, bot.aim_x, bot.aim_y = 6.5, 2.5, 6.5, 2.5
    assert step(env, ACT)[0] == 1
    assert np.hypot(bot.x - 6.5, bot.y - 2.5) > 0.5
    assert agent.right == 1


def test_opponents_stay_on_the_floor_and_tag_the_agent():
    env = make("lasertag_three_opponents_small", 16)
    for _ in range(900):
        env.step(np.full(16, TURN_LEFT))
        bots = env._state.things[:, :3]
        codes = env._state.cells[np.arange(16)[:, None], bots.y.astype(int), bots.x.astype(int)]
        assert looks.IS_FLOOR[codes].all()
    assert env._state.agents.wrong.sum() > 16
