import json
import math
import re
import shutil
from itertools import chain
from threading import Thread

import numpy as np
import pytest
import torch
from several import on_processes
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.bound import held_out_bound
from simple_diffusion_lm.core.data import Batches
from simple_diffusion_lm.core.generate import Sampling
from simple_diffusion_lm.core.sampler import SAMPLERS
from simple_diffusion_lm.corpus.tokenizer import train_tokenizer
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing import writer
from simple_diffusion_lm.writing.blend import blend
from simple_diffusion_lm.writing.model import DiffusionLM, train
from simple_diffusion_lm.writing.requests import write_rows
from simple_diffusion_lm.writing.templates import Gap
from simple_diffusion_lm.writing.writer import Request


@pytest.fixture(scope="module")
def model(toy_run):
    return DiffusionLM.from_pretrained(toy_run)


def write(model, requests, steps, *, candidates=1, never=(), seed=0):
    return model.write(requests, candidates, never, seed, Sampling(steps))


def test_the_same_seed_gives_the_same_text_whatever_its_neighbours(model):
    few = model.generate(6, steps=4, seed=3)
    assert model.generate(24, steps=4, seed=3)[:6] == few
    assert model.generate(6, steps=4, seed=3, batch_size=1) == few
    assert model.generate(6, steps=4, seed=4) != few


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_samples(model, sampler):
    assert len(model.generate(2, steps=3, sampler=sampler)) == 2


@pytest.mark.parametrize("length", [1, 5, 20])
def test_a_given_length_is_met_exactly(model, length):
    for line in write(model, [model.request(Gap(length, length))] * 3, 2):
        assert line.widths == [length]


def test_a_range_of_lengths_is_met_and_used(model):
    lines = write(model, [model.request(Gap(4, 7))] * 40, 1)
    assert {line.widths[0] for line in lines} == {4, 5, 6, 7}


def test_lengths_are_drawn_from_training(model):
    lengths = [line.widths[0] + 1 for line in write(model, [model.request()] * 300, 1)]
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


def remembering(model):
    """The same model, and the ids of what it writes."""
    texts = {}

    def write_and_remember(*args, **options):
        texts.update(write_rows(model.model, *args, **options))
        return texts.items()

    return model.writing_with(write_and_remember), texts


def test_the_best_candidate_is_the_most_probable(model):
    watched, texts = remembering(model)
    (best,) = write(watched, [model.request(Gap(6, 6))], 3, candidates=8)
    nats = model.nats(list(texts.values()))
    assert best.nats == pytest.approx(min(nats), rel=1e-5)
    assert best.text == model.decode(texts[np.argmin(nats)])
    one = [line.text for line in write(model, [model.request(Gap(6, 6))] * 8, 3)]
    assert one == [model.decode(texts[n]) for n in range(8)]


def test_a_letter_that_would_be_lost_is_named(model):
    for ask in (
        lambda: model.generate(1, must=["dög"]),
        lambda: model.vary(["the goats slëep ."]),
        lambda: model.blend("the goats sleep .", "the g\nats ."),
        lambda: model.score(["the goats sleep ☃"]),
    ):
        with pytest.raises(UserError, match=r": the tokenizer has no piece for '(ö|ë|\\n|☃)': write"):
            ask()
    assert model.infill(["the Dög ___ ."], steps=2)[0].startswith("the Dög ")  # comes back as typed


def test_words_are_in_every_line_or_in_none(model):
    assert model.generate(2, must="", steps=2) == model.generate(2, steps=2)
    for line in model.generate(10, must=["goats", "hill"], never=["the", "a"], steps=2):
        words = line.split()
        assert {"goats", "hill"} <= set(words)
        assert not {"the", "a"} & set(words)


@pytest.mark.parametrize("never", [[], ["goats"], [""]])
def test_a_fill_without_any_character_has_no_forbidden_word(model, never):
    rows = []

    def empty(own, *_, **__):
        rows.extend(own)
        space = model.pieces.index(" ")
        return [(row.number, torch.where(row.cond_mask, row.ids, space).tolist()) for row in own]

    request = Request.of("the hill [[1]]")
    (line,) = write(model.writing_with(empty), [request], 1, never=never)
    assert line.fills == [""]
    assert line.fits
    assert len(rows) == 1  # nothing was written twice


