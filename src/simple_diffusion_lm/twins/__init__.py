"""The same trunk with other objectives: what continuous diffusion is compared with."""
