"""Texts to noise and back along the probability flow: what lies between two texts."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.bound import two_pass
from ..core.generate import Group
from ..core.noise import Level, Logits, X, normal
from ..core.sampler import SAMPLERS, Denoise, move
from ..core.train import Diffusion
from .requests import Forbidden, Row, group_of

Ids = Sequence[int]
Heed = Callable[[], None]  # is called with each pass of the network (Writer.heed)


def two_pass_denoise(model: Diffusion, group: Group, heed: Heed) -> Denoise:
    """A denoiser that is shown its own first prediction, if the network was: of (x_t, level) alone."""

    def change(logits: Logits) -> Logits:
        heed()
        return group.constrain(logits, group.batch.free)

    return lambda x_t, level, x0_prev: two_pass(model, x_t, level, group.batch, change)


@torch.no_grad()
def encode(denoise: Denoise, levels: Sequence[Level], x0: X) -> X:
    """Where x0's way along the flow ends: DDIM's steps backwards (2010.02502, section 5.4), over levels from
    clean to noise. From there DDIM leads back to x0, the nearer the smaller its steps. It begins at alpha x0,
    with no noise at all, and so it ends far shorter than N(0, I): each number is about 0.1."""
    x_t = levels[0].alpha * x0
    for now, nxt in pairwise(levels):
        x0_hat = denoise(x_t, now, x0).x0_hat
        x_t = move(x_t, x0_hat, now, nxt, torch.zeros_like(nxt.sigma), x_t)
    return x_t


def between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation: as long as its two ends are, all the way from first to second."""
    cosine = F.cosine_similarity(first, second, dim=-1)[..., None]
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    return (((1 - share) * angle).sin() * first + (share * angle).sin() * second) / angle.sin()


@torch.no_grad()
def blend(
    model: Diffusion, texts: Sequence[Ids], end: Ids, forbidden: Forbidden, count: int, steps: int, heed: Heed
) -> list[list[int]]:
    """The ids of `count` texts from the first of two to the second, without their end (EOS or nothing).
    A text between has a length between. The shorter one's noise is made longer, with more as strong."""
    device = model.eval().embedding.weight.device
    times = torch.linspace(0, 1, steps + 1, device=device)
    ends = group_of([Row.of(ids, end, n) for n, ids in enumerate(texts)], forbidden, device)
    levels = [model.schedule(t.expand(2, 1, 1)) for t in times]
    noise = encode(two_pass_denoise(model, ends, heed), levels, model.embedding(ends.batch.ids))
    free = ends.batch.free
    longer = noise[free].std() * normal(ends.keys, *noise.shape[1:])
    noise = torch.where(free[..., None], noise, longer)

    shares = torch.linspace(0, 1, count, device=device)
    first, second = map(len, texts)
    lengths = [round(first + share * (second - first)) for share in shares.tolist()]
    group = group_of([Row.of([0] * length, end) for length in lengths], forbidden, device)
    batch = group.batch
    x_t = between(noise[0], noise[1], shares[:, None, None])[:, : batch.ids.shape[1]]
    levels = [model.schedule(t.expand(count, 1, 1)) for t in times.flip(0)]
    nothing = torch.zeros_like(x_t)  # DDIM adds no noise
    way = SAMPLERS["ddim"](two_pass_denoise(model, group, heed), x_t, levels, lambda: nothing)
    _, prediction = deque(way, maxlen=1).pop()
    found = batch.ids.masked_scatter(batch.free, prediction.logits.argmax(-1))
    return [ids[:length] for ids, length in zip(found.tolist(), lengths, strict=True)]
