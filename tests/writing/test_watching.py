"""What is seen of texts while they are written is what comes of them."""

import io
import os
import re
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing.model import DiffusionLM
from simple_diffusion_lm.writing.watching import Onlooker, Shown, Terminal, coloured, rows_of


@pytest.fixture(scope="module", params=["continuous", "masked", "autoregressive"])
def model(request, toy_data, toy_run, tmp_path_factory):
    if request.param == "continuous":
        return DiffusionLM.from_pretrained(toy_run)
    run = tmp_path_factory.mktemp("baseline")
    config = small(Config(objective=request.param), steps=2, samples=1)
    run_training(config, toy_data, run, quiet=True)
    return DiffusionLM.from_pretrained(run)


def frames_of(model, write):
    onlooker = Onlooker(model)
    frames = {}

    def watch(batch, frame):
        for number, line in onlooker(batch, frame).items():
            frames.setdefault(number, []).append(line)

    return write(watch), frames


def test_the_last_frame_is_the_text(model):
    lines, frames = frames_of(model, lambda watch: model.generate(5, steps=6, seed=2, watch=watch))
    assert model.generate(5, steps=6, seed=2) == lines
    for number, line in enumerate(lines):
        last = frames[number][-1]
        assert "".join(token.text for token in last).strip() == line.strip()
        assert all(token.written for token in last)
        assert all(token.probability > 0 for token in last)
        for frame in frames[number]:
            for token in frame:
                shares = [share for _, share in token.likely]
                assert shares == sorted(shares, reverse=True)
                assert 0 <= sum(shares) <= 1 + 1e-4


def test_what_is_written_stays(model):
    _, frames = frames_of(model, lambda watch: model.generate(3, steps=8, watch=watch))
    for each in frames.values():
        for before, after in pairwise(each):
            for old, new in zip(before, after, strict=False):
                assert not old.written or (new.written and old.text == new.text)


def test_given_text_is_given_from_the_first_frame(model):
    prompt = "yesterday the ___"
    _, frames = frames_of(model, lambda watch: model.infill([prompt], candidates=1, steps=4, watch=watch))
    first = frames[0][0]
    start = [token for token in first if token.given]
    assert "".join(token.text for token in start).strip() == "yesterday the"
    assert all(not token.likely for token in start)


class Tty(io.StringIO):
    def fileno(self):
        return 1


def test_a_grid_is_shown_as_a_grid_and_other_text_as_a_line():
    def line(text):
        return [Shown(c, given=False, written=True, likely=[]) for c in text]

    def shown(text):
        return ["".join(token.text for token in row) for row in rows_of(line(text))]

    assert shown("|12|21|") == [" 1 2", " 2 1", ""]
    assert shown("|·2|21|") == [" · 2", " 2 1", ""]
    for text in ("|12|21", "|12|2|", "|12|21|12|", "12|21|", "|", "||", "", "a dog | runs"):
        assert shown(text) == [text]


def test_a_terminal_is_left_as_it_was(model, monkeypatch):
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((80, 3)))
    monkeypatch.setattr("simple_diffusion_lm.writing.watching.SECONDS", 0.0)
    file = Tty()
    monkeypatch.setattr("sys.stderr", file)
    with Terminal(Onlooker(model)) as watch:
        model.generate(4, steps=3, watch=watch)
    drawn = file.getvalue()
    assert drawn.count("\x1b[?7l") == drawn.count("\x1b[?7h") - 1  # wrapping is on again
    assert drawn.endswith("\x1b[2F\x1b[J\x1b[?7h")  # of four lines two fit; nothing is left of them


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6), st.floats(0, 1))
def test_no_text_moves_the_cursor(texts, share):
    line = [Shown(text, False, True, [(text, share)]) for text in texts]
    plain = re.sub(r"\x1b\[(?:\d+(?:;\d+)*)?m", "", coloured(line))
    assert plain.isprintable()
    assert plain.strip(" ") == "".join(c if c.isprintable() else "�" for c in "".join(texts)).strip(" ")
