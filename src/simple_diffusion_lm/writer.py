"""Writes lines: drafts their lengths, samples candidates, and keeps the best that will do."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypedDict, Unpack

import numpy as np
import torch

from .diffusion.sampler import SAMPLERS
from .errors import UserError
from .filling import Draft, Form, Wish
from .model.guidance import NONE, Guidance
from .model.objective import Objective
from .model.slots import SAMPLER, STEPS, TEMPERATURE, Generate, Settings, Slot, Vocabulary, Watch
from .scoring import nats_of
from .text.templates import Gap, Template
from .text.tokenizer import SPACE, Ids, Tokenizer
from .training.processes import gathered, rank, world

AT_ONCE = 1024  # lines that are drafted together
ATTEMPTS = 4  # rounds of candidates for a line that none of them will do for
LEFT_TO_RIGHT = (
    "an autoregressive model writes from left to right and ends its lines itself: "
    "give it nothing, or a prompt (text and then ___)"
)


class Sampling(TypedDict, total=False):
    """How noise becomes text.

    steps: evaluations of the network, 64 if not given; more is better and slower.
    sampler: one of diffusion.sampler.SAMPLERS, by default ancestral.
    temperature: 1 is the model's own distribution; below it, as by default (0.7), is safer.
    batch_size: texts at a time.
    guidance: see model/guidance.py.
    watch: is called after each step with the texts as they are (see model/slots.py).
    """

    steps: int
    sampler: str
    temperature: float
    batch_size: int
    guidance: Guidance
    watch: Watch | None


class Written(NamedTuple):
    """A line that was written."""

    text: str
    fills: list[str]  # what stands in each gap
    widths: list[int]  # its tokens
    nats: float | None  # -log p of the whole line; None: there was nothing to choose from
    fits: bool  # it has none of the words it was not to have


class Writer:
    """A model, its tokenizer, and how long its texts are (see generation.py)."""

    def __init__(
        self,
        model: Objective,
        tokenizer: Tokenizer,
        length_weights: list[int],
        *,
        stream: bool,
        generate: Generate | None = None,
    ) -> None:
        """generate: what slots are written with, by default the model's own."""
        self.model = model
        self.generate = generate or model.generate
        self.tokenizer = tokenizer
        self.length_weights = length_weights
        self.stream = stream
        self.pieces = tokenizer.pieces(range(len(tokenizer)))
        self.eos = [] if stream else [tokenizer.eos_id]  # ends a line,
        self.end = [] if model.writes_length else self.eos  # and is given, or written

    @property
    def longest(self) -> int:
        """The most tokens the model has seen in one text, EOS included."""
        return len(self.length_weights) - 1

    def vocabulary(self, never: Iterable[str] = ()) -> Vocabulary:
        """What may be written. A word that is one piece is never written as such."""
        banned = torch.zeros(len(self.pieces), dtype=torch.bool)
        banned[self.tokenizer.special_ids] = True
        if self.stream:
            banned[self.tokenizer.eos_id] = False  # a line break like any other token
        words = {SPACE + word.casefold() for word in never}
        banned |= torch.tensor([piece.casefold() in words for piece in self.pieces])
        continues = torch.tensor([not piece.startswith(SPACE) for piece in self.pieces])
        return Vocabulary(banned, continues, None if self.stream else self.tokenizer.eos_id)

    def write(
        self,
        wishes: Sequence[Wish],
        candidates: int,
        never: Sequence[str] = (),
        seed: int = 0,
        **sampling: Unpack[Sampling],
    ) -> Iterator[Written]:
        """A line for each wish, in order: of as many candidates, the one that is most probable.

        AT_ONCE at a time, so that any number of them takes as much memory as so many.
        """
        if candidates < 1:
            raise UserError(f"there must be at least 1 candidate, not {candidates}")
        for wish in {id(wish): wish for wish in wishes}.values():
            self.draft(wish, np.random.default_rng(0), 0.0)  # what cannot be is said before all
        for first in range(0, len(wishes), AT_ONCE):
            some = wishes[first : first + AT_ONCE]
            yield from self._write(some, first, candidates, never, seed, **sampling)

    def _write(
        self,
        wishes: Sequence[Wish],
        first: int,
        candidates: int,
        never: Sequence[str],
        seed: int,
        **sampling: Unpack[Sampling],
    ) -> list[Written]:
        """Lines for the wishes that begin with number `first`."""
        avoid = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in never) or "$^", re.I)
        vocabulary = self.vocabulary(never)
        done: dict[int, Written] = {}
        for attempt in range(ATTEMPTS):
            drafts = {}
            for i, wish in enumerate(wishes, start=first):
                if i in done and done[i].fits:
                    continue
                rng = np.random.default_rng([seed, attempt, i])
                shares = (np.arange(candidates) + rng.random()) / candidates
                for c, share in enumerate(shares):
                    drafts[i * candidates + c] = self.draft(wish, rng, share)
            # Another attempt draws anew.
            seeds = {n: (seed + attempt * 10**6, n) for n in drafts}
            slots = [d.form.slot(d.widths, self.end, n, seeds[n]) for n, d in drafts.items()]
            found = self.run(slots, vocabulary, **sampling)
            for i in sorted({number // candidates for number in drafts}):
                numbers = range(i * candidates, (i + 1) * candidates)
                done[i] = self._best([(drafts[n], found[n]) for n in numbers], avoid)
            if all(line.fits for line in done.values()):
                break
        return [done[i] for i in sorted(done)]

    def _best(self, candidates: list[tuple[Draft, list[int]]], avoid: re.Pattern[str]) -> Written:
        lines = []
        for draft, ids in candidates:
            fills = draft.form.fills(draft.widths, ids, self.tokenizer, stream=self.stream)
            text = draft.form.text(fills) if draft.as_typed else self.decode(ids)
            fits = not any(map(avoid.search, fills if draft.as_typed else [text]))
            lines.append(Written(text, fills, draft.widths, None, fits))
        if len(lines) == 1:
            return lines[0]
        nats = self.nats([ids for _, ids in candidates])
        lines = [line._replace(nats=n) for line, n in zip(lines, nats, strict=True)]
        return min(lines, key=lambda line: (not line.fits, line.nats))

    def nats(self, texts: Sequence[list[int]]) -> list[float]:
        """-log p of each text, ids with EOS, and of its length, in nats (see scoring.py).

        Given text is paid for too: candidates of several lengths are compared by what they make of
        it (docs/log.md).
        """
        pays_length = None if self.stream or self.model.writes_length else self.length_weights
        end = len(self.end)
        slots = [Slot.of(ids[: len(ids) - end], ids[len(ids) - end :]) for ids in texts]
        return nats_of(self.model, slots, pays_length)

    def draft(self, wish: Wish, rng: np.random.Generator, share: float) -> Draft:
        """Widths for the gaps: the whole is as long as training texts are.

        share in [0, 1) chooses among the lengths there can be, from the shortest to the longest.
        Raises UserError when none can be.
        """
        template = wish.template
        if wish.must:
            words = tuple(f" {wish.must[i]} " for i in rng.permutation(len(wish.must)))
            template = Template(("", *words, ""), (Gap(0),) * (len(words) + 1))
        form = Form.of(template, self.tokenizer)
        least = sum(map(len, form.given)) + sum(gap.fewest for gap in template.gaps)
        room = self.longest - len(self.end) - least
        if room < 0:
            raise UserError(
                f"{''.join(template.texts)!r} with its gaps needs {least + len(self.end)} tokens; "
                f"the model was trained on texts of at most {self.longest}"
            )
        widths, most = map(np.array, form.widths(room))
        if self.model.writes_length:
            if len(widths) > 1 or template.texts[-1] or (most < room).any():
                raise UserError(LEFT_TO_RIGHT)
            return Draft(form, most.tolist(), True)
        low = max(least, wish.length.fewest)
        high = least + min(room, int((most - widths).sum()))
        if wish.length.most is not None:
            high = min(high, wish.length.most)
        if low > high:
            asked = "-".join(str(n) for n in dict.fromkeys(wish.length) if n is not None)
            raise UserError(
                f"the length must be between {least} and {least + room} tokens, not {asked}"
            )
        first = low + len(self.end)
        weights = np.array(self.length_weights[first : first + high - low + 1]) + 1e-6
        total = low + int(np.searchsorted(weights.cumsum() / weights.sum(), share, side="right"))
        for _ in range(min(total, high) - least):
            widths[rng.choice(np.flatnonzero(widths < most))] += 1
        return Draft(form, widths.tolist(), not wish.must)

    def run(
        self,
        slots: Sequence[Slot],
        vocabulary: Vocabulary,
        *,
        steps: int = STEPS,
        sampler: str = SAMPLER,
        temperature: float = TEMPERATURE,
        batch_size: int = 64,
        guidance: Guidance = NONE,
        watch: Watch | None = None,
        strength: float | None = None,
    ) -> dict[int, list[int]]:
        """The ids of each slot by its number, to its end. Each process writes a part of them."""
        if sampler not in SAMPLERS:
            raise UserError(f"no sampler {sampler!r}: the samplers are {', '.join(SAMPLERS)}")
        if steps < 1:
            raise UserError(f"sampling takes at least 1 step, not {steps}")
        if temperature <= 0:
            raise UserError(f"the temperature must be above 0, not {temperature}")
        if guidance != NONE and not self.model.is_guided:
            raise UserError("only continuous diffusion can be guided")
        settings = Settings(SAMPLERS[sampler], steps, temperature, guidance, strength)
        own = slots[rank() :: world()]
        done = self.generate(own, settings, vocabulary, batch_size, watch)
        return gathered({number: self._to_its_end(ids.tolist()) for number, ids in done})

    def _to_its_end(self, ids: list[int]) -> list[int]:
        """The ids up to where a model that writes its own length ended."""
        ended = self.model.writes_length and self.eos and self.eos[0] in ids
        return ids[: ids.index(self.eos[0]) + 1] if ended else ids

    def decode(self, ids: Ids) -> str:
        """The text of ids: one line, or running text in stream mode."""
        decode = self.tokenizer.decode_stream if self.stream else self.tokenizer.decode
        return decode(ids)
