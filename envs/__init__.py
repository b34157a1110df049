"""Gymnasium environments and vector back ends; numpy, numba and the emulators, never torch, never byol_ext."""
