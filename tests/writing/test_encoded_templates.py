"""Templates on their way through tokens: any text, any gaps."""

import re
from functools import cache

import pytest
import torch
from hypothesis import assume, given, strategies as st

from simple_diffusion_lm.core.noise import make_keys
from simple_diffusion_lm.corpus.tokenizer import train_tokenizer
from simple_diffusion_lm.writing.requests import ANYTHING, BEGINS_WORD, CONTINUES_WORD
from simple_diffusion_lm.writing.templates import LONGEST_GAP, EncodedTemplate, Gap, Template

texts = st.text(st.sampled_from("the goat sleps 0é\t▁.'😀"), max_size=12)
WIDTHS = st.integers(1, 4)
KEY = make_keys(0)


@cache
def stream_tokenizer(toy_text):
    return train_tokenizer(toy_text.read_text().splitlines(), 300, stream=True, seed=0)


@pytest.fixture(scope="module", params=["lines", "stream"])
def tokenizer(request, toy_data, toy_text):
    return toy_data.tokenizer if request.param == "lines" else stream_tokenizer(toy_text)


@given(parts=st.lists(texts, min_size=2, max_size=4), data=st.data())
def test_given_text_is_intact_and_gaps_are_what_was_written(tokenizer, parts, data):
    template = Template(tuple(parts), (Gap(),) * (len(parts) - 1))
    encoded = EncodedTemplate.of(template, tokenizer)
    widths = [data.draw(WIDTHS) for _ in template.gaps]
    row = encoded.row(widths, [tokenizer.eos_id], 5, KEY)
    assert int((~row.cond_mask).sum()) == sum(widths)
    assert len(row.ids) == len(row.cond_mask) == len(row.rule)
    assert row.cond_mask[-1]
    assert row.ids[-1] == tokenizer.eos_id
    assert (row.rule[row.cond_mask] == ANYTHING).all()

    free = (~row.cond_mask).nonzero().squeeze(1).tolist()
    words = tokenizer.encode("the goat sleeps")
    ids = row.ids.tolist()
    for number, place in enumerate(free):
        ids[place] = words[number % len(words)]
    fills = encoded.fills(widths, ids, tokenizer, stream=False)
    line = encoded.text(fills)
    for part in parts:
        assert part in line
    assert len(line) == sum(map(len, parts)) + sum(map(len, fills))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("the ", BEGINS_WORD),
        ("the", CONTINUES_WORD),
        ("", ANYTHING),
        ("'", CONTINUES_WORD),
        ("猫", ANYTHING),
        ("the\n", ANYTHING),
    ],
)
def test_a_space_before_a_gap_is_where_its_word_begins(toy_data, text, rule):
    row = EncodedTemplate.of(Template((text, " ."), (Gap(),)), toy_data.tokenizer).row([2], [], 0, KEY)
    assert row.rule[~row.cond_mask].tolist() == [rule, ANYTHING]


@given(parts=st.lists(st.text("the goat\n ", max_size=12), min_size=2, max_size=4), data=st.data())
def test_running_text_keeps_its_line_breaks(toy_text, parts, data):
    """Around gaps too; and what fills a gap at the beginning of a line has no space of its own."""
    assume(parts[0] != " " and not any(part.endswith("\n ") for part in parts))  # is seen as no space
    tokenizer = stream_tokenizer(toy_text)
    encoded = EncodedTemplate.of(Template(tuple(parts), (Gap(),) * (len(parts) - 1)), tokenizer, stream=True)
    words = [text for text in tokenizer.texts if re.fullmatch(" [a-z]+", text)]
    fill = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=2))
    widths = [len(fill)] * (len(parts) - 1)
    row = encoded.row(widths, [], 0, KEY)
    ids = row.ids.masked_scatter(~row.cond_mask, torch.tensor([tokenizer.texts.index(t) for t in fill] * 3))
    fills = encoded.fills(widths, ids.tolist(), tokenizer, stream=True)
    assert tokenizer.decode(ids, stream=True) == encoded.text(fills)


def test_a_gap_of_no_tokens_has_no_rule(toy_data):
    template = Template(("the ", " goat", ""), (Gap(0), Gap(0)))
    row = EncodedTemplate.of(template, toy_data.tokenizer).row([0, 1], [], 0, KEY)
    assert row.rule.tolist() == [ANYTHING] * (len(row.ids) - 1) + [CONTINUES_WORD]


def test_what_continues_a_word_has_no_space_of_its_own(toy_data):
    tokenizer = toy_data.tokenizer
    assert tokenizer.decode(tokenizer.encode("go") + tokenizer.encode_after("ats")) == "goats"
    assert tokenizer.decode(tokenizer.encode("go") + tokenizer.encode_after(" ats")) == "go ats"


def test_open_gaps_are_long_only_at_the_ends_of_a_line(toy_data):
    template = Template(("", " goats ", " hill ", ""), (Gap(), Gap(), Gap(2, 40)))
    fewest, most = EncodedTemplate.of(template, toy_data.tokenizer).widths(30)
    assert fewest == [1, 1, 2]
    assert most == [31, LONGEST_GAP, 32]
