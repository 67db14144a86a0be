"""Continuous diffusion language models, small enough to read. Start with core/."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from .errors import UserError

# Loaded when asked for, so that core/ runs by itself: `python -m simple_diffusion_lm.core.train`.
PUBLIC = {
    "RECIPES": "runs.config",
    "Config": "core.train",
    "DiffusionLM": "writing.model",
    "Sampling": "core.generate",
    "open_prepared": "corpus.prepare",
    "prepare": "corpus.prepare",
    "run_training": "runs.run",
    "train": "writing.model",
}
__all__ = ["UserError", *PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("simple-diffusion-lm")
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
