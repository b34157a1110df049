"""Gymnasium environments and vector back ends: numpy and numba, never torch, never byol_ext."""
