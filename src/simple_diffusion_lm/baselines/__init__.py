"""The same trunk with other objectives: what continuous diffusion is compared with."""

from ..core.train import MODELS
from .autoregressive import Autoregressive
from .masked import Masked

MODELS.update(masked=Masked, autoregressive=Autoregressive)

__all__ = ["MODELS"]
