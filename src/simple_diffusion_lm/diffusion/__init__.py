"""The mathematics: levels, noise and callables. Knows nothing of text or of networks."""
