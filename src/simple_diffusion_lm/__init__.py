"""Continuous diffusion language models, small enough to read."""

from .errors import UserError
from .generation import DiffusionLM
from .run import run_training
from .text.corpus import open_prepared, prepare
from .training.config import Config
from .training.recipes import RECIPES

__all__ = [
    "RECIPES",
    "Config",
    "DiffusionLM",
    "UserError",
    "open_prepared",
    "prepare",
    "run_training",
]
