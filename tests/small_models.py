"""Configurations and networks small enough for a test, and what a run of one holds."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from simple_diffusion_lm.core.train import Config, Diffusion

SMALL = {
    "embedding_dim": 16,
    "model_dim": 32,
    "layers": 2,
    "heads": 2,
    "batch_tokens": 512,
    "crop": 32,
    "window": 32,
    "warmup_steps": 5,
    "dropout": 0.0,
}


def small(config: Config, **changes: object) -> Config:
    """A configuration small enough to train in a test."""
    return replace(config, **{**SMALL, **changes})


def denoiser(vocab_size: int, **changes: object) -> Diffusion:
    """A small network, untrained."""
    return Diffusion(small(Config(), **changes), vocab_size)


def tensors(run: Path) -> dict[str, Tensor]:
    """All that the newest checkpoint of a run holds."""
    from simple_diffusion_lm.runs import checkpoint  # so that tests of the core need the core alone

    found = checkpoint.newest(run)
    assert found is not None
    model = {f"model {name}": tensor for name, tensor in found.read(checkpoint.MODEL).items()}
    return model | {f"state {name}": tensor for name, tensor in found.read(checkpoint.STATE).items()}
