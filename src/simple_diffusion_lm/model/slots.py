"""What is to be generated: lengths, given tokens, and which ids may be chosen where."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..diffusion.loss import seeded
from ..diffusion.sampler import Sampler


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


class Slots(NamedTuple):
    """Slots of one length, side by side, and a generator for each: its company is no matter."""

    ids: Int[Tensor, "B L"]
    cond_mask: Bool[Tensor, "B L"]
    word_start: Bool[Tensor, "B L"]
    numbers: list[int]
    generators: list[torch.Generator]


def batches_of(
    slots: Iterable[Slot], batch_size: int, seed: int, device: torch.device
) -> Iterator[Slots]:
    """Slots in batches of equal length, so that nothing is padding."""
    waiting: defaultdict[int, list[Slot]] = defaultdict(list)
    for slot in slots:
        group = waiting[len(slot.ids)]
        group.append(slot)
        if len(group) == batch_size:
            yield _together(group, seed, device)
            waiting[len(slot.ids)] = []
    for group in waiting.values():
        if group:
            yield _together(group, seed, device)


def _together(group: list[Slot], seed: int, device: torch.device) -> Slots:
    return Slots(
        torch.stack([slot.ids for slot in group]).to(device),
        torch.stack([slot.cond_mask for slot in group]).to(device),
        torch.stack([slot.word_start for slot in group]).to(device),
        [slot.number for slot in group],
        [seeded(seed, slot.number) for slot in group],
    )


def forbid(
    logits: Float[Tensor, "B L V"], word_start: Bool[Tensor, "B L"], vocabulary: Vocabulary
) -> Float[Tensor, "B L V"]:
    """Logits of minus infinity for what may not be chosen."""
    banned, continues = (mask.to(logits.device) for mask in vocabulary[:2])
    return logits.masked_fill(banned | (word_start[..., None] & continues), -torch.inf)


def draw_ids(
    logits: Float[Tensor, "B L V"], generators: list[torch.Generator]
) -> Int[Tensor, "B L"]:
    """Draws from softmax(logits), each text with its own generator, by the Gumbel trick.

    In float64: in float32 the largest Gumbel numbers are cut off, which is a lower temperature in
    disguise (2409.02908).
    """
    uniform = torch.stack(
        [torch.rand(logits.shape[1:], generator=g, dtype=torch.float64) for g in generators]
    ).to(logits.device)
    return (logits.double() - (-uniform.log()).log()).argmax(-1)