def filling_with(model, pieces):
    """The model, but its gaps have one of these pieces each, by turns; and the keys it was asked with."""
    ids, keys = [model.pieces.index(piece) for piece in pieces], []

    def fill(own, *_, **__):
        keys.extend(int(row.key) for row in own)
        own = [(row, ids[row.number % len(ids)]) for row in own]
        return [(row.number, torch.where(row.cond_mask, row.ids, i).tolist()) for row, i in own]

    return model.writing_with(fill), keys


def test_what_has_a_forbidden_word_is_tried_again_with_other_noise(model):
    other, keys = filling_with(model, [" the"])
    (line,) = write(other, [Request.of("every hill [[1]]")], 1, never=["the"])
    assert not line.fits
    assert len(set(keys)) == len(keys) == writer.ATTEMPTS


def test_a_line_that_will_do_is_chosen_before_a_likelier_one_that_will_not(model, monkeypatch):
    other, keys = filling_with(model, [" the", " a"])
    likelier = {model.pieces.index(" the"): 1.0, model.pieces.index(" a"): 2.0}
    monkeypatch.setattr(other, "nats", lambda texts: [likelier[ids[-2]] for ids in texts])
    request = Request.of("every hill [[1]]")
    assert [line.fills for line in write(other, [request], 1, candidates=4)] == [["the"]]
    assert [line.fills for line in write(other, [request], 1, candidates=4, never=["the"])] == [["a"]]
    assert len(keys) == 8


def test_a_score_is_raised_while_texts_are_written(model):
    the = model.pieces.index(" the")

    def score(logits, mask):
        return 100 * (logits.softmax(-1)[..., the] * mask).sum(1)

    assert model.generate(2, length=4, steps=4, guidance=score) == ["the the the the"] * 2
    (varied,) = model.vary(["every hill ."], 1.0, steps=4, guidance=score)
    assert set(varied.split()) == {"the"}


def test_a_text_is_varied_from_a_copy_to_another(model):
    text = "every morning the old woman feeds her goats ."
    varied = [model.vary([text] * 8, strength, steps=8) for strength in (1e-5, 0.1, 0.5, 1.0)]
    same = [sum(a == b for v in vs for a, b in zip(v.split(), text.split())) for vs in varied]  # noqa: B905
    words = 8 * len(text.split())
    assert same[0] > 0.9 * words  # the model is small: two of its words may stand very close
    assert same[0] >= same[1] > max(same[2:])  # half of the way back it has forgotten
    assert max(same[2:]) < words / 4
    assert len(set(varied[2])) == 8
    with pytest.raises(UserError, match="the strength must be above 0"):
        model.vary([text], 0.0)


