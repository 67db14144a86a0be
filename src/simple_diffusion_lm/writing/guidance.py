"""Guidance: predictions moved beyond what the model says, in a direction that someone wants."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.denoiser import Batch
from ..core.generate import Guide, Predict, TextModel
from ..core.noise import Level, Logits, Mask, X
from ..core.train import Diffusion
from ..errors import UserError

Score = Callable[[Float[Tensor, "B L V"], Bool[Tensor, "B L"]], Float[Tensor, " B"]]
CERTAIN = 30.0  # the logit of a known token, over zeros for all others


class Guidance(NamedTuple):
    """How predictions are guided; 0 and None leave them as they are.

    given: how far they are moved away from the prediction without the given tokens (classifier-free
        guidance, 2207.12598, eq. 6, its w). In most training examples nothing is given, so the model
        knows that prediction too.
    score: (logits, mask) -> a score of each text, to be raised: any differentiable function of the
        logits (B, L, V) where mask (B, L) is True. A token's log-probability is raised by the slope of
        the score along its probability, so where the score is an expectation over tokens, the
        distribution is exactly the model's times exp(score).
    """

    given: float = 0.0
    score: Score | None = None

    def guide(self, model: Diffusion, given: Mask, temperature: float) -> Guide:
        """As core.generate.sample_text takes it. given: what is given before anything is written."""
        noise = model.schedule(torch.ones(1, 1, 1, device=given.device))

        def wrap(predict: Predict, batch: Batch) -> Predict:
            def guided(x_t: X, level: Level, x0_prev: X) -> Logits:
                logits = predict(x_t, level, x0_prev)
                if self.given:  # without them: they are free too, and at pure noise
                    other = batch._replace(cond_mask=batch.cond_mask & ~given)
                    alpha = torch.where(given[..., None], noise.alpha, level.alpha)
                    sigma = torch.where(given[..., None], noise.sigma, level.sigma)
                    without = model(x_t, Level(alpha, sigma), x0_prev, other).logits[batch.free[other.free]]
                    logits = logits + self.given * (logits - without)
                if self.score is not None:  # of the distribution that is sampled from: tempered
                    logits = raise_score(self.score, logits / temperature, batch) * temperature
                return logits

            return guided

        return wrap


NONE = Guidance()


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
