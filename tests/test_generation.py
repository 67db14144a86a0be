import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from small_models import small

from simple_diffusion_lm import writer
from simple_diffusion_lm.diffusion.sampler import SAMPLERS
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.metrics import likelihood
from simple_diffusion_lm.filling import Wish
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.model.guidance import Guidance
from simple_diffusion_lm.run import run_training
from simple_diffusion_lm.text.templates import Gap
from simple_diffusion_lm.training.recipes import modern, with_objective


@pytest.fixture(scope="module")
def model(toy_run):
    return DiffusionLM.from_pretrained(toy_run)


def test_the_same_seed_gives_the_same_text_whatever_the_company(model):
    few = model.generate(6, steps=4, seed=3)
    assert model.generate(24, steps=4, seed=3)[:6] == few
    assert model.generate(6, steps=4, seed=3, batch_size=1) == few
    assert model.generate(6, steps=4, seed=4) != few


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_samples(model, sampler):
    assert len(model.generate(2, steps=3, sampler=sampler)) == 2


@pytest.mark.parametrize("length", [1, 5, 20])
def test_a_given_length_is_met_exactly(model, length):
    for line in model.write([model.wish(Gap(length, length))] * 3, 1, steps=2):
        assert line.widths == [length]


def test_a_range_of_lengths_is_met_and_used(model):
    lines = model.write([model.wish(Gap(4, 7))] * 40, 1, steps=1)
    assert {line.widths[0] for line in lines} == {4, 5, 6, 7}


def test_lengths_are_drawn_from_training(model):
    lengths = [line.widths[0] + 1 for line in model.write([model.wish()] * 300, 1, steps=1)]
    seen = {length for length, count in enumerate(model.length_weights) if count}
    assert set(lengths) <= seen
    assert len(set(lengths)) > 3
    weights = torch.tensor(model.length_weights, dtype=torch.float)
    mean = float((weights * torch.arange(len(weights))).sum() / weights.sum())
    assert sum(lengths) / 300 == pytest.approx(mean, abs=0.5)


def test_what_is_typed_comes_back_as_it_was_typed(model):
    templates = ["Yesterday  the ___ !?", "___\tgoats néar ___", "a plain  line .", "", "go___s"]
    filled = model.infill(templates, steps=3, candidates=2)
    assert filled[0].startswith("Yesterday  the ")
    assert filled[0].endswith(" !?")
    assert "\tgoats néar " in filled[1]
    assert filled[2] == templates[2]
    assert filled[3]
    assert re.fullmatch("go[^ ].*s", filled[4])


def test_the_best_candidate_is_the_most_probable(model):
    one = list(model.write([model.wish(Gap(6, 6))] * 8, 1, steps=3))
    (best,) = model.write([model.wish(Gap(6, 6))], 8, steps=3)
    assert best.nats == pytest.approx(model.score([best.text])[0], rel=1e-4)
    assert best.nats <= min(model.score([line.text for line in one])) + 1e-3


def test_words_are_in_every_line_or_in_none(model):
    for line in model.generate(10, must=["goats", "hill"], never=["the", "a"], steps=2):
        words = line.split()
        assert {"goats", "hill"} <= set(words)
        assert not {"the", "a"} & set(words)


def test_a_text_is_varied_from_a_copy_to_another(model):
    text = "every morning the old woman feeds her goats ."
    varied = [model.vary([text] * 4, strength, steps=8) for strength in (1e-5, 0.3, 1.0)]
    same = [sum(a == b for v in vs for a, b in zip(v.split(), text.split())) for vs in varied]  # noqa: B905
    assert varied[0] == [text] * 4
    assert same[0] > same[1] >= same[2]


def test_a_blend_ends_with_both_texts(model):
    first, second = "the goats sleep .", "every morning the old woman feeds her goats ."
    blended = model.blend(first, second, count=3, steps=24)
    assert blended[0] == first
    assert blended[-1] == second


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "typo"}, "no sampler 'typo'"),
        ({"steps": 0}, "at least 1 step"),
        ({"candidates": 0}, "at least 1 candidate"),
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
    from simple_diffusion_lm.text.tokenizer_training import train_tokenizer

    run = copied(toy_run, tmp_path)
    vocab_size = json.loads((run / "config.json").read_text())["vocab_size"]
    lines = [line[::-1] for line in toy_text.read_text().splitlines()]
    other = train_tokenizer(lines, vocab_size, stream=False, seed=0)
    (run / "tokenizer.model").write_bytes(other.model)
    with pytest.raises(UserError, match="not the one this run was trained with"):
        DiffusionLM.from_pretrained(run)


def test_each_text_has_noise_of_its_own(model):
    assert len(set(model.generate(4, length=8, steps=32))) == 4


def test_a_twin_that_ends_its_lines_scores_them_to_their_end(toy_data, tmp_path):
    config = replace(with_objective(modern(), "autoregressive"), steps=2, samples=1)
    run_training(small(config), toy_data, tmp_path, quiet=True)
    model = DiffusionLM.from_pretrained(tmp_path)
    lines = [model.decode(toy_data.valid[i]) for i in range(len(toy_data.valid))]
    exact = likelihood(model, toy_data.valid)
    assert sum(model.score(lines)) / len(lines) == pytest.approx(exact.nats_per_text, rel=1e-4)
    for line in model.write([Wish.of("yesterday the ___")] * 3, 4, seed=1):
        (alone,) = model.score([line.text])
        assert line.nats == pytest.approx(alone, rel=0.1)  # its words may be cut otherwise
    with pytest.raises(UserError, match="only continuous diffusion can be guided"):
        model.generate(1, guidance=Guidance(given=1.0))


def test_many_lines_are_written_some_at_a_time_and_are_the_same(model, monkeypatch):
    wishes = [Wish.of(text) for text in ("the ___ .", "", "___ goats ___") * 3]
    whole = list(model.write(wishes, 2, steps=3, seed=5))
    monkeypatch.setattr(writer, "AT_ONCE", 4)
    lines = model.write(wishes, 2, steps=3, seed=5)
    assert next(lines) == whole[0]
    assert [whole[0], *lines] == whole
