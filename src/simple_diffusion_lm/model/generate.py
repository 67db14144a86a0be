"""Ids out of noise: the reverse process around a denoiser, for any lengths and given tokens."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..diffusion.loss import seeded
from ..diffusion.sampler import Denoise, Prediction, Sampler, sample
from ..diffusion.schedule import Level, Schedule
from .denoiser import Denoiser


class Slot(NamedTuple):
    """One text to generate: its length, what of it is given, and the number that seeds it."""

    ids: Int[Tensor, " L"]  # read where given
    cond_mask: Bool[Tensor, " L"]  # True: given
    word_start: Bool[Tensor, " L"]  # True: a new word has to begin here
    number: int


class Vocabulary(NamedTuple):
    """Which ids may be chosen where."""

    banned: Bool[Tensor, " V"]  # never: they are not text
    continues: Bool[Tensor, " V"]  # not where a word has to begin: they continue one
    last: int | None  # the EOS that ends every line, and stands nowhere else


class Settings(NamedTuple):
    """How to sample. steps counts evaluations of the network."""

    sampler: Sampler
    steps: int
    temperature: float  # divides the logits: below 1 is safer and less varied
    seed: int


def denoise_with(
    denoiser: Denoiser,
    ids: Int[Tensor, "B L"],
    cond_mask: Bool[Tensor, "B L"],
    temperature: float,
) -> Denoise:
    """The function a sampler sees: given tokens and temperature wrapped around the network.

    x0_hat is the mean embedding under the tempered logits, in either recipe.
    """
    length_mask = torch.ones_like(cond_mask)

    def denoise(x_t: Tensor, level: Level, x0_prev: Tensor) -> Prediction:
        each = Level(*(part.expand(len(x_t), 1, 1) for part in level))
        logits = denoiser(
            x_t, each, x0_prev, ids=ids, cond_mask=cond_mask, length_mask=length_mask
        ).logits
        logits = logits / temperature
        return Prediction(denoiser.interpolate(logits), logits)

    return denoise


def noise_source(
    slots: list[Slot], dim: int, seed: int, device: torch.device
) -> Callable[[], Float[Tensor, "B L D"]]:
    """Fresh noise for each slot from a generator of its own, so that its company is no matter."""
    generators = [seeded(seed, slot.number) for slot in slots]
    length = len(slots[0].ids)
    return lambda: torch.stack([torch.randn(length, dim, generator=g) for g in generators]).to(
        device
    )


def generate(
    denoiser: Denoiser,
    schedule: Schedule,
    slots: Iterable[Slot],
    settings: Settings,
    *,
    vocabulary: Vocabulary,
    batch_size: int = 64,
) -> Iterator[tuple[int, Int[Tensor, " L"]]]:
    """Yields (number, ids) for each slot, in the order they are done.

    Slots of one length share a batch, so nothing is padding.
    """
    denoiser.eval()
    device = denoiser.log_unigram.device
    for group in _by_length(slots, batch_size):
        ids = torch.stack([slot.ids for slot in group]).to(device)
        cond_mask = torch.stack([slot.cond_mask for slot in group]).to(device)
        draw = noise_source(group, denoiser.embedding.dim, settings.seed, device)
        denoise = denoise_with(denoiser, ids, cond_mask, settings.temperature)
        steps = sample(denoise, draw, schedule, settings.steps, settings.sampler)
        _, prediction = deque(steps, maxlen=1).pop()
        word_start = torch.stack([slot.word_start for slot in group])
        chosen = choose(prediction.logits.cpu(), word_start, vocabulary).to(device)
        result = torch.where(cond_mask, ids, chosen).cpu()
        yield from zip((slot.number for slot in group), result, strict=True)


def choose(
    logits: Float[Tensor, "B L V"], word_start: Bool[Tensor, "B L"], vocabulary: Vocabulary
) -> Int[Tensor, "B L"]:
    """The most probable allowed ids."""
    forbidden = vocabulary.banned | (word_start[..., None] & vocabulary.continues)
    ids = logits.masked_fill(forbidden, -torch.inf).argmax(-1)
    if vocabulary.last is not None:
        ids[:, -1] = vocabulary.last
    return ids


def _by_length(slots: Iterable[Slot], batch_size: int) -> Iterator[list[Slot]]:
    """Slots in batches of equal length."""
    waiting: defaultdict[int, list[Slot]] = defaultdict(list)
    for slot in slots:
        group = waiting[len(slot.ids)]
        group.append(slot)
        if len(group) == batch_size:
            yield group
            waiting[len(slot.ids)] = []
    for group in waiting.values():
        if group:
            yield group
