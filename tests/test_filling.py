"""Templates on their way through tokens: any text, any gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_diffusion_lm.filling import LONGEST_GAP, Form
from simple_diffusion_lm.text.templates import Gap, Template

texts = st.text(st.sampled_from("the goat sleps 0é\t▁.'😀"), max_size=12)
WIDTHS = st.integers(1, 4)


@pytest.fixture(scope="module", params=["lines", "stream"])
def tokenizer(request, toy_data, toy_text):
    from simple_diffusion_lm.text.tokenizer_training import train_tokenizer

    if request.param == "lines":
        return toy_data.tokenizer
    return train_tokenizer(toy_text.read_text().splitlines(), 300, stream=True, seed=0)


@given(parts=st.lists(texts, min_size=2, max_size=4), data=st.data())
def test_given_text_is_intact_and_gaps_are_what_was_written(tokenizer, parts, data):
    template = Template(tuple(parts), (Gap(),) * (len(parts) - 1))
    form = Form.of(template, tokenizer)
    widths = [data.draw(WIDTHS) for _ in template.gaps]
    slot = form.slot(widths, [tokenizer.eos_id], 5, (0, 5))
    assert int((~slot.cond_mask).sum()) == sum(widths)
    assert slot.cond_mask[-1]
    assert slot.ids[-1] == tokenizer.eos_id
    assert not (slot.begins & slot.goes_on).any()
    assert not ((slot.begins | slot.goes_on) & slot.cond_mask).any()

    free = (~slot.cond_mask).nonzero().squeeze(1).tolist()
    words = tokenizer.encode("the goat sleeps")
    ids = slot.ids.tolist()
    for number, place in enumerate(free):
        ids[place] = words[number % len(words)]
    fills = form.fills(widths, ids, tokenizer, stream=False)
    line = form.text(fills)
    for part in parts:
        assert part in line
    assert len(line) == sum(map(len, parts)) + sum(map(len, fills))


@pytest.mark.parametrize(
    ("text", "begins", "goes_on"), [("the ", 1, 0), ("the", 0, 1), ("", 0, 0), ("'", 0, 1)]
)
def test_a_space_before_a_gap_is_where_its_word_begins(toy_data, text, begins, goes_on):
    slot = Form.of(Template((text, " ."), (Gap(),)), toy_data.tokenizer).slot([2], [], 0, (0,))
    assert (int(slot.begins.sum()), int(slot.goes_on.sum())) == (begins, goes_on)
    marked = (slot.begins | slot.goes_on).nonzero().flatten().tolist()
    assert marked == ([(~slot.cond_mask).nonzero()[0].item()] if text else [])


def test_what_goes_on_with_a_word_has_no_space_of_its_own(toy_data):
    tokenizer = toy_data.tokenizer
    assert tokenizer.decode(tokenizer.encode("go") + tokenizer.encode_after("ats")) == "goats"
    assert tokenizer.decode(tokenizer.encode("go") + tokenizer.encode_after(" ats")) == "go ats"


def test_open_gaps_are_long_only_at_the_ends_of_a_line(toy_data):
    template = Template(("", " goats ", " hill ", ""), (Gap(), Gap(), Gap(2, 40)))
    fewest, most = Form.of(template, toy_data.tokenizer).widths(30)
    assert fewest == [1, 1, 2]
    assert most == [31, LONGEST_GAP, 32]
