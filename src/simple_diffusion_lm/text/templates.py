"""Templates: text with gaps, as people type them.

___      a gap of any length
[[5]]    a gap of exactly five tokens; [[2-6]] one of two to six
\\___ \\[[  these characters themselves
"""

import re
from typing import NamedTuple

from ..errors import UserError

MARKS = re.compile(r"\\(?P<literal>___|\[\[)|(?P<any>_{3,})|\[\[(?P<length>[^\]]*\]\])?")
LENGTH = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


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
        else:
            gaps.append(Gap() if mark["any"] else _read_gap(template, mark))
            texts.append("")
    texts[-1] += template[place:]
    return Template(tuple(texts), tuple(gaps))


def parse_length(text: str) -> Gap:
    """Reads 5 or 2-6. Raises UserError for anything else."""
    length = _length(text)
    if length is None:
        raise UserError(f"{text!r} is no length: write 5 or 2-6")
    return length


def _length(text: str) -> Gap | None:
    found = LENGTH.fullmatch(text)
    if found is not None:
        fewest, most = int(found[1]), int(found[2] or found[1])
        if 1 <= fewest <= most:
            return Gap(fewest, most)
    return None


def _read_gap(template: str, mark: re.Match[str]) -> Gap:
    length = _length((mark["length"] or "").removesuffix("]]"))
    if length is not None:
        return length
    raise UserError(
        f"template {template!r}, character {mark.start() + 1}: {mark[0]} is no length; write [[5]] "
        "or [[2-6]], or \\[[ for the characters"
    )
