"""What both playrooms refuse (spec: zipfian-envs.md, section 9)."""

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded

from envs.zipf.playroom import ZipfPlayroom, ZipfPlayroom2D, ZipfPlayroom2DVector, ZipfPlayroomVector

both = pytest.mark.parametrize("make", [ZipfPlayroomVector, ZipfPlayroom2DVector])
singly = pytest.mark.parametrize("make", [ZipfPlayroom, ZipfPlayroom2D])


@pytest.mark.parametrize(
    "bad",
    [
        *({"exponent": value} for value in (-1.0, -1, float("nan"), float("inf"))),
        *({"num_objects": value} for value in (0, -2, 51)),
        *({"objects_in_room": value} for value in (0, 9)),
        {"num_objects": 2, "objects_in_room": 3, "rare": 1},
        *({"rare": value} for value in (0, 0.0, 1.5, 51, 0.001)),
        {"max_steps": 0},
        {"rank_seed": -1},
        {"task": "throw"},
        {"split": "often"},
        {"level": "lift/lift_shape_zipf9"},
        {"naming": "latin"},
        {"distractors": "none"},
        {"subset": "some"},
        {"split": "rare", "subset": "frequent"},
        {"law": lambda n: np.full(n, 2 / n)},
        {"law": lambda n: np.ones(3) / 3},
        {"law": lambda n: np.full(n, np.nan)},
        {"autoreset_mode": "Sometimes"},
        {"render_mode": "human"},
        {"num_envs": 0},
    ],
    ids=lambda given: str(given).split(" at 0x")[0],  # without addresses, which differ between processes
)
def test_bad_arguments(bad):
    for make in (ZipfPlayroomVector, ZipfPlayroom2DVector):
        with pytest.raises(ValueError):
            make(**{"num_envs": 1, **bad})


@pytest.mark.parametrize("bad", [{"view": 6}, {"view": 1}, {"tile": 2}, {"obs": "text"}], ids=str)
def test_bad_arguments_of_the_grid(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ZipfPlayroom2D(**bad)


def test_names_are_listed():
    with pytest.raises(ValueError, match="lift/lift_shape_zipf4"):
        ZipfPlayroom2D(level="lift")
    with pytest.raises(ValueError, match="lift, put_on, put_near, find"):
        ZipfPlayroom2D(task="throw")
    with pytest.raises(ValueError, match="size"):
        ZipfPlayroom(size=(0, 4))


@singly
def test_bad_calls_single(make):
    env = make(max_steps=2)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for bad in (10, -1, 1.0, "grip", np.array([1])):
        with pytest.raises(InvalidAction):
            env.step(bad)
    env.step(0)
    env.step(0)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(0), env.render):
        with pytest.raises(ClosedEnvironmentError):
            call()


@both
def test_bad_calls_vector(make):
    env = make(3, max_steps=1, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded):
        env.step([0, 0, 0])
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"actions\[1\]"):
        env.step([0, 10, 0])
    with pytest.raises(InvalidAction, match="shape"):
        env.step([0, 0])
    with pytest.raises(InvalidAction, match="integers"):
        env.step([0.0, 0.0, 0.0])
    env.step([0, 0, 0])
    with pytest.raises(ResetNeeded):
        env.step([0, 0, 0])
    with pytest.raises(TypeError, match="bool"):
        env.reset(options={"reset_mask": [True, False, True]})
    with pytest.raises(ValueError, match="shape"):
        env.reset(options={"reset_mask": np.ones(2, bool)})
    env.close()
