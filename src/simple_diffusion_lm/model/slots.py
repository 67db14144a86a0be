"""What is to be generated: lengths, given tokens, and which ids may be chosen where."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..diffusion.loss import seeded
from ..diffusion.sampler import Sampler
from ..diffusion.schedule import finest
from .guidance import NONE, Guidance

SamplerName = Literal["ancestral", "ddpm", "ddim", "dpm2m", "renoise"]  # keys of SAMPLERS
# How text is written if nothing else is asked for.
STEPS = 64
SAMPLER: SamplerName = "ancestral"
TEMPERATURE = 0.7


class Slot(NamedTuple):
    """One text to generate: its length, what of it is given, and what its noise is drawn from."""

    ids: Int[Tensor, " L"]  # read where given, and where a part of them is to be kept
    cond_mask: Bool[Tensor, " L"]  # True: given
    begins: Bool[Tensor, " L"]  # True: a new word has to begin here
    goes_on: Bool[Tensor, " L"]  # True: the word before has to go on
    number: int  # by which it is known
    seed: tuple[int, ...]  # of all that is drawn for it

    @classmethod
    def of(
        cls, ids: Sequence[int], end: Sequence[int], number: int = 0, seed: tuple[int, ...] = (0,)
    ) -> "Slot":
        """A text of which everything may change but its end, EOS or nothing."""
        cond_mask = torch.tensor([False] * len(ids) + [True] * len(end))
        nowhere = torch.zeros_like(cond_mask)
        return cls(torch.tensor([*ids, *end]), cond_mask, nowhere, nowhere, number, seed)


class Vocabulary(NamedTuple):
    """Which ids may be chosen where."""

    banned: Bool[Tensor, " V"]  # never: they are not text
    continues: Bool[Tensor, " V"]  # they go on with a word, and do not begin one
    last: int | None  # the EOS that ends every line, and stands nowhere else


class Settings(NamedTuple):
    """How to sample. steps counts evaluations of the network."""

    sampler: Sampler
    steps: int
    temperature: float  # divides the logits: below 1 is safer and less varied
    guidance: Guidance = NONE
    # How far what stands there is noised, or the share of its words that are taken away where
    # positions take turns. None: it is not looked at.
    strength: float | None = None


class Slots(NamedTuple):
    """Slots side by side, padded to one length, and a generator for each.

    All that is drawn for a text comes from its own generator and is as long as it is, so that its
    company is no matter.
    """

    ids: Int[Tensor, "B L"]
    cond_mask: Bool[Tensor, "B L"]
    begins: Bool[Tensor, "B L"]
    goes_on: Bool[Tensor, "B L"]
    length_mask: Bool[Tensor, "B L"]
    numbers: list[int]
    generators: list[torch.Generator]

    @property
    def free(self) -> Bool[Tensor, "B L"]:
        """What is to be written."""
        return self.length_mask & ~self.cond_mask

    @property
    def ends(self) -> Bool[Tensor, "B L"]:
        """The last position of each text."""
        return self.length_mask & ~F.pad(self.length_mask[:, 1:], (0, 1))

    def allowed(
        self, logits: Float[Tensor, "N V"], at: Int[Tensor, " N"], vocabulary: Vocabulary
    ) -> Float[Tensor, "N V"]:
        """Logits of minus infinity for what may not be chosen at positions b L + l."""
        banned, continues = (mask.to(logits.device) for mask in vocabulary[:2])
        begins, goes_on = (marks.flatten()[at][:, None] for marks in (self.begins, self.goes_on))
        return logits.masked_fill(
            banned | (begins & continues) | (goes_on & ~continues), -torch.inf
        )

    def losing(self, share: float, u: Float[Tensor, "B L"], vocabulary: Vocabulary) -> "Slots":
        """All words of the texts given, but a share of them, chosen by u.

        What takes the place of words begins with one, so that no word is half given.
        """
        continues = vocabulary.continues.to(u.device)[self.ids]
        place = torch.arange(u.shape[1], device=u.device).expand_as(self.ids)
        beginning = place.masked_fill(continues, 0).cummax(1).values
        given = self.cond_mask | (self.length_mask & (u.gather(1, beginning) >= share))
        begins = ~given & F.pad(given[:, :-1], (1, 0), value=True) & ~continues
        return self._replace(cond_mask=given, begins=self.begins | begins)

    def only(self, rows: Sequence[int]) -> "Slots":
        """Some of the texts."""
        return Slots(
            self.ids[rows],
            self.cond_mask[rows],
            self.begins[rows],
            self.goes_on[rows],
            self.length_mask[rows],
            [self.numbers[row] for row in rows],
            [self.generators[row] for row in rows],
        )

    def uniform(self) -> Float[Tensor, "B L"]:
        """Uniform numbers on [0, 1), in float64."""
        fine = finest(self.ids.device)
        return self._drawn(lambda n, g: torch.rand(n, generator=g, dtype=torch.float64).to(fine))

    def normal(self, dim: int) -> Float[Tensor, "B L D"]:
        """Standard normal numbers."""
        return self._drawn(lambda length, g: torch.randn(length, dim, generator=g))

    def _drawn(self, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        lengths = self.length_mask.sum(1).tolist()
        each = [draw(n, g) for n, g in zip(lengths, self.generators, strict=True)]
        return pad_sequence(each, batch_first=True).to(self.ids.device)

    def texts(self, ids: Int[Tensor, "B L"]) -> Iterator[tuple[int, Int[Tensor, " L"]]]:
        """(number, ids) of each text, without padding."""
        for number, row, mask in zip(self.numbers, ids.cpu(), self.length_mask.cpu(), strict=True):
            yield number, row[mask]


class Frame(NamedTuple):
    """Texts after a step of writing them, and what the model said in that step."""

    ids: Int[Tensor, "B L"]  # of what is given or written
    free: Bool[Tensor, "B L"]  # not written yet
    at: Int[Tensor, " N"]  # the positions that were predicted, as numbers b L + l
    logits: Float[Tensor, "N V"]

    def only(self, rows: Sequence[int]) -> "Frame":
        """That of some of the texts."""
        length = self.ids.shape[1]
        place = torch.full((len(self.ids),), -1, device=self.at.device)
        place[rows] = torch.arange(len(rows), device=place.device)
        row = place[self.at // length]
        kept = row >= 0
        at = row[kept] * length + self.at[kept] % length
        return Frame(self.ids[rows], self.free[rows], at, self.logits[kept])


Watch = Callable[[Slots, Frame], None]
Generate = Callable[
    [Sequence[Slot], Settings, Vocabulary, int, Watch | None],
    Iterable[tuple[int, Int[Tensor, " L"]]],
]


POOL_BATCHES = 64  # that are sorted by length at a time
PADDED = 1.5  # the longest of a batch over its shortest, at most


def batches_of(slots: Iterable[Slot], batch_size: int, device: torch.device) -> Iterator[Slots]:
    """Slots in batches, sorted by length within a pool, so that little is padding."""
    source = iter(slots)
    while pool := list(islice(source, POOL_BATCHES * batch_size)):
        pool.sort(key=lambda slot: len(slot.ids))
        group: list[Slot] = []
        for slot in pool:
            if group and (len(group) == batch_size or len(slot.ids) > PADDED * len(group[0].ids)):
                yield together(group, device)
                group = []
            group.append(slot)
        yield together(group, device)


def together(group: Sequence[Slot], device: torch.device) -> Slots:
    """Slots as one batch."""

    def padded(column: Iterable[Tensor]) -> Tensor:
        return pad_sequence(list(column), batch_first=True).to(device)

    return Slots(
        ids=padded(slot.ids for slot in group),
        cond_mask=padded(slot.cond_mask for slot in group),
        begins=padded(slot.begins for slot in group),
        goes_on=padded(slot.goes_on for slot in group),
        length_mask=padded(torch.ones_like(slot.cond_mask) for slot in group),
        numbers=[slot.number for slot in group],
        generators=[seeded(*slot.seed) for slot in group],
    )


def draw_ids(logits: Float[Tensor, "N V"], u: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Draws from softmax(logits): the id at which the cumulative probability passes u in [0, 1).

    In float64: in float32 rare ids are cut off, which is a lower temperature in disguise
    (2409.02908).
    """
    cumulative = logits.to(finest(logits.device)).softmax(-1).cumsum(-1)
    found = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)
    return found.squeeze(1).clamp(max=logits.shape[-1] - 1)
