"""Templates: text with gaps, as people type them.

___      a gap of any length
[[5]]    a gap of exactly five tokens; [[2-6]] one of two to six
\\___ \\[[  these characters themselves
"""

import re
from typing import NamedTuple

from ..errors import UserError

MARKS = re.compile(r"\\(?P<literal>___|\[\[)|(?P<any>_{3,})|\[\[(?P<length>[^\]]*\]\])?")
LENGTH = re.compile(r"(\d+)(?:-(\d+))?\]\]")


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


def _read_gap(template: str, mark: re.Match[str]) -> Gap:
    length = LENGTH.fullmatch(mark["length"] or "")
    if length is not None:
        fewest, most = int(length[1]), int(length[2] or length[1])
        if 1 <= fewest <= most:
            return Gap(fewest, most)
    raise UserError(
        f"template {template!r}, character {mark.start() + 1}: {mark[0]} is no length; write [[5]] "
        "or [[2-6]], or \\[[ for the characters"
    )
