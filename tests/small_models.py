"""Configurations and networks small enough for a test, and what a run of one holds."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from simple_diffusion_lm.model.continuous import Continuous
from simple_diffusion_lm.model.denoiser import Denoiser
from simple_diffusion_lm.training import checkpoint
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern

SMALL = {
    "embedding_dim": 16,
    "model_dim": 32,
    "layers": 2,
    "heads": 2,
    "batch_tokens": 512,
    "crop": 32,
    "warmup_steps": 5,
    "dropout": 0.0,
}


def small(config: Config, **changes: object) -> Config:
    """A configuration small enough to train in a test."""
    return replace(config, **{**SMALL, **changes})


def denoiser(vocab_size: int, **changes: object) -> Denoiser:
    """A small network, untrained."""
    model = OBJECTIVES["continuous"](small(modern(), **changes), vocab_size)
    assert isinstance(model, Continuous)
    return model.denoiser


def tensors(run: Path) -> dict[str, Tensor]:
    """All that the newest checkpoint of a run holds."""
    found = checkpoint.newest(run)
    assert found is not None
    model = {f"model {name}": tensor for name, tensor in found.model().items()}
    return model | {f"state {name}": tensor for name, tensor in found.state().items()}
