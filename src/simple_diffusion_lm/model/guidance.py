"""Guidance: predictions led on past what the model says, in a direction someone wants."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..diffusion.network import Targets

Score = Callable[[Float[Tensor, "B L V"], Bool[Tensor, "B L"]], Tensor]
GIVEN = 30.0  # the logit of a token that is given, over all others


class Guidance(NamedTuple):
    """How far predictions are led on; zeros and None leave them as they are.

    given: away from the prediction without the given tokens (classifier-free guidance, 2207.12598,
        eq. 6, its w). Training drops them often enough: most of its examples have none.
    previous: away from the prediction without self-conditioning.
    score: (logits, mask) -> a score of each text, to be raised, as any differentiable function of
        the logits (B, L, V) where mask (B, L) is True. A token's log-probability is raised by the
        slope of the score along its probability, so where the score is an expectation over tokens,
        the distribution is exactly the model's times exp(score).
    """

    given: float = 0.0
    previous: float = 0.0
    score: Score | None = None


NONE = Guidance()


def raise_score(
    score: Score,
    logits: Float[Tensor, "N V"],
    targets: Targets,
    ids: Tensor,
    length_mask: Bool[Tensor, "B L"],
) -> Float[Tensor, "N V"]:
    """The logits with what raises the score added. Tokens that stand already count as certain."""
    with torch.enable_grad():
        probability = logits.softmax(-1).requires_grad_()
        whole = logits.new_zeros(*ids.shape, logits.shape[-1])
        whole = whole.scatter(-1, ids[..., None], GIVEN).flatten(0, 1)
        whole = whole.index_copy(0, targets.all, probability.clamp(min=1e-30).log())
        value = score(whole.view(*ids.shape, -1), length_mask).sum()
        (slope,) = torch.autograd.grad(value, probability)
    return logits + slope
