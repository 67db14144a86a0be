"""Templates: text with gaps, as people type them, and as tokens.

___      a gap of any length
[[5]]    a gap of exactly five tokens; [[2-6]] one of two to six
\\___ \\[[  these characters themselves
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from unicodedata import category

import torch
from jaxtyping import Int
from torch import Tensor

from ..corpus.tokenizer import Tokenizer
from ..errors import UserError
from .requests import ANYTHING, BEGINS_WORD, CONTINUES_WORD, Row

MARKS = re.compile(r"\\(?P<literal>___|\[\[)|(?P<any>_{3,})|\[\[(?P<length>[^\]]*\]\])?")
LENGTH = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
LONGEST_GAP = 8  # tokens, of a gap that was left open between two given texts
# Scripts without spaces: Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese, and their punctuation.
UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef𠀀-\U0003ffff]")


class Gap(NamedTuple):
    """What is to be filled: at least `fewest` tokens, and at most `most`; None: any number."""

    fewest: int = 1
    most: int | None = None


class Template(NamedTuple):
    """The given texts, one more than there are gaps: before, between and after them."""

    texts: tuple[str, ...]
    gaps: tuple[Gap, ...]


def parse(template: str) -> Template:
    """Reads a template. Raises UserError for a length that is none, naming the character."""
    texts, gaps, place = [""], [], 0
    for mark in MARKS.finditer(template):
        texts[-1] += template[place : mark.start()]
        place = mark.end()
        if mark["literal"]:
            texts[-1] += mark["literal"]
            continue
        try:
            gaps.append(Gap() if mark["any"] else parse_length((mark["length"] or "").removesuffix("]]")))
        except UserError:
            where = f"template {template!r}, character {mark.start() + 1}: {mark[0]}"
            advice = "write [[5]] or [[2-6]], or \\[[ for the characters"
            raise UserError(f"{where} is no length; {advice}") from None
        texts.append("")
    texts[-1] += template[place:]
    return Template(tuple(texts), tuple(gaps))


def parse_length(text: str) -> Gap:
    """Reads 5 or 2-6. Raises UserError for anything else."""
    found = LENGTH.fullmatch(text)
    if found and 1 <= int(found[1]) <= int(found[2] or found[1]):
        return Gap(int(found[1]), int(found[2] or found[1]))
    raise UserError(f"{text!r} is no length: write 5 or 2-6")


class EncodedTemplate(NamedTuple):
    """A template as tokens.

    The gap after a text that ends with a space begins a word; after any other text it continues the
    word that stands there, unless its script has no spaces or it ends a line.
    """

    template: Template
    given: list[list[int]]  # the ids of each given text
    firsts: list[int]  # the rule (requests.py) of each gap's first token

    @classmethod
    def of(cls, template: Template, tokenizer: Tokenizer, stream: bool = False) -> "EncodedTemplate":
        """Raises UserError for text that is not valid Unicode."""
        texts, firsts = list(template.texts), list[int]()
        for n, (gap, before) in enumerate(zip(template.gaps, template.texts, strict=False)):
            is_word = before and before[-1] != "\n" and not UNSPACED.match(before[-1])
            firsts.append(CONTINUES_WORD if is_word else ANYTHING)
            # Where pieces begin with their space, that before a gap is the gap's own. A gap may be empty.
            if before.endswith(" ") and not (tokenizer.has_spaces_alone and gap.fewest):
                texts[n], firsts[n] = before[:-1], BEGINS_WORD
        after = [tokenizer.encode_after(text, stream) for text in texts[1:]]
        return cls(template, [tokenizer.encode(texts[0], stream), *after], firsts)

    def widths(self, room: int) -> tuple[list[int], list[int]]:
        """The fewest and the most tokens of each gap, where `room` are left past the fewest.
        A gap left open may take all of it at an end of the line, and LONGEST_GAP elsewhere."""
        texts, gaps = self.template
        most = []
        for number, gap in enumerate(gaps):
            at_start = number == 0 and not texts[0].strip()
            at_end = number == len(gaps) - 1 and not texts[-1].strip()
            open_most = gap.fewest + room if at_start or at_end else LONGEST_GAP
            most.append(min(gap.most or open_most, gap.fewest + room))
        return [gap.fewest for gap in gaps], most

    def row(self, widths: Sequence[int], end: list[int], number: int, key: Int[Tensor, ""]) -> Row:
        """The line with gaps of these widths. end: the ids after its text, EOS or none."""
        ids, given = list(self.given[0]), [True] * len(self.given[0])
        rule = [ANYTHING] * len(ids)
        for width, first, part in zip(widths, self.firsts, self.given[1:], strict=True):
            ids += [0] * width + part
            given += [False] * width + [True] * len(part)
            rule += [first, *[ANYTHING] * (width - 1)][:width] + [ANYTHING] * len(part)
        line = torch.tensor(ids + end), torch.tensor(given + [True] * len(end))
        return Row(*line, torch.tensor(rule + [ANYTHING] * len(end)), key, number)

    def fills(self, widths: Sequence[int], ids: list[int], tokenizer: Tokenizer, stream: bool) -> list[str]:
        """The texts of the gaps, out of the ids of the whole line."""
        fills, place = [], 0
        for n, (width, before) in enumerate(zip(widths, self.template.texts, strict=False)):
            place += len(self.given[n])
            fill = tokenizer.decode_after(ids[place : place + width], stream=stream)
            has_space = before.endswith((" ", "\n")) if before else n == 0  # or needs none
            fills.append(fill.removeprefix(" ") if has_space else fill)
            place += width
        return fills

    def text(self, fills: Sequence[str]) -> str:
        """The line as it was typed, with its gaps filled."""
        first, *rest = self.template.texts
        return first + "".join(fill + text for fill, text in zip(fills, rest, strict=True))


def spaced(word: str) -> str:
    """The word with the spaces that set it off from others, where its script has them."""
    before, after = ("" if UNSPACED.match(letter) else " " for letter in (word[:1], word[-1:]))
    return before + word + after


def has_word(text: str, words: Iterable[str]) -> bool:
    """Whether one of these words stands in a text, in upper or lower case and not within a longer one."""

    def is_within(place: int) -> bool:  # letters, digits or marks of a script with spaces are on both sides
        around = f" {text} "[place : place + 2]
        return all(category(c)[0] in "LNM" and not UNSPACED.match(c) for c in around)

    found = (match for word in words for match in re.finditer(re.escape(word), text, re.IGNORECASE))
    return any(not is_within(match.start()) and not is_within(match.end()) for match in found)
