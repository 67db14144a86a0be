import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.writing.templates import Gap, Template, parse


def escape(text: str) -> str:
    """The template that stands for just this text."""
    return re.sub(r"___|\[\[", lambda mark: "\\" + mark[0], text)


tricky = st.text(st.sampled_from("ab _[]\\5-"), max_size=30)


@pytest.mark.parametrize(
    ("template", "texts", "gaps"),
    [
        ("a man in a ___ shirt .", ("a man in a ", " shirt ."), (Gap(),)),
        ("___", ("", ""), (Gap(),)),
        ("", ("",), ()),
        ("_______", ("", ""), (Gap(),)),
        ("[[5]] dogs [[2-6]]", ("", " dogs ", ""), (Gap(5, 5), Gap(2, 6))),
        (r"\___ and \[[5]] and __", ("___ and [[5]] and __",), ()),
        (r"un___ly \ \\___", ("un", "ly \\ \\___"), (Gap(),)),
    ],
)
def test_what_is_typed_is_what_is_meant(template, texts, gaps):
    assert parse(template) == Template(texts, gaps)


@pytest.mark.parametrize(
    ("template", "character"),
    [("a [[x]] b", 3), ("[[0]]", 1), ("ab [[6-2]]", 4), ("[[5", 1), ("[[]]", 1), ("[[-3]]", 1)],
)
def test_a_bad_length_is_pointed_at(template, character):
    with pytest.raises(UserError, match=rf"character {character}: "):
        parse(template)


@given(tricky)
def test_escaped_text_is_that_text(text):
    assert parse(escape(text)) == Template((text,), ())


@given(tricky)
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        template = parse(text)
    except UserError as refusal:
        message = str(refusal)
        assert "\n" not in message
    else:
        assert len(template.texts) == len(template.gaps) + 1


@given(st.lists(st.tuples(tricky, st.integers(1, 9), st.integers(0, 9)), max_size=4), tricky)
def test_gaps_between_texts_come_back(pieces, last):
    """However the texts look, if a gap cannot run into them."""
    written = "".join(f"{escape(t)} [[{low}-{low + more}]] " for t, low, more in pieces)
    texts, gaps = [""], []
    for text, low, more in pieces:
        texts[-1] += f"{text} "
        texts.append(" ")
        gaps.append(Gap(low, low + more))
    texts[-1] += last
    assert parse(written + escape(last)) == Template(tuple(texts), tuple(gaps))
