"""Diffusion of discrete data: CDCD (Gaussian noise on embeddings), the simplex, and their baselines."""
