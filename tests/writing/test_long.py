"""Running text longer than the window: written window by window, each with what was written before it."""

from itertools import pairwise

import pytest
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing.model import DiffusionLM
from simple_diffusion_lm.writing.requests import write_rows

WINDOW = 16


@pytest.fixture(scope="module")
def model(toy_text, tmp_path_factory) -> DiffusionLM:
    run = tmp_path_factory.mktemp("stream")
    data = prepare([toy_text], run / "corpus", vocab_size=300, stream=True, quiet=True)
    run_training(small(Config(steps=4), samples=0, window=WINDOW), data, run, quiet=True)
    return DiffusionLM.from_pretrained(run)


def recorded(model: DiffusionLM) -> tuple[DiffusionLM, list]:
    """The model, and all that it is asked to write, with what it wrote."""
    seen = []

    def write(rows, *args, **settings):
        written = dict(write_rows(model.model, rows, *args, **settings))
        seen.append([(row, written[row.number]) for row in rows])
        return written.items()

    return model.writing_with(write), seen


@pytest.mark.parametrize("length", [3, WINDOW, WINDOW + 1, 50])
def test_a_text_has_the_length_that_was_asked_for(length, model):
    recording, seen = recorded(model)
    texts = recording.generate(3, length=length, steps=2, seed=5)
    assert texts == [*model.generate(1, length=length, steps=2, seed=5), *texts[1:]]  # whatever the others
    for number in range(3):
        parts = [ids for window in seen for row, ids in window if row.number == number]
        whole = [token for ids in parts[:-1] for token in ids[: WINDOW // 2]] + parts[-1]
        assert len(whole) == length
        assert model.decode(whole) == texts[number]
    assert all(len(row.ids) <= WINDOW for window in seen for row, _ in window)


def test_a_window_in_which_all_is_given_costs_nothing(model):
    recording, seen = recorded(model)
    prompt = "the farmer sleeps . " * 12
    (text,) = recording.infill(f"{prompt}[[2]]", candidates=1, steps=2)
    assert text.startswith(prompt)
    written = [row for window in seen for row, _ in window]
    assert len(seen) == len(written) == 1  # of twelve windows the last, which has the gap
    assert not written[0].cond_mask.all()


def test_what_was_written_is_given_to_the_next_window(model):
    recording, seen = recorded(model)
    recording.generate(1, length=40, steps=2)
    for before, after in pairwise(seen):
        (row, _), written = after[0], before[0][1]
        assert row.cond_mask.tolist() == [True] * (WINDOW // 2) + [False] * (len(row.ids) - WINDOW // 2)
        assert row.ids[: WINDOW // 2].tolist() == written[WINDOW // 2 :]
        assert row.key != before[0][0].key  # else each window would have the noise of the last
    assert len(seen) == 4  # of 16, 24, 32 and 40


def test_gaps_far_into_a_long_text_are_filled(model):
    given = "the queen sleeps in the garden . " * 4
    template = f"{given}[[2]] {given}[[3]] ."
    assert len(model.tokenizer.encode(given)) > 1.5 * WINDOW
    (text,) = model.infill(template, candidates=2, steps=2)
    first, second, rest = text.split(given)
    assert first == ""
    assert second.strip()
    assert rest.endswith(" .")
    assert model.infill(given + "___", candidates=1, steps=2)[0].startswith(given)


def test_line_breaks_are_tokens_of_running_text(model):
    recording, seen = recorded(model)
    poem = "a king .\n\n  why ?"
    (varied,) = model.vary(
        [poem], 1e-6, steps=2
    )  # the model is small: signs that stand close may change places
    assert [line.split()[:-1] for line in varied.split("\n")] == [["a", "king"], [], ["why"]]
    (text,) = recording.infill(f"{poem}\n[[1]] .\n", candidates=1, steps=2)
    ((row, _),) = seen[0]
    assert row.ids[row.cond_mask].tolist().count(model.tokenizer.eos_id) == 4
    assert text.startswith(f"{poem}\n")
    assert model.score(poem)[0] > 0


def test_other_models_keep_to_their_longest_text(toy_run):
    with pytest.raises(UserError, match="the length must be between"):
        DiffusionLM.from_pretrained(toy_run).generate(1, length=400)
