"""A likelihood in every unit; and what is measured, and how often."""

import json
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.bound import Bound
from simple_diffusion_lm.core.data import Batches
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.evaluation.evaluate import evaluate_run
from simple_diffusion_lm.evaluation.likelihood import likelihood, plain_batches
from simple_diffusion_lm.evaluation.report import likelihood_lines
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing.model import DiffusionLM


@pytest.fixture
def model(toy_run):
    return DiffusionLM.from_pretrained(toy_run)


def test_the_total_is_the_sum_of_its_parts_in_every_unit(toy_run, toy_text, tmp_path):
    text = "".join(toy_text.read_text().splitlines(keepends=True)[:40])
    (tmp_path / "few.txt").write_text(text)
    result = evaluate_run(toy_run, [tmp_path / "few.txt"], samples=0)
    found = result["likelihood"]
    total, texts, tokens = (found[name] for name in ("nats_per_token", "texts", "tokens"))
    parts = [found[name] for name in ("prior", "diffusion", "reconstruction", "length")]
    assert total == pytest.approx(sum(parts))
    assert min(parts) > 0 < found["standard_error"]
    assert found["is_bound"]
    assert found["nats_per_text"] == pytest.approx(total * tokens / texts)
    assert found["characters"] == len(text)
    bits = found["nats_per_text"] * texts / math.log(2)
    assert found["bits_per_character"] == pytest.approx(bits / found["characters"])
    assert found["words"] == len(text.split()) + texts
    assert found["perplexity_per_word"] == pytest.approx(math.exp(total * tokens / found["words"]))
    assert json.loads(json.dumps(result)) == result


def test_a_single_text_has_no_error(toy_run, tmp_path):
    (tmp_path / "one.txt").write_text("the goats sleep .\n")
    found = evaluate_run(toy_run, [tmp_path / "one.txt"], samples=0)["likelihood"]
    assert json.loads(json.dumps(found, allow_nan=False))["standard_error"] is None
    assert "nats per token\n" in likelihood_lines(found)
    assert "nats per token (± 0.1000)" in likelihood_lines(found | {"texts": 2, "standard_error": 0.1})


def test_letters_that_the_tokenizer_lacks_are_told(toy_run, tmp_path, capsys):
    (tmp_path / "few.txt").write_text("the goats sleep .\nThe Ziege sleeps .\n")
    evaluate_run(toy_run, [tmp_path / "few.txt"], samples=0)
    assert "1 lines have what the tokenizer lacks" in capsys.readouterr().err


@pytest.mark.parametrize("letters", ["acgt", "一二三四五六七八九十"])
def test_lines_without_spaces_are_measured_by_characters(letters, tmp_path, capsys):
    """A long line of them is one word: a perplexity of it would be beyond all numbers."""
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list(letters), 300)) for _ in range(120)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = prepare([tmp_path / "lines.txt"], tmp_path / "corpus", tokenizer="chars", quiet=True)
    run_training(small(Config(), steps=1, samples=0, crop=200), data, tmp_path / "run", quiet=True)
    found = evaluate_run(tmp_path / "run", [tmp_path / "lines.txt"], samples=0)["likelihood"]
    assert found["words"] == found["characters"] == 120 * 200  # what fits of each: its end too
    assert found["perplexity_per_word"] == pytest.approx(2 ** found["bits_per_character"])
    assert "120 of 120 texts are longer" in capsys.readouterr().err


def test_a_word_of_a_thousand_nats_has_a_perplexity_too(model, toy_data, monkeypatch):
    bound = model.model.bound

    def far_too_high(*args):
        found = bound(*args)
        return found._replace(diffusion=1000 * found.diffusion)

    monkeypatch.setattr(model.model, "bound", far_too_high)
    found = likelihood(model, toy_data.valid, examples=5)
    assert found["nats_per_text"] > 709 * 20  # e^709 is the largest that there is
    assert math.isfinite(found["perplexity_per_word"])


def test_files_are_measured_as_running_text_where_that_is_what_was_learnt(toy_text, tmp_path):
    """Blank lines are a part of it."""
    text = toy_text.read_text().replace(" .\n", f" .{10 * chr(10)}")
    (tmp_path / "book.txt").write_text(text)
    data = prepare([tmp_path / "book.txt"], tmp_path / "corpus", vocab_size=300, stream=True, quiet=True)
    run_training(small(Config(), steps=2, samples=0), data, tmp_path / "run", quiet=True)
    found = evaluate_run(tmp_path / "run", [tmp_path / "book.txt"], samples=0)["likelihood"]
    assert found["characters"] == pytest.approx(len(text), rel=0.02)  # all but parts of a window
    assert found["length"] == 0


def test_nothing_is_dropped_out_while_measuring(model, toy_data):
    model.model.transformer.dropout.p = 0.5
    found = likelihood(model, toy_data.train, examples=20)
    model.model.train()
    assert likelihood(model, toy_data.train, examples=20) == found


def recorded(model, corpus, **settings):
    """The levels at which a set of texts is measured: a row of draws for each text."""
    levels = {}

    def bound(batch, u, keys):
        for number, each in zip(batch.number.tolist(), u.tolist(), strict=True):
            levels.setdefault(number, []).append(each)
        nothing = torch.zeros(len(u))
        return Bound(nothing, u**2, nothing, torch.ones(len(u), dtype=torch.long))

    model.model.bound = bound
    found = likelihood(model, corpus, **settings)
    return torch.tensor(list(levels.values()), dtype=torch.float64), found


@pytest.mark.parametrize("draws", [1, 3])
def test_the_draws_of_a_text_and_of_the_whole_set_are_spread_over_all_levels(draws, model, toy_data):
    levels, found = recorded(model, toy_data.train, examples=300, draws=draws)
    assert levels.shape == (300, draws)
    assert ((levels >= 0) & (levels < 1)).all()
    for some in (*levels, levels.flatten()):
        apart = some.sort().values.diff()
        torch.testing.assert_close(apart, torch.full_like(apart, 1 / len(some)), atol=1e-6, rtol=0)
    assert found["diffusion"] == pytest.approx(1 / 3, abs=0.01)  # the mean of u^2


def test_runs_of_every_seed_are_measured_on_the_same_windows(model, toy_data):
    model.stream = True
    windows = set()
    for seed in range(3):
        model.model.config = replace(model.config, seed=seed)
        windows.add(tuple(plain_batches(model, toy_data.train).example(0, 0)))
    assert len(windows) == 1


def test_measuring_keeps_no_batch(model, toy_data, monkeypatch):
    """100,000 lines take no more memory than 2,000 (row M2 of `make torture`)."""
    made, alive = [], []

    def counted(batches, *arguments):
        batch = batch_of(batches, *arguments)
        made.append(weakref.ref(batch.ids))
        return batch

    def cost(batch, u, keys):
        alive.append(sum(each() is not None for each in made))
        return Bound(u, u, u, batch.free.sum(1))

    batch_of = Batches.batch
    monkeypatch.setattr(Batches, "batch", counted)
    monkeypatch.setattr(model.model, "bound", cost)
    model.model.config = replace(model.config, batch_tokens=64)
    likelihood(model, toy_data.valid, draws=1)
    assert len(made) > 5
    assert max(alive) <= 2


def test_every_token_is_paid_for_by_a_model_that_was_trained_with_given_ones(model, toy_data):
    assert model.config.cond_rate > 0
    lengths = np.diff(toy_data.valid.offsets)
    assert likelihood(model, toy_data.valid, examples=10**6)["tokens"] == lengths.sum()
