"""Zipfian environments: the law of ranks and its splits, and Zipf's Gridworld in single, batch and exact form."""
