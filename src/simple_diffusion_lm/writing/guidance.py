"""Guidance: predictions moved to what somebody's own score of a text prefers."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.denoiser import Batch
from ..core.generate import TextModel
from ..core.noise import Logits
from ..core.train import Diffusion
from ..errors import UserError

# (logits, mask) -> a score of each text, to be raised: any differentiable function of the logits
# (B, L, V) where mask (B, L) is True. A token's log-probability is raised by the slope of the score along its
# probability, so where the score is an expectation over tokens, the distribution is exactly the model's
# times exp(score).
Score = Callable[[Float[Tensor, "B L V"], Bool[Tensor, "B L"]], Float[Tensor, " B"]]
CERTAIN = 30.0  # the logit of a known token, over zeros for all others


def diffusion_of(model: TextModel, ability: str) -> Diffusion:
    """The model as what it is. Raises UserError where it is another kind, without this ability."""
    if not model.is_guided:
        raise UserError(f"only continuous diffusion {ability}")
    return cast(Diffusion, model)


def raise_score(score: Score, logits: Logits, batch: Batch) -> Logits:
    """The logits of the free positions, with what raises the score added. Known tokens are certain."""
    with torch.enable_grad():
        probability = logits.softmax(-1).requires_grad_()
        whole = logits.new_zeros(*batch.ids.shape, logits.shape[-1])
        whole = whole.scatter(-1, batch.ids[..., None], CERTAIN)
        whole = whole.masked_scatter(batch.free[..., None], probability.clamp(min=1e-30).log())
        value = score(whole, batch.length_mask).sum()
        (slope,) = torch.autograd.grad(value, probability)
    return logits + slope
