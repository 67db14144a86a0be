"""The run directory: configuration, checkpoints, resumption, signals, log."""
