"""Texts to noise and back along the probability flow: what lies between two texts."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..diffusion.loss import seeded
from ..diffusion.sampler import SAMPLERS, Denoise, Prediction, X, sample, step
from ..diffusion.schedule import Level, Path, Schedule
from .continuous import Continuous
from .page import Page, level_along
from .slots import Settings, Slot, Vocabulary, together


def by_itself(denoise: Denoise) -> Denoise:
    """A denoiser that is shown its own first prediction: a function of (x_t, level) alone."""

    def both(x_t: X, level: Level, x0_prev: X) -> Prediction:
        return denoise(x_t, level, denoise(x_t, level, torch.zeros_like(x_t)).x0_hat)

    return both


@torch.no_grad()
def encode(denoise: Denoise, schedule: Schedule, x0: X, steps: int) -> X:
    """The noise (B, L, D) at the other end of x0's way along the flow: DDIM's steps backwards.

    From there DDIM leads back to x0 as far as its steps are small (2010.02502, section 5.4).
    """
    levels = [schedule(t) for t in torch.linspace(0, 1, steps + 1, device=x0.device)]
    x_t = levels[0].alpha * x0
    for now, nxt in pairwise(levels):
        x0_hat = denoise(x_t, now, x0).x0_hat
        x_t = step(x_t, x0_hat, now, nxt, torch.zeros_like(nxt.sigma), x_t)
    return x_t


def between(first: Float[Tensor, "*S D"], second: Float[Tensor, "*S D"], share: float) -> Tensor:
    """Spherical interpolation of noise: as long as noise is, all the way from first to second."""
    cosine = F.cosine_similarity(first, second, dim=-1)[..., None]
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    return (((1 - share) * angle).sin() * first + (share * angle).sin() * second) / angle.sin()


@torch.no_grad()
def blend(
    model: Continuous,
    texts: tuple[Sequence[int], Sequence[int]],
    end: Sequence[int],
    vocabulary: Vocabulary,
    count: int,
    steps: int,
) -> list[list[int]]:
    """The ids of `count` texts from the first to the second, without their end (EOS or nothing).

    A text between has a length between. The shorter one's noise is made as long with more noise.
    """
    model.eval()
    device, dim = model.embedding.weight.device, model.embedding.dim
    lengths = [len(ids) for ids in texts]
    noises = torch.randn(2, max(lengths), dim, generator=seeded(0)).to(device)
    for noise, ids in zip(noises, texts, strict=True):
        page, schedule = _page(model, [Slot.of(ids, end)], vocabulary, steps)
        x0 = model.embedding(page.ids)
        noise[: len(ids)] = encode(by_itself(page.denoise), schedule, x0, steps)[0, : len(ids)]
    shares = torch.linspace(0, 1, count).tolist()
    between_lengths = [round((1 - s) * lengths[0] + s * lengths[1]) for s in shares]
    slots = [Slot.of([0] * length, end, n) for n, length in enumerate(between_lengths)]
    page, schedule = _page(model, slots, vocabulary, steps)
    x_t = torch.zeros(*page.ids.shape, dim, device=device)
    for row, (share, length) in enumerate(zip(shares, between_lengths, strict=True)):
        x_t[row, :length] = between(noises[0], noises[1], share)[:length]
    ddim, nothing = SAMPLERS["ddim"], torch.zeros_like(x_t)
    walk = sample(by_itself(page.denoise), lambda: nothing, schedule, steps, ddim, (x_t, 1.0))
    *_, (_, prediction) = walk
    page.write(prediction, page.free)
    return [ids[:length].tolist() for ids, length in zip(page.ids, between_lengths, strict=True)]


def _page(
    model: Continuous, slots: Sequence[Slot], vocabulary: Vocabulary, steps: int
) -> tuple[Page, Schedule]:
    """Texts, all of whose positions go along the flow together."""
    group = together(slots, model.embedding.weight.device)
    settings = Settings(SAMPLERS["ddim"], steps, temperature=1.0)
    at_once = Path(torch.zeros_like(group.ids, dtype=torch.float), 0.0)
    page = Page(model.denoiser, model.schedule, group, settings, vocabulary, draws=False)
    return page, partial(level_along, model.schedule, at_once)
