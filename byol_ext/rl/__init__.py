"""Reinforcement learning: rollouts, recurrent actor-critic, PPO and V-trace, and curiosity bonuses on the core.

Time-major throughout: ``T`` transitions, ``B`` environments, ``K`` horizon, ``M`` recurrent width, ``N`` embedding
width, ``A`` actions.
"""
