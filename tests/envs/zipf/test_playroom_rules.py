"""What actions do: the grid against an independent game in plain Python, first person on hand-made scenes."""

import math

import numpy as np
import pytest

from envs.zipf.playroom import LEVELS, LEXICON, ZipfPlayroom, ZipfPlayroom2DVector, ZipfPlayroomVector
from envs.zipf.playroom.baselines import load_baselines, measure, normalised
from envs.zipf.playroom.state import (
    BACK,
    FORWARD,
    GRIP,
    NOOP,
    RELEASE,
    STRAFE_LEFT,
    STRAFE_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
)

EAST, SOUTH, WEST, NORTH = (0, 1), (1, 0), (0, -1), (-1, 0)
COMPASS = [EAST, SOUTH, WEST, NORTH]
TASKS = ["lift", "put_on", "put_near", "find"]


class Reference:
    """One episode on the grid by the rules of the specification, from a room as it was laid out."""

    def __init__(self, env, e, infos, task, max_steps):
        state = env.game.state
        self.board = state.cells[e].tolist()
        self.objects = {
            (int(t["y"]), int(t["x"])): int(t["kind"]) for t in np.asarray(state.things[e]) if t["kind"] >= 0
        }
        self.at = (int(state.agents["y"][e]), int(state.agents["x"][e]))
        self.facing, self.hand = COMPASS[int(state.agents["heading"][e]) // 6], None
        self.target, self.task, self.max_steps, self.steps = int(infos["task_id"][e]), task, max_steps, 0
        self.codes = {0: (2, 3), 1: (4,)}.get(int(infos["furniture"][e]), ())

    def ahead(self, facing=None):
        dr, dc = facing or self.facing
        return self.at[0] + dr, self.at[1] + dc

    def step(self, action):
        """(reward, terminated, truncated)"""
        self.steps += 1
        turn = COMPASS.index(self.facing)
        facings = {1: 0, 2: 2, 3: 3, 4: 1}
        verdict = None
        if action in facings:
            goal = self.ahead(COMPASS[(turn + facings[action]) % 4])
            if self.board[goal[0]][goal[1]] == 0 and goal not in self.objects:
                self.at = goal
        elif action in (5, 6, 9):
            self.facing = COMPASS[(turn + {5: 3, 6: 1, 9: 2}[action]) % 4]
        elif action == 7 and self.hand is None:
            verdict = self.point() if self.task == "find" else self.take()
        elif action == 8 and self.hand is not None:
            verdict = self.put()
        late = verdict is None and self.steps == self.max_steps
        return float(verdict is True), verdict is not None, late

    def take(self):
        if self.ahead() not in self.objects:
            return None
        self.hand = self.objects.pop(self.ahead())
        return self.hand == self.target if self.task == "lift" else None

    def point(self):
        def off(cell):
            dr, dc = cell[0] - self.at[0], cell[1] - self.at[1]
            turned = math.atan2(dr, dc) - math.atan2(*self.facing)
            return abs((turned + math.pi) % (2 * math.pi) - math.pi)

        def far(cell):
            return math.dist(cell, self.at)

        seen = [cell for cell in self.objects if off(cell) <= math.radians(15) + 1e-9]
        if not seen:
            return None
        close = [cell for cell in seen if far(cell) <= 1]
        best = close[0] if close else min(seen, key=lambda cell: (round(off(cell), 9), far(cell)))
        return self.objects[best] == self.target

    def put(self):
        row, column = self.ahead()
        if self.board[row][column] == 1 or (row, column) in self.objects:
            return None
        self.objects[row, column], held, self.hand = self.hand, self.hand, None
        reach = range(-1, 2) if self.task == "put_near" else range(1)
        # Centres of cells with a common corner to furniture are 0.71 m from it, of others at least 1.5 m.
        around = {self.board[row + i][column + j] for i in reach for j in reach} & {2, 3, 4}
        if not around:
            return None
        assert around <= {2, 3} or around == {4}, "nothing is near both"
        return held == self.target and around <= set(self.codes)

    def tiles(self, view=7):
        codes = np.ones((view, view), np.uint8)
        for i in range(view):
            for j in range(view):
                r, c = self.at[0] + i - view // 2, self.at[1] + j - view // 2
                if 0 <= r < 12 and 0 <= c < 12:
                    codes[i, j] = 9 + self.objects[r, c] if (r, c) in self.objects else self.board[r][c]
        codes[view // 2, view // 2] = 5 + COMPASS.index(self.facing)
        codes[-1, -1] = 255
        return codes


@pytest.mark.parametrize("task", TASKS)
def test_the_grid_is_the_independent_game(task):
    n, rng = 48, np.random.default_rng(TASKS.index(task))
    env = ZipfPlayroom2DVector(
        n, task=task, split="uniform", objects_in_room=8, max_steps=80, obs="tiles", autoreset_mode="Disabled"
    )
    obs, infos = env.reset(seed=1)
    games = [Reference(env, e, infos, task, 80) for e in range(n)]
    outcomes = {"goal": 0, "wrong": 0, "timeout": 0}
    for _ in range(300):
        for e, game in enumerate(games):
            np.testing.assert_array_equal(obs["tiles"][e], game.tiles())
            assert obs["held"][e] == (0 if game.hand is None else 1 + game.hand)
        # The scripted player's choice half of the time, so that objects get to the furniture.
        noise = rng.choice(10, n, p=[0.02, 0.3, 0.04, 0.03, 0.03, 0.1, 0.1, 0.18, 0.15, 0.05])
        actions = np.where(rng.random(n) < 0.5, misled(env), noise)
        obs, reward, terminated, truncated, infos = env.step(actions)
        expected = np.array([game.step(int(a)) for game, a in zip(games, actions, strict=True)])
        np.testing.assert_array_equal(np.stack([reward, terminated, truncated], axis=1), expected)
        ended = terminated | truncated
        np.testing.assert_array_equal(infos["_outcome"], ended)
        for outcome in infos["outcome"][ended]:
            outcomes[str(outcome)] += 1
        if ended.any():
            obs, infos = env.reset(options={"reset_mask": ended})
            games = [Reference(env, e, infos, task, 80) if ended[e] else games[e] for e in range(n)]
    assert min(outcomes["goal"], outcomes["wrong"]) >= 3, outcomes


def misled(env):
    """What the scripted player does, which takes the bed for the tray in every third room."""
    wanted = env.game.state.agents["furniture"]
    asked = wanted.copy()
    wanted[::3] = np.where(asked[::3] >= 0, 1 - asked[::3], -1)
    actions = env.oracle_actions()
    wanted[:] = asked
    return actions


def scene(task, *, bed=(1, 1, 2, 3), tray=(10, 10), agent=(5.5, 5.5), heading=0, objects=((7.5, 5.5), (1.5, 9.5))):
    """An environment whose room was laid out by hand; positions are (x, y), furniture (row, column, ...)."""
    env = ZipfPlayroom(task=task, objects_in_room=len(objects), size=(8, 12))
    env.reset(seed=0, options={"task": 5})
    state = env.batch.game.state
    state.cells[0, 1:-1, 1:-1] = 0
    row, column, rows, columns = bed
    state.cells[0, row : row + rows, column : column + columns] = 3
    state.cells[0, tray[0], tray[1]] = 4
    state.pieces[0, 0] = bed
    state.pieces[0, 1] = (*tray, 1, 1)
    state.agents["x"], state.agents["y"] = agent
    state.agents["heading"], state.agents["angle"] = heading, heading * math.pi / 12
    for s, (x, y) in enumerate(objects):
        state.things["x"][0, s], state.things["y"][0, s] = x, y
    return env, state


@pytest.mark.parametrize(
    ("distance", "degrees", "gripped"),
    [
        (0.6, 0, True),
        (1.0, 0, True),
        (1.01, 0, False),
        (0.9, 14.9, True),
        (0.9, -14.9, True),
        (0.9, 15.1, False),
        (0.9, -15.1, False),
        (0.9, 180, False),
    ],
)
@pytest.mark.parametrize("heading", [0, 5, 18])
def test_grip_reaches_one_metre_and_fifteen_degrees(distance, degrees, gripped, heading):
    angle = heading * math.pi / 12 + math.radians(degrees)
    target = (5.5 + distance * math.cos(angle), 5.5 + distance * math.sin(angle))
    env, _ = scene("lift", heading=heading, objects=(target, (1.5, 9.5)))
    _, reward, terminated, _, info = env.step(GRIP)
    assert (reward, terminated, info["held"]) == ((1.0, True, 5) if gripped else (0.0, False, -1))


def test_the_nearer_of_two_is_gripped_and_the_wrong_one_ends_the_episode():
    env, _ = scene("lift", objects=((6.45, 5.5), (6.2, 5.6)))
    _, reward, terminated, truncated, info = env.step(GRIP)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (info["success"], info["outcome"]) == (False, "wrong")
    assert info["held"] != info["task_id"]


def test_pointing_takes_the_straightest_at_any_distance():
    for straight, other, expected in (((9.5, 5.6), (7.5, 5.8), 1.0), ((7.5, 5.8), (9.5, 5.6), 0.0)):
        env, _ = scene("find", objects=(straight, other))
        _, reward, terminated, _, _ = env.step(GRIP)
        assert (reward, terminated) == (expected, True)
    env, _ = scene("find", objects=((7.5, 7.5), (3.5, 5.5)))
    assert env.step(GRIP)[1:3] == (0.0, False), "nothing is ahead"


@pytest.mark.parametrize("furniture", [0, 1])
@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize(("task", "gap"), [("put_on", 0.1), ("put_near", 1.0), ("put_near", -0.1)])
def test_putting(furniture, asked, slot, task, gap):
    """A gap of -0.1 is on the furniture too: within 1 m."""
    edge = 4.0 if furniture == 0 else 10.0
    if furniture == 0:
        agent, heading = (edge + 0.7 + (gap if task == "put_near" else -gap), 2.0), 12
    else:
        agent, heading = (edge - 0.7 - (gap if task == "put_near" else -gap), 10.5), 0
    env, state = scene(task, agent=agent, heading=heading)
    state.agents["furniture"], state.agents["held"] = asked, slot
    state.things["texture"][0, slot] = -1
    _, reward, terminated, _, info = env.step(RELEASE)
    right = furniture == asked and slot == 0
    assert (reward, terminated, info["outcome"]) == (float(right), True, "goal" if right else "wrong")
    on = task == "put_on" or gap < 0
    assert state.things["z"][0, slot] == ((0.4, 0.14)[furniture] if on else 0)


@pytest.mark.parametrize(("task", "gap"), [("put_on", 0.1), ("put_near", 1.02)])
def test_what_is_put_down_elsewhere_can_be_taken_again(task, gap):
    env, state = scene(task, agent=(4.0 + gap + 0.7, 2.0), heading=12)
    state.agents["held"] = 1
    state.things["texture"][0, 1] = -1
    _, reward, terminated, _, info = env.step(RELEASE)
    assert (reward, terminated, info["held"]) == (0.0, False, -1)
    assert env.step(GRIP)[4]["held"] == state.things["kind"][0, 1]


def test_there_must_be_room_to_put_down():
    env, state = scene("put_on", agent=(10.5, 5.5), heading=0)
    state.agents["held"] = 0
    state.things["texture"][0, 0] = -1
    assert env.step(RELEASE)[4]["held"] == 5, "a wall is ahead"
    state.agents["heading"] = 12
    state.things["x"][0, 1], state.things["y"][0, 1] = 9.6, 5.5
    assert env.step(RELEASE)[4]["held"] == 5, "another object is there"
    state.things["x"][0, 1] = 3.5
    assert env.step(RELEASE)[4]["held"] == -1


def test_empty_hands_and_full_hands():
    env, state = scene("put_on", objects=((6.3, 5.5), (6.3, 6.5)))
    assert env.step(RELEASE)[4]["held"] == -1
    assert env.step(GRIP)[4]["held"] == 5
    state.agents["y"] = 6.5
    assert env.step(GRIP)[4]["held"] == 5, "one at a time"


def test_walking():
    env, state = scene("lift", objects=((1.5, 9.5), (9.5, 1.5)))
    moves = {FORWARD: (0.25, 0), BACK: (-0.25, 0), STRAFE_LEFT: (0, -0.25), STRAFE_RIGHT: (0, 0.25), NOOP: (0, 0)}
    for action, (dx, dy) in moves.items():
        state.agents["x"], state.agents["y"] = 5.5, 5.5
        env.step(action)
        assert (state.agents["x"][0], state.agents["y"][0]) == (5.5 + dx, 5.5 + dy)
    for action, turned in ((TURN_LEFT, 23), (TURN_RIGHT, 0), (TURN_RIGHT, 1), (9, 13)):
        env.step(action)
        assert state.agents["heading"][0] == turned
        np.testing.assert_allclose(state.agents["angle"][0], turned * math.pi / 12)


def test_walls_furniture_and_objects_stop_the_agent():
    env, state = scene("lift", objects=((7.5, 5.5), (1.5, 9.5)))
    for _ in range(30):
        env.step(FORWARD)
    assert 7.0 - state.agents["x"][0] == pytest.approx(0, abs=0.25), "stops at the object"
    assert state.agents["x"][0] <= 7.0
    for heading, axis, low, high in ((18, "y", 3.2, 3.45), (6, "y", 10.55, 10.8), (12, "x", 1.2, 1.45)):
        state.agents["x"], state.agents["y"], state.agents["heading"] = 2.5, 5.5, heading
        for _ in range(60):
            env.step(FORWARD) if env.batch.streams.step[0] < 290 else env.reset(seed=0)
        assert low <= state.agents[axis][0] <= high, heading


@pytest.mark.parametrize("make", [ZipfPlayroomVector, ZipfPlayroom2DVector])
@pytest.mark.parametrize("task", ["lift", "find"])
def test_rooms_are_laid_out_well(make, task):
    """Everything the docstring of the layout promises, on many rooms."""
    env = make(400, task=task, objects_in_room=8 if task == "lift" else 3)
    _, infos = env.reset(seed=0)
    state = env.game.state
    cells, things, agents = state.cells, np.asarray(state.things), np.asarray(state.agents)
    counts = np.stack([(cells == code).sum((1, 2)) for code in range(5)], axis=1)
    np.testing.assert_array_equal(counts, np.tile([93, 44, 2, 4, 1], (400, 1)))
    assert (things["kind"][:, 0] == infos["task_id"]).all()
    for e in range(400):
        there = things[e][things[e]["kind"] >= 0]
        assert len(set(there["kind"].tolist())) == len(there) == env.settings.objects_in_room
        spots = np.stack([there["x"], there["y"]], axis=1)
        furniture = np.argwhere(cells[e] >= 2)[:, ::-1] + 0.5
        bed, tray = furniture[cells[e][cells[e] >= 2] < 4], furniture[cells[e][cells[e] >= 2] == 4]
        assert np.abs(bed - tray).max(1).min() >= 3
        assert (cells[e][spots[:, 1].astype(int), spots[:, 0].astype(int)] == 0).all()
        assert np.abs(spots[:, None] - furniture).max(2).min() > 1.5
        apart = np.abs(spots[:, None] - spots).max(2)[np.triu_indices(len(spots), 1)]
        assert apart.min() >= 2
        me = np.array([agents["x"][e], agents["y"][e]])
        away = np.linalg.norm(spots - me, axis=1)
        assert away.min() >= 1.5
        if task == "find":
            assert away.max() <= 4.5
            bearing = np.sort(np.degrees(np.arctan2(*(spots - me).T[::-1])) % 360)
            assert np.diff(np.append(bearing, bearing[0] + 360)).min() >= 20 - 1e-6
    assert len(np.unique(agents["heading"])) == (24 if make is ZipfPlayroomVector else 4)


def test_baselines_cover_every_level_and_the_scripted_player_is_perfect():
    table = load_baselines()
    assert len(table) == len(LEVELS) * 2 * 2
    for (level, variant, player), baseline in table.items():
        assert baseline.episodes >= 20_000
        assert (baseline.success == 1.0) == (player == "oracle"), (level, variant)
    random = table["lift/lift_shape_zipf2", "2d", "random"]
    assert random.success + random.wrong < 1
    assert normalised(1.0, "lift/lift_shape_zipf2") == 1.0
    assert normalised(random.success, "lift/lift_shape_zipf2", "2d") == 0.0


@pytest.mark.parametrize(
    ("level", "variant"), [("lift/lift_shape_uniform", "2d"), ("supervised/find_shape_zipf2", "3d")]
)
def test_baselines_can_be_measured_again(level, variant):
    """On other episodes, to four standard errors."""
    known, new = load_baselines()[level, variant, "random"], measure(level, variant, "random", episodes=1500, seed=99)
    error = math.hypot(known.error, new.error)
    assert abs(known.success - new.success) < 4 * error
    assert abs(known.wrong - new.wrong) < 4 * math.sqrt(known.wrong * (1 - known.wrong) / 1500) + 0.01


def test_difficulty_does_not_depend_on_rank():
    """The same seed gives the same rooms for every object and every assignment of ranks; only frequencies change."""
    lengths = []
    for rank_seed, task in ((None, 0), (None, 49), (7, 0), (7, 31)):
        env = ZipfPlayroom2DVector(
            30, rank_seed=rank_seed, distractors="uniform", autoreset_mode="Disabled", obs="tiles"
        )
        _, infos = env.reset(seed=3, options={"task": task})
        assert len(np.unique(infos["ranks"])) == 1
        ended = np.zeros(30, int)
        for t in range(60):
            _, _, terminated, _, _ = env.step(np.where(ended > 0, 0, env.oracle_actions()))
            ended[terminated & (ended == 0)] = t + 1
            if (ended > 0).all():
                break
            if terminated.any():
                env.reset(options={"reset_mask": terminated})
        lengths.append(ended.tolist())
    assert lengths[0] == lengths[1] == lengths[2] == lengths[3]
    assert LEXICON[0].name != LEXICON[49].name
