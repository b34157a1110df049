"""Gymnasium environments and vector back ends: numpy and numba, never torch, never byol_ext.

Importing this package registers its ids; the environments' modules (and Numba) load when one is made:

>>> import gymnasium, envs
>>> maze = gymnasium.make_vec("byol_ext/StochasticMaze-v0", num_envs=4, noise="brownian")
>>> obs, infos = maze.reset(seed=0)
>>> obs.shape
(4, 5, 5, 5)
>>> maze.close()
"""

from __future__ import annotations

try:
    from gymnasium.envs.registration import register, registry
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("envs needs Gymnasium: pip install 'byol_ext[explore]'", name=error.name) from error

from envs.dm import to_dm_env

__all__ = ["to_dm_env"]

# Id -> module and class of the single environment; the batch one is the same name with "Vector".
_IDS = {
    "byol_ext/StochasticMaze-v0": "envs.mazes:StochasticMaze",
    "byol_ext/RandomDiscoMaze-v0": "envs.disco:RandomDiscoMaze",
    "byol_ext/ZipfGridworld-v0": "envs.zipf.gridworld:ZipfGridworld",
    "byol_ext/ZipfLabyrinth-v0": "envs.zipf.labyrinth:ZipfLabyrinth",
    "byol_ext/ZipfPlayroom-v0": "envs.zipf.playroom:ZipfPlayroom",
    "byol_ext/ZipfPlayroom2D-v0": "envs.zipf.playroom:ZipfPlayroom2D",
}

# Adapters to originals; their engines have no batch form.
_ADAPTERS = {"byol_ext/ZipfDMLab-v0": "envs.zipf.dmlab:ZipfDMLab"}

for _id, _path in _IDS.items():
    if _id not in registry:
        register(_id, entry_point=_path, vector_entry_point=f"{_path}Vector")
for _id, _path in _ADAPTERS.items():
    if _id not in registry:
        register(_id, entry_point=_path)
