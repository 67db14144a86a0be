import re

import pytest
from hypothesis import given, strategies as st

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.writing.templates import Gap, Template, has_word, parse, spaced


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


@pytest.mark.parametrize(
    ("text", "word", "stands"),
    [
        ("a dog runs", "dog", True),
        ("a Dog.", "dog", True),
        ("a hotdog", "dog", False),
        ("two dogs", "dog", False),
        ("a dog-house", "dog", True),
        ("the end.", ".", True),
        ("黑猫在睡觉", "猫", True),
        ("黑狗在睡觉", "猫", False),
        ("用Python写代码", "Python", True),
        ("ネコがいる", "ネコ", True),
        ("น้ำใจดี", "ใจ", True),
        ("कीमत", "की", False),  # a vowel sign is a part of a word
        ("उस की किताब", "की", True),
        ("كتاب جديد", "كتاب", True),
        ("كتابي جديد", "كتاب", False),
        ("café", "cafe", False),
        ("dogs and a dog", "dog", True),
        ("", "dog", False),
    ],
)
def test_a_word_is_found_where_it_is_none_of_a_longer_one(text, word, stands):
    assert has_word(text, [word]) == has_word(text, ["absent", word]) == stands
    assert not has_word(text, [])


def test_words_are_set_off_by_spaces_where_their_script_has_them():
    words = {"dog": " dog ", "猫": "猫", "ネコ": "ネコ", "น้ำ": "น้ำ", "한국": " 한국 ", "T恤": " T恤"}
    assert {word: spaced(word) for word in words} == words
