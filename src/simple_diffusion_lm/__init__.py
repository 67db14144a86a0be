"""Continuous diffusion language models, small enough to read. Start with core/."""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers know of PUBLIC
    from .core import Config as Config
    from .core.generate import Sampling as Sampling
    from .corpus.prepare import open_prepared as open_prepared, prepare as prepare
    from .errors import UserError as UserError
    from .runs.config import RECIPES as RECIPES
    from .runs.run import run_training as run_training
    from .writing.model import DiffusionLM as DiffusionLM, train as train

# On a machine that does something else too, OpenMP's threads wait for one that is not running, and spin all
# the while: with a short spin training is up to nine times as fast there, and on a quiet machine no slower
# (docs/log.md). GNU's OpenMP reads this when torch loads.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# Loaded when asked for, so that core/ runs by itself: `python -m simple_diffusion_lm.core.train`.
PUBLIC = {
    "train": "writing.model",
    "DiffusionLM": "writing.model",
    "Sampling": "core.generate",
    "Config": "core",
    "RECIPES": "runs.config",
    "prepare": "corpus.prepare",
    "open_prepared": "corpus.prepare",
    "run_training": "runs.run",
    "UserError": "errors",
}
__all__ = [*PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("simple-diffusion-lm")
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
