"""`ZipfTasks`: skew any family of tasks, so that some come often and most come rarely.

>>> games = ZipfTasks(["CartPole-v1", ("CartPole-v1", {"max_episode_steps": 50})], exponent=2.0, rare=1)
>>> obs, info = games.reset(seed=0)
>>> info["task_id"], games.family.names[info["task_id"]], round(info["task_prob"], 2)
(0, 'CartPole-v1', 0.8)
>>> games.close()

Ready-made families (Atari games, MiniGrid and BabyAI levels, ViZDoom scenarios, ...) are in `envs.task_presets`; scores
on all splits from one evaluation, in `envs.evaluate`.

Legend: ``B`` sub-environments, ``K`` tasks, ``F`` factors of a task.
"""

from __future__ import annotations

from envs.families.family import Task, TaskFamily, TaskLike, option_tasks, task_family
from envs.families.law import Rare, TaskLaw, allocate_slots
from envs.families.single import ZipfTasks
from envs.families.vector import Allocation, ZipfTasksVector

__all__ = [
    "Allocation",
    "Rare",
    "Task",
    "TaskFamily",
    "TaskLaw",
    "TaskLike",
    "ZipfTasks",
    "ZipfTasksVector",
    "allocate_slots",
    "option_tasks",
    "task_family",
]
