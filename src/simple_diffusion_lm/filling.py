"""Templates as tokens: what of a line is given, where its gaps are, and its text afterwards."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .model.slots import Slot
from .text.templates import Gap, Template, parse
from .text.tokenizer import Tokenizer

LONGEST_GAP = 8  # tokens, of a gap that was left open between two given texts


class Form(NamedTuple):
    """A template as tokens.

    The gap after a text that ends with a space begins a word; after any other text it goes on with
    the word that stands there.
    """

    template: Template
    given: list[list[int]]  # the ids of each given text

    @classmethod
    def of(cls, template: Template, tokenizer: Tokenizer) -> "Form":
        """Raises UserError for text that is not valid Unicode."""
        # The space before a gap is the gap's own: pieces begin with their space.
        texts = [text.removesuffix(" ") for text in template.texts[:-1]] + [template.texts[-1]]
        given = [tokenizer.encode(texts[0]), *map(tokenizer.encode_after, texts[1:])]
        return cls(template, given)

    def widths(self, room: int) -> tuple[list[int], list[int]]:
        """The fewest and the most tokens of each gap, where `room` are left past the fewest.

        A gap left open may take all of it at an end of the line, and LONGEST_GAP elsewhere.
        """
        fewest = [gap.fewest for gap in self.template.gaps]
        most = []
        for number, gap in enumerate(self.template.gaps):
            at_start = number == 0 and not self.template.texts[0].strip()
            at_end = number == len(fewest) - 1 and not self.template.texts[-1].strip()
            open_most = gap.fewest + room if at_start or at_end else LONGEST_GAP
            most.append(min(gap.most or open_most, gap.fewest + room))
        return fewest, most

    def slot(
        self, widths: Sequence[int], end: list[int], number: int, seed: tuple[int, ...]
    ) -> Slot:
        """The line with gaps of these widths. end: the ids after its text, EOS or none."""
        ids, given = list(self.given[0]), [True] * len(self.given[0])
        begins: list[int] = []
        goes_on: list[int] = []
        for width, before, part in zip(widths, self.template.texts, self.given[1:], strict=False):
            if width and before:
                (begins if before.endswith(" ") else goes_on).append(len(ids))
            ids += [0] * width + part
            given += [False] * width + [True] * len(part)
        marks = torch.zeros(2, len(ids) + len(end), dtype=torch.bool)
        marks[0, begins], marks[1, goes_on] = True, True
        mask = torch.tensor(given + [True] * len(end), dtype=torch.bool)
        whole = torch.tensor(ids + end, dtype=torch.long)
        return Slot(whole, mask, marks[0], marks[1], number, seed)

    def fills(
        self, widths: Sequence[int], ids: list[int], tokenizer: Tokenizer, *, stream: bool
    ) -> list[str]:
        """The texts of the gaps, out of the ids of the whole line."""
        fills, place = [], 0
        for n, (width, before) in enumerate(zip(widths, self.template.texts, strict=False)):
            place += len(self.given[n])
            fill = tokenizer.decode_after(ids[place : place + width], stream=stream)
            has_space = before.endswith(" ") if before else n == 0  # or needs none
            fills.append(fill.removeprefix(" ") if has_space else fill)
            place += width
        return fills

    def text(self, fills: Sequence[str]) -> str:
        """The line as it was typed, with its gaps filled."""
        first, *rest = self.template.texts
        return first + "".join(fill + text for fill, text in zip(fills, rest, strict=True))


class Wish(NamedTuple):
    """A line to be written."""

    template: Template
    length: Gap = Gap()  # of the whole, in tokens
    must: tuple[str, ...] = ()  # words to stand in it; the template is then one gap

    @classmethod
    def of(cls, template: str) -> "Wish":
        """A template as people type it; an empty one is all gap."""
        return cls(parse(template or "___"))


class Draft(NamedTuple):
    """A template whose gaps have their widths."""

    form: Form
    widths: list[int]
    as_typed: bool