def test_a_blend_ends_with_both_texts(model):
    first, second = "the goats sleep .", "every morning the old woman feeds her goats ."
    blended = model.blend(first, second, count=3, steps=24)
    assert blended[0] == first
    assert blended[-1] == second


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "typo"}, "no sampler 'typo'"),
        ({"count": 0}, "texts must be at least 1, not 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"length": 0}, "'0' is no length"),
        ({"watch": True}, "watch is a function"),
        ({"length": 10_000}, "between 1 and"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(model, options, words):
    with pytest.raises(UserError, match=words):
        model.generate(**options)


def test_no_texts_cannot_be_blended(model):
    with pytest.raises(UserError, match="texts must be at least 1"):
        model.blend("the goats sleep .", "the goats sleep .", count=0)


def test_what_stands_for_several_may_be_one(model):
    """A word is no list of letters, and a length no text alone."""
    several = {"must": ["goats"], "never": ["the"], "length": "8-12"}
    one = {"must": "goats", "never": "the", "length": (8, 12)}
    assert model.generate(2, steps=2, **one) == model.generate(2, steps=2, **several)
    filled = [model.infill("goats ___", steps=2, never=never) for never in ("the", ["the"])]
    assert filled[0] == filled[1]
    assert model.generate(1, steps=2, seed=-1) != model.generate(1, steps=2, seed=1)


def test_a_template_too_long_for_the_model_is_refused(model):
    with pytest.raises(UserError, match="trained on texts of at most"):
        model.infill(["goat " * 200 + "___"])


def copied(toy_run, tmp_path):
    return shutil.copytree(toy_run, tmp_path / "copy")


def test_what_is_no_run_is_told(toy_run, tmp_path):
    with pytest.raises(UserError, match="no run here"):
        DiffusionLM.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="device nowhere"):
        DiffusionLM.from_pretrained(toy_run, device="nowhere")
    run = copied(toy_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no whole checkpoint"):
        DiffusionLM.from_pretrained(run)
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        DiffusionLM.from_pretrained(run)


def test_another_tokenizer_is_refused(toy_run, toy_text, tmp_path):
    run = copied(toy_run, tmp_path)
    vocab_size = json.loads((run / "config.json").read_text())["vocab_size"]
    lines = [line[::-1] for line in toy_text.read_text().splitlines()]
    other = train_tokenizer(lines, vocab_size, stream=False, seed=0)
    (run / "tokenizer.model").write_bytes(other.model)
    with pytest.raises(UserError, match="not the one this run was trained with"):
        DiffusionLM.from_pretrained(run)


def test_each_text_has_noise_of_its_own(model):
    assert len(set(model.generate(4, length=8, steps=32))) == 4


def test_a_model_that_ends_its_lines_scores_them_to_their_end(toy_data, tmp_path):
    config = small(Config(objective="autoregressive"), steps=2, samples=1, cond_rate=0.0)
    run_training(config, toy_data, tmp_path, quiet=True)
    model = DiffusionLM.from_pretrained(tmp_path)
    lines = [model.decode(toy_data.valid[i]) for i in range(len(toy_data.valid))]
    batches = Batches(model.config, toy_data.valid, model.tokenizer.pad_id)
    measured = [batches.batch(0, numbers) for numbers in batches.spread(len(lines))]
    texts = len(lines)
    exact = held_out_bound(model.model.bound, measured, texts=texts, draws=1, length_weights=None)
    assert sum(model.score(lines)) == pytest.approx(exact.total * exact.tokens, rel=1e-4)
    watched, texts = remembering(model)
    (line,) = write(watched, [Request.of("yesterday the ___")], 1, candidates=4, seed=1)
    (end,) = model.end
    nats = model.nats([ids[: ids.index(end) + 1] for ids in texts.values()])
    assert line.nats == pytest.approx(min(nats), rel=1e-4)
    for ask, words in (
        (lambda: model.generate(1, guidance=lambda logits, mask: logits.sum((1, 2))), "can be guided"),
        (lambda: model.vary(["the goats sleep ."]), "varies and blends texts"),
        (lambda: model.blend("the goats sleep .", "a hill ."), "varies and blends texts"),
    ):
        with pytest.raises(UserError, match=f"only continuous diffusion {words}"):
            ask()
    for options in ({"length": 5}, {"must": ["goats"]}):
        with pytest.raises(UserError, match="writes from left to right"):
            model.generate(1, **options)
    with pytest.raises(UserError, match="writes from left to right"):
        model.infill(["the ___ sleep ."])


def test_many_lines_are_written_some_at_a_time_and_are_the_same(model, monkeypatch):
    requests = [Request.of(text) for text in ("the ___ .", "", "___ goats ___") * 2]
    whole = list(write(model, requests, 3, candidates=2, seed=5))
    monkeypatch.setattr(writer, "AT_ONCE", 4)
    lines = write(model, requests, 3, candidates=2, seed=5)
    for line, same in zip([next(lines), *lines], whole, strict=True):  # sums in another order
        assert line == same._replace(nats=pytest.approx(same.nats, rel=1e-5))


def generate(run):
    model = DiffusionLM.from_pretrained(run)
    return model.generate(5, candidates=2, steps=4, seed=3), list(model.unfold(steps=4))


def test_processes_share_the_texts_and_all_have_them(toy_run):
    """A text that is watched is not shared: each writes all of it."""
    assert on_processes(2, generate, toy_run) == [generate(toy_run)] * 2


def test_one_text_is_taken_for_one_and_a_length_may_be_a_range(model):
    few = {"steps": 2}
    assert model.infill("the ___ .", **few) == model.infill(["the ___ ."], **few)
    assert model.vary("the goats sleep .", 0.5, **few) == model.vary(["the goats sleep ."], 0.5, **few)
    assert model.score("the goats sleep .") == model.score(["the goats sleep ."])
    assert model.generate(4, length="8-12", **few) == model.generate(4, length=Gap(8, 12), **few)


def test_without_a_seed_each_call_writes_something_else(model):
    assert model.generate(3, steps=2, seed=None) != model.generate(3, steps=2, seed=None)


def test_an_unknown_option_is_named(model):
    with pytest.raises(UserError, match=r"no option 'temprature': the options are .*temperature"):
        model.generate(temprature=0.3)


def test_a_model_says_what_it_is(model, toy_run):
    size = sum(p.numel() for p in model.model.parameters())
    about = rf"{re.escape(str(toy_run))}, continuous, 6 steps, <= [0-9.]+ nats a token .*"
    assert re.match(f"<DiffusionLM {about}: {size:,} parameters, ", repr(model))


def test_a_text_unfolds_step_by_step(model):
    unfolding = model.unfold("the ___ .", steps=5)
    texts = list(unfolding)
    assert len(texts) == len(unfolding.steps) == 5
    assert [texts[-1]] == model.infill("the ___ .", candidates=1, steps=5)
    assert all(text.startswith("the") for text in texts)
    drawn = unfolding._repr_html_()
    assert drawn.count("<tr>") == 5
    assert 'font-weight:bold"> the<' in drawn
    assert model.unfold("a < b ___", steps=30)._repr_html_().count("<tr>") == 12
    with pytest.raises(UserError, match="top_p must be above 0"):
        model.unfold(top_p=-1.0)


def test_a_model_is_trained_by_one_call_from_any_thread(toy_text, tmp_path):
    """Signals can be caught in the main thread alone: elsewhere training does without."""
    names = ("model_dim", "layers", "heads", "embedding_dim")
    settings = {name: getattr(small(Config()), name) for name in names} | {"steps": 3, "samples": 0}
    made, where = [], str(tmp_path / "run")
    thread = Thread(target=lambda: made.append(train(toy_text, where, quiet=True, **settings)))
    thread.start()
    thread.join()
    (model,) = made
    assert len(model.generate(2, steps=2)) == 2
    assert model.progress.step == 3
    again = train([toy_text], where, quiet=True, **settings)  # it is there
    assert again.generate(2, steps=2) == model.generate(2, steps=2)
    with pytest.raises(UserError, match="no setting 'step'"):
        train(toy_text, tmp_path / "other", step=3)
    with pytest.raises(UserError, match="prepared as lines"):
        train(f"{where}/corpus", tmp_path / "other", stream=True, **settings)
    settings |= {"seed": -1, "samples": 1}
    masked = train(toy_text, tmp_path / "masked", quiet=True, objective="masked", **settings)
    assert masked.config.cond_rate == 0.0  # as of `sdlm train --objective masked`


def test_a_run_that_was_moved_finds_the_corpus_inside_it(toy_text, tmp_path):
    shape = {"model_dim": 32, "layers": 1, "heads": 2, "embedding_dim": 16}
    train(toy_text, tmp_path / "run", steps=2, samples=0, quiet=True, **shape)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert DiffusionLM.trained_on(tmp_path / "moved").directory == tmp_path / "moved" / "corpus"
    assert DiffusionLM.trained_on(next((tmp_path / "moved" / "checkpoints").iterdir())).meta["key"]


def test_what_is_forbidden_is_not_blended_either(model):
    allowed = model.pieces.index(" the")
    forbidden = model.forbidden()
    forbidden[:] = True
    forbidden[:, allowed] = False
    ids = [model.tokenizer.encode(text) for text in ("every hill .", "the goats sleep in the garden .")]
    found = blend(model.model, ids, model.end, forbidden, 3, 2, lambda: None)
    assert set(chain(*found)) == {allowed}
    assert [len(each) for each in found] == [len(ids[0]), round(sum(map(len, ids)) / 2), len(ids[1])]
