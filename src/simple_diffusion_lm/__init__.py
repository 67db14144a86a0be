"""Continuous diffusion language models, small enough to read."""
