"""Losses are pure functions: ``pair`` (one number an element), ``sets`` and ``contrastive`` (mix samples)."""
