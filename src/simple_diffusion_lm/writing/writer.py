"""Writes lines: chooses their lengths, samples candidates, and keeps the best that will do."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Integer

from ..core.bound import length_cost
from ..core.generate import ORDERS, Sampling, TextModel
from ..core.noise import make_keys
from ..core.sampler import SAMPLERS
from ..corpus.tokenizer import Tokenizer
from ..devices.processes import gathered, rank, world
from ..errors import UserError, check_count
from ..runs.config import usual_sampling
from .guidance import Score, diffusion_of
from .requests import Forbidden, Row, Watch, batch_of, batches_of, write_rows
from .templates import EncodedTemplate, Gap, Template, has_word, parse, spaced

AT_ONCE = 1024  # lines whose candidates are in memory together
ATTEMPTS = 4  # rounds of candidates for a line that none of them will do for
DRAWS = 32  # of the bound of a candidate
ITS_WAY = "an autoregressive model writes from left to right and ends its lines itself"
LEFT_TO_RIGHT = f"{ITS_WAY}: give it nothing, or a prompt (text and then ___)"
Run = Callable[[list[Row]], dict[int, list[int]]]  # the ids of each row by its number


class Options(TypedDict, total=False):
    """What requests.write_rows may be told besides a Sampling."""

    batch_size: int
    top_p: float
    guidance: Score | None
    watch: Watch | None


class Request(NamedTuple):
    """A line that somebody wants."""

    template: Template
    length: Gap = Gap()  # of the whole, in tokens
    must: tuple[str, ...] = ()  # words to stand in it; the template is then one gap

    @classmethod
    def of(cls, template: str) -> "Request":
        """A template as people type it; an empty one is all gap."""
        return cls(parse(template or "___"))


class Written(NamedTuple):
    """A line that was written."""

    text: str
    fills: list[str]  # what stands in each gap
    widths: list[int]  # the tokens of each gap
    nats: float | None  # -log p of the whole line, at most; None: there was nothing to choose from
    fits: bool  # no word of `never` stands in it


class Writer:
    """A model, its tokenizer, and how long its texts are.

    Attributes:
        model, tokenizer: the parts.
        length_weights: how many training examples had each length (index: tokens, EOS included).
        stream: trained on running text, where EOS ends a line and not the example.
        write_rows: requests.write_rows of this model, or what does as it does.
    """

    def __init__(
        self, model: TextModel, tokenizer: Tokenizer, length_weights: Sequence[int], *, stream: bool
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.length_weights = list(length_weights)
        self.stream = stream
        self.write_rows: Callable[..., Iterable[tuple[int, list[int]]]] = partial(write_rows, model)
        self.pieces = tokenizer.texts
        self.end = [] if stream else [tokenizer.eos_id]  # of every text, at the latest

    def heed(self) -> None:
        """Is called with each pass of `nats` and `blend`. It may raise: a server's client has left."""

    @property
    def longest(self) -> int:
        """The most tokens the model has seen in one text, EOS included."""
        return len(self.length_weights) - 1

    def sampling(self, given: Mapping[str, Any]) -> Sampling:
        """How it writes: as it is given, else as usual."""
        return replace(usual_sampling(self.model.config, given.get("steps")), **given)

    def decode(self, ids: Iterable[int] | Integer[np.ndarray, " L"]) -> str:
        """The text of ids: one line, or running text in stream mode."""
        return self.tokenizer.decode(map(int, ids), self.stream)

    def forbidden(self, never: Sequence[str] = ()) -> Forbidden:
        """The tokens that each rule of requests.py forbids. A word that is one piece is never written."""
        banned = torch.zeros(len(self.pieces), dtype=torch.bool)
        banned[self.tokenizer.special_ids] = True
        # A rune, which is a letter, stands before each: only pieces that begin with a space begin a word.
        banned |= torch.tensor([has_word(f"ᚠ{piece}", never) for piece in self.pieces])
        banned[self.tokenizer.eos_id] = not self.stream  # a line break like any other token
        continues = torch.tensor([not piece.startswith(" ") for piece in self.pieces])
        rules = torch.stack([banned, banned | continues, banned | ~continues])
        rules[rules.all(1)] = banned  # a vocabulary without spaces begins no word
        if self.model.writes_length:
            rules[:, self.end] = False  # the line may end anywhere
        return rules

    def write(
        self,
        requests: Sequence[Request],
        candidates: int,
        never: Sequence[str],
        seed: int,
        sampling: Sampling,
        **options: Unpack[Options],
    ) -> Iterator[Written]:
        """A line for each request, in order: of so many candidates, the one that is most probable."""
        check_count("the number of candidates", candidates)
        for request in dict.fromkeys(requests):
            self.choose_lengths(request, np.random.default_rng(0), 0.0)  # errors come before all work
        avoid = tuple(filter(None, never))
        run = partial(self.run, forbidden=self.forbidden(avoid), sampling=sampling, **options)
        for first in range(0, len(requests), AT_ONCE):
            left = dict(enumerate(requests[first : first + AT_ONCE], start=first))
            done: dict[int, Written] = {}
            for attempt in range(ATTEMPTS):
                done |= self._attempt(left, candidates, (seed, attempt), avoid, run)
                left = {i: request for i, request in left.items() if not done[i].fits}
                if not left:
                    break
            yield from done.values()

    def _attempt(
        self, left: dict[int, Request], candidates: int, seed: Sequence[int], avoid: Sequence[str], run: Run
    ) -> dict[int, Written]:
        """A line for each request, the best of its candidates."""
        chosen: dict[int, tuple[EncodedTemplate, list[int]]] = {}
        for i, request in left.items():
            rng = np.random.default_rng([*seed, i])
            shares = (np.arange(candidates) + rng.random()) / candidates
            for n, share in enumerate(shares, start=i * candidates):
                chosen[n] = self.choose_lengths(request, rng, share)
        texts = run([e.row(widths, self.end, n, make_keys(*seed, n)) for n, (e, widths) in chosen.items()])
        nats = dict(zip(chosen, self.nats([texts[n] for n in chosen]), strict=True)) if candidates > 1 else {}
        done: dict[int, Written] = {}
        for n, (encoded, widths) in chosen.items():
            i = n // candidates
            fills = encoded.fills(widths, texts[n], self.tokenizer, self.stream)
            text = self.decode(texts[n]) if left[i].must else encoded.text(fills)
            fits = not any(has_word(each, avoid) for each in ([text] if left[i].must else fills))
            line = Written(text, fills, widths, nats.get(n), fits)
            done[i] = min(done.get(i, line), line, key=lambda each: (not each.fits, each.nats or 0.0))
        return done

    @torch.no_grad()
    def nats(self, texts: Sequence[list[int]]) -> list[float]:
        """-log p of each text, ids with EOS, and of its length, in nats: exact, or the bound.

        The bound is drawn with the same noise for all texts, so that their differences have little error.
        Given text is paid for too: candidates are compared by what they make of it (docs/log.md).
        """
        model, device = self.model.eval(), self.model.embedding.weight.device
        ends_given, draws = (0, 1) if model.writes_length else (len(self.end), DRAWS)
        window = self.longest  # past which each part of running text is paid for by itself
        parts = [(n, ids[i : i + window]) for n, ids in enumerate(texts) for i in range(0, len(ids), window)]
        rows = [Row.of(ids[: len(ids) - ends_given], ids[len(ids) - ends_given :], n) for n, ids in parts]
        found = dict.fromkeys(range(len(texts)), 0.0)
        for some in batches_of(rows, batch_size=64):
            batch = batch_of(some, device)
            nats = torch.zeros(len(some), dtype=torch.float64)
            if ends_given:  # else there is no length to pay for (running text), or EOS pays for it
                nats += length_cost(batch.length_mask.sum(1), self.length_weights)
            for i in range(draws):
                self.heed()
                u, keys = (i + 0.5) / draws + batch.place, make_keys(i).expand(len(some)).to(device)
                nats += model.bound(batch, u, keys).total.cpu() / draws
            for row, cost in zip(some, nats.tolist(), strict=True):
                found[row.number] += cost
        return [found[n] for n in range(len(texts))]

    def choose_lengths(
        self, request: Request, rng: np.random.Generator, share: float
    ) -> tuple[EncodedTemplate, list[int]]:
        """The template, and widths for its gaps: the whole is as long as training texts are.

        share in [0, 1) chooses among the lengths there can be, from the shortest to the longest.
        Raises UserError when none can be.
        """
        template = request.template
        if request.must:
            words = tuple(spaced(request.must[i]) for i in rng.permutation(len(request.must)))
            template = Template(("", *words, ""), (Gap(0),) * (len(words) + 1))
        encoded, end = EncodedTemplate.of(template, self.tokenizer, self.stream), len(self.end)
        least = sum(map(len, encoded.given)) + sum(gap.fewest for gap in template.gaps)
        longest = self.longest
        if self.stream and not self.model.writes_length:  # window by window (_in_windows)
            longest = max(longest, request.length.most or 0, least + longest // 2)
        room = longest - end - least
        if room < 0:
            limit = f"the model was trained on texts of at most {self.longest}"
            raise UserError(f"{''.join(template.texts)!r} with its gaps needs {least + end} tokens; {limit}")
        widths, most = map(np.array, encoded.widths(room))
        if self.model.writes_length:
            if len(widths) > 1 or template.texts[-1] or (most < room).any():
                raise UserError(LEFT_TO_RIGHT)
            return encoded, most.tolist()
        low = max(least, request.length.fewest)
        high = least + min(room, int((most - widths).sum()))
        if request.length.most is not None:
            high = min(high, request.length.most)
        if low > high:
            asked = "-".join(str(n) for n in dict.fromkeys(request.length) if n is not None)
            raise UserError(f"the length must be between {least} and {least + room} tokens, not {asked}")
        known = dict(enumerate(self.length_weights))
        weights = np.array([known.get(n, 0) for n in range(low + end, high + end + 1)]) + 1e-6
        total = low + int(np.searchsorted(weights.cumsum() / weights.sum(), share, side="right"))
        for _ in range(min(total, high) - least):
            widths[rng.choice(np.flatnonzero(widths < most))] += 1
        return encoded, widths.tolist()

    def run(
        self, rows: Sequence[Row], forbidden: Forbidden, sampling: Sampling, **options: Any
    ) -> dict[int, list[int]]:
        """The ids of each row by its number, to its end. Each process writes a part of them."""
        return gathered(self.run_here(rows[rank() :: world()], forbidden, sampling, **options))

    def run_here(
        self, rows: Sequence[Row], forbidden: Forbidden, sampling: Sampling, **options: Any
    ) -> dict[int, list[int]]:
        """The same, all of it in this process."""
        check(sampling)
        if not 0 < (top_p := options.get("top_p", 1.0)) <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {top_p}")
        check_count("the batch size", options.get("batch_size", 64))
        if options.get("guidance"):
            diffusion_of(self.model, "can be guided")
        write = partial(self.write_rows, forbidden=forbidden, sampling=sampling, **options)
        texts = self._in_windows(rows, write)
        if self.end:  # a model may have ended its text before the last position
            texts = {number: ids[: ids.index(self.end[0]) + 1] for number, ids in texts.items()}
        return texts

    def _in_windows(
        self, rows: Sequence[Row], write: Callable[..., Iterable[tuple[int, list[int]]]]
    ) -> dict[int, list[int]]:
        """The ids of rows of any length. What is longer than the window is written in windows that overlap by
        half: the first half of each is final, the second is given to the next."""
        window, half = self.longest, self.longest // 2
        texts: dict[int, list[int]] = {row.number: [] for row in rows}
        while rows:
            parts, longer = [row.part(0, window) for row in rows], [r for r in rows if len(r.ids) > window]
            # A window of longer text in which all is given costs no pass.
            given = {part.number: part.ids.tolist() for part in parts if longer and part.cond_mask.all()}
            left = [part for part in parts if part.number not in given]
            written = given | (dict(write(left)) if left else {})
            for row in rows:
                texts[row.number] += written[row.number][: half if len(row.ids) > window else None]
            rows = [row.after(written[row.number], half) for row in longer]
        return texts


def check(sampling: Sampling) -> None:
    """Raises UserError for numbers that nothing can be sampled with."""
    if sampling.sampler not in SAMPLERS:
        raise UserError(f"no sampler {sampling.sampler!r}: the samplers are {', '.join(SAMPLERS)}")
    if sampling.order not in ORDERS:
        raise UserError(f"no order {sampling.order!r}: the orders are {', '.join(ORDERS)}")
    check_count("the number of steps", sampling.steps)
    if not sampling.temperature > 0:  # nor if it is not a number
        raise UserError(f"the temperature must be above 0, not {sampling.temperature}")
