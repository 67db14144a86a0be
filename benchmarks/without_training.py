"""Gaps filled by a model that is not told what is given: two ways that need no training for it.

Re-injecting: at every step what is given is put into x_t as it would stand there, noised to the
level of its position (RePaint, 2201.09865, without its resampling). By gradient: x0_hat is moved
along the gradient, through the network, of the log-probability that it gives to what is given
(Plaid, 2305.18619, section 5.3). Both are here to be compared with; the library tells the network.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from simple_diffusion_lm.diffusion.sampler import SAMPLERS, Prediction, sample
from simple_diffusion_lm.diffusion.schedule import Level, Path
from simple_diffusion_lm.model.continuous import Continuous
from simple_diffusion_lm.model.page import Page, level_along
from simple_diffusion_lm.model.slots import Settings, Slot, Vocabulary, together


@torch.no_grad()
def fill(
    model: Continuous,
    slots: Sequence[Slot],
    vocabulary: Vocabulary,
    *,
    steps: int,
    temperature: float,
    stagger: float,
    gradient: float | None,
) -> list[list[int]]:
    """The ids of each slot. gradient: how far to move along it; None: what is given is re-injected.

    stagger: of the path, in random order.
    """
    model.eval()
    told = together(slots, model.embedding.weight.device)
    given = told.cond_mask[..., None]
    group = told._replace(cond_mask=torch.zeros_like(told.cond_mask))
    settings = Settings(SAMPLERS["ddpm"], steps, temperature)
    page = Page(model.denoiser, model.schedule, group, settings, vocabulary, draws=False)
    x0, draw = model.embedding(told.ids), partial(group.normal, model.embedding.dim)
    eps = draw()

    def reinjecting(x_t: Tensor, level: Level, x0_prev: Tensor) -> Prediction:
        x_t = torch.where(given, level.noise(x0, eps), x_t)
        said = page.denoise(x_t, level, x0_prev)
        return said._replace(x0_hat=torch.where(given, x0, said.x0_hat))

    def climbing(x_t: Tensor, level: Level, x0_prev: Tensor) -> Prediction:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            said = page.denoise(x_t, level, x0_prev)
            at = said.targets.all
            known = told.cond_mask.flatten()[at]
            there = told.ids.flatten()[at[known]]
            likely = -F.cross_entropy(said.logits[known], there, reduction="sum")
            (slope,) = torch.autograd.grad(likely, x_t, allow_unused=True)
        moved = said.x0_hat.detach()
        if slope is not None and gradient is not None:
            moved = moved + gradient * (level.sigma**2 / level.alpha) * slope
        return said._replace(x0_hat=moved, logits=said.logits.detach())

    path = Path.of(group.uniform(), group.free, stagger)
    schedule = partial(level_along, model.schedule, path)
    denoise = reinjecting if gradient is None else climbing
    walk = sample(denoise, draw, schedule, steps, settings.sampler)
    for number, (_, prediction) in enumerate(walk, start=1):
        t = path(torch.tensor(1 - number / steps, device=page.ids.device))
        page.write(prediction, t == 0)
        page.ids = torch.where(told.cond_mask, told.ids, page.ids)
    return [ids.tolist() for _, ids in group.texts(page.ids)]
