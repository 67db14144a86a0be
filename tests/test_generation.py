import json
import shutil

import pytest

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.generation import DiffusionLM


@pytest.fixture(scope="module")
def model(toy_run):
    return DiffusionLM.from_pretrained(toy_run)


def test_the_same_seed_gives_the_same_text_whatever_the_company(model):
    few = model.generate(6, steps=4, seed=3)
    assert model.generate(24, steps=4, seed=3)[:6] == few
    assert model.generate(6, steps=4, seed=3, batch_size=1) == few
    assert model.generate(6, steps=4, seed=4) != few


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "renoise", "dpm2m"])
def test_every_sampler_samples(model, sampler):
    assert len(model.generate(2, steps=3, sampler=sampler)) == 2


@pytest.mark.parametrize("length", [1, 5, 20])
def test_a_given_length_is_met_exactly(model, length, monkeypatch):
    """In tokens: seen where the slots are handed on, before any decoding."""
    sizes = []
    whole = model._run
    monkeypatch.setattr(
        model,
        "_run",
        lambda slots, *rest: sizes.extend(len(s.ids) for s in slots) or whole(slots, *rest),
    )
    model.generate(2, length=length, steps=2)
    assert sizes == [length + 1] * 2  # and EOS


def test_lengths_are_drawn_from_training(model):
    lengths = {model._draw_length(0, number) for number in range(300)}
    seen = {length for length, count in enumerate(model.length_weights) if count}
    assert lengths <= seen
    assert len(lengths) > 3


def test_infilling_keeps_what_is_given(model):
    templates = ["yesterday the ___ .", "___ the goats near ___", "a plain line .", "___"]
    filled = model.infill(templates, steps=3)
    assert filled[0].startswith("yesterday the ")
    assert filled[0].endswith(" .")
    assert " the goats near " in f" {filled[1]} "
    assert filled[2] == "a plain line ."
    assert len(filled) == 4


@pytest.mark.parametrize(
    ("template", "least", "most"),
    [("yesterday the [[3]] .", 3, 3), ("[[2-4]] goats [[1]]", 3, 5), ("___ goats", 1, 8)],
)
def test_gaps_have_the_lengths_that_are_asked_for(template, least, most, model):
    for number in range(20):
        slot = model._fill_slot(template, 0, number)
        assert least <= int((~slot.cond_mask).sum()) <= most


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "typo"}, "no sampler 'typo'"),
        ({"steps": 1}, "at least 2 steps"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"length": 0}, "between 1 and"),
        ({"length": 10_000}, "between 1 and"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(model, options, words):
    with pytest.raises(UserError, match=words):
        model.generate(1, **options)


def test_a_template_too_long_for_the_model_is_refused(model):
    with pytest.raises(UserError, match="trained on texts of at most"):
        model.infill(["goat " * 200 + "___"])


def copied(toy_run, tmp_path):
    return shutil.copytree(toy_run, tmp_path / "copy")


def test_what_is_no_run_is_told(toy_run, tmp_path):
    with pytest.raises(UserError, match="no run here"):
        DiffusionLM.from_pretrained(tmp_path)
    run = copied(toy_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no whole checkpoint"):
        DiffusionLM.from_pretrained(run)
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        DiffusionLM.from_pretrained(run)


def test_another_tokenizer_is_refused(toy_run, toy_text, tmp_path):
    from simple_diffusion_lm.text.tokenizer import train_tokenizer

    run = copied(toy_run, tmp_path)
    vocab_size = json.loads((run / "config.json").read_text())["vocab_size"]
    lines = [line[::-1] for line in toy_text.read_text().splitlines()]
    other = train_tokenizer(lines, vocab_size, stream=False, seed=0)
    (run / "tokenizer.model").write_bytes(other.model)
    with pytest.raises(UserError, match="not the one this run was trained with"):
        DiffusionLM.from_pretrained(run)


def test_each_text_has_noise_of_its_own(model):
    assert len(set(model.generate(4, length=8, steps=4))) == 4
