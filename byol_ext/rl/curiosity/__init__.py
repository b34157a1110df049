"""Intrinsic rewards: BYOL-Explore and BYOL-Hindsight on the core, RND, ICM, NGU and counts beside them."""
