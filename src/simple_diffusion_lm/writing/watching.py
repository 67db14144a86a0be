"""Texts while they are written: what can be seen of each token, and a terminal to see it on."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import NamedTuple, TypeVar

from ..core.denoiser import Batch
from ..core.generate import Frame
from .writer import Writer

Item = TypeVar("Item")
SECONDS = 0.05  # that a step is shown, at least
COLOURS = {25: 131, 50: 173, 75: 179, 99: 108}  # below so many percent; above them the terminal's own
GIVEN, PLAIN = "\x1b[1m", "\x1b[0m"
WRAP_OFF, WRAP_ON, CLEAR_LINE, CLEAR_BELOW = "\x1b[?7l", "\x1b[?7h", "\x1b[K", "\x1b[J"
UNKNOWN, LINE_BREAK = "·", "⏎"
ROW = "|"  # stands between the rows of a Sudoku, as tasks/sudoku.py writes it
DRAWN = 12  # steps, of which a notebook shows the text
RIVALS = 4  # of the most probable tokens are shown for each position


class Shown(NamedTuple):
    """A token at one step."""

    text: str  # a space before what begins a word
    given: bool
    written: bool  # it stays from now on; else it is the best guess
    likely: list[tuple[str, float]]  # what is, or last was, most probable here; none where given.
    # A token that was drawn although others were likelier comes last.

    @property
    def probability(self) -> float:
        """Of the token that stands here."""
        return 1.0 if self.given else dict(self.likely).get(self.text, 0.0)


class Onlooker:
    """Turns frames into tokens to look at, and remembers what was last predicted for each position."""

    def __init__(self, writer: Writer) -> None:
        self.end, self.tokenizer, self.texts = writer.end, writer.tokenizer, [*writer.pieces]
        self.texts[self.tokenizer.eos_id] = LINE_BREAK
        self.likely: dict[tuple[int, int], list[tuple[int, float]]] = {}

    def __call__(self, batch: Batch, frame: Frame) -> dict[int, list[Shown]]:
        """The tokens of each text by its number (Batch.number), without the EOS that ends it."""
        probability = frame.logits.softmax(-1)
        best = probability.topk(min(RIVALS, probability.shape[-1]))
        places = frame.where.nonzero()
        standing, written = frame.ids[frame.where], ~frame.free[frame.where]
        share = probability.gather(-1, standing[:, None]).squeeze(-1)
        numbers = batch.number.tolist()
        columns = (places, best.indices, best.values, standing, share, written)
        predicted = zip(*(column.tolist() for column in columns), strict=True)
        for (row, i), ids, shares, own, own_share, stands in predicted:
            if stands and own not in ids:  # drawn, though others were likelier
                ids, shares = [*ids, own], [*shares, own_share]
            self.likely[numbers[row], i] = list(zip(ids, shares, strict=True))
        lines = (batch.number, frame.ids, frame.free, batch.cond_mask, batch.length_mask)
        rows = zip(*(column.tolist() for column in lines), strict=True)
        return {number: self._line(number, *row) for number, *row in rows}

    def _line(
        self, number: int, ids: list[int], free: list[bool], given: list[bool], there: list[bool]
    ) -> list[Shown]:
        line, end = [], self.tokenizer.eos_id
        length = next((i for i in range(sum(there)) if not free[i] and ids[i] in self.end), sum(there))
        likely = [[] if given[i] else self.likely.get((number, i), []) for i in range(length)]
        shown = [ids[i] if not free[i] else seen[0][0] if seen else None for i, seen in enumerate(likely)]
        spelled = self.tokenizer.spell(end if n is None else n for n in shown)
        for i, (own, text) in enumerate(zip(shown, spelled, strict=True)):
            text = UNKNOWN if own is None else LINE_BREAK if own == end else text
            rivals = [(text if n == own else self.texts[n], p) for n, p in likely[i]]
            line.append(Shown(text, given[i], not free[i], rivals))
        while line and line[-1].text == UNKNOWN:  # where a text ends is not known either
            line.pop()
        return line


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly from the first to the last."""
    count = min(most, len(items))
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]


class Unfolding:
    """How a text came out of the noise. Iterating gives the text after each step, the last one as it is;
    a notebook draws it, each token the stronger the more probable, given ones bold.

    steps: the tokens after each step.
    """

    def __init__(self, steps: Sequence[Sequence[Shown]]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[str]:
        return ("".join(token.text for token in line).strip() for line in self.steps)

    def _repr_html_(self) -> str:
        return f"<table>{''.join(map(self._row, evenly(range(len(self.steps)), DRAWN)))}</table>"

    def _row(self, step: int) -> str:
        spans = [
            f'<span style="opacity:{0.2 + 0.8 * token.probability:.2f};'
            f'font-weight:{"bold" if token.given else "normal"}">{escape(token.text)}</span>'
            for token in self.steps[step]
        ]
        return f'<tr><td>{step + 1}</td><td style="text-align:left">{"".join(spans)}</td></tr>'


class Terminal(AbstractContextManager["Terminal"]):
    """Draws texts in one place, step after step, each token in the colour of its probability."""

    def __init__(self, onlooker: Onlooker) -> None:
        self.onlooker, self.file = onlooker, sys.stderr
        self.lines: dict[int, list[Shown]] = {}
        self.height, self.last = 0, 0.0  # lines that are drawn, and when

    def __exit__(self, *_: object) -> None:
        print(self._back() + CLEAR_BELOW + WRAP_ON, end="", file=self.file, flush=True)

    def __call__(self, batch: Batch, frame: Frame) -> None:
        """What `watch` is called with (see requests.py)."""
        self.lines.update(self.onlooker(batch, frame))
        room = max(os.get_terminal_size(self.file.fileno()).lines - 1, 1)
        shown = [row for number in sorted(self.lines) for row in rows_of(self.lines[number])][-room:]
        drawn = "".join(f"{coloured(line)}{CLEAR_LINE}\n" for line in shown)
        print(f"{WRAP_OFF}{self._back()}{drawn}{WRAP_ON}", end="", file=self.file, flush=True)
        self.height = len(shown)
        time.sleep(max(0.0, self.last + SECONDS - time.monotonic()))
        self.last = time.monotonic()

    def _back(self) -> str:
        return f"\x1b[{self.height}F" if self.height else "\r"


def rows_of(line: list[Shown]) -> list[list[Shown]]:
    """A line of text as it is; of a Sudoku (tasks/sudoku.py) its rows, and an empty one."""
    rows: list[list[Shown]] = []
    for token in line:
        if token.text.strip() == ROW:
            rows.append([])
        elif rows:
            rows[-1].append(token._replace(text=f" {token.text}"))
    size = len(rows) - 1  # the last is empty
    is_grid = size > 1 and all(len(row) == size for row in rows[:-1]) and not rows[-1]
    return rows if is_grid else [line]


def coloured(line: Sequence[Shown]) -> str:
    """A line for a terminal: given text is bold, the rest the duller the less probable."""
    parts = []
    for number, token in enumerate(line):
        share = 100 * token.probability
        colour = next((c for below, c in COLOURS.items() if share < below), None)
        style = GIVEN if token.given else "" if colour is None else f"\x1b[38;5;{colour}m"
        text = token.text if number else token.text.lstrip(" ")
        text = "".join(c if c.isprintable() else "�" for c in text)  # else a cursor might move
        parts.append(f"{style}{text}{PLAIN if style else ''}")
    return "".join(parts)
