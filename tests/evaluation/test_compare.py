"""What is compared, on what, and by whom it was measured."""

import json
import shutil
import sys

import pytest
from small_models import small

from simple_diffusion_lm.baselines import MODELS
from simple_diffusion_lm.core.data import Corpus
from simple_diffusion_lm.core.generate import ORDERS
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation import compare
from simple_diffusion_lm.evaluation.evaluate import evaluate_run
from simple_diffusion_lm.evaluation.samples import Reference, shuffled_words
from simple_diffusion_lm.runs.config import RECIPES
from simple_diffusion_lm.tasks.toy import ToyLanguage
from simple_diffusion_lm.writing.model import DiffusionLM

FRESH = shuffled_words(ToyLanguage().lines(24, seed=9))


@pytest.fixture
def data(toy_data):
    """The toy language to train on; held out are lines that are nothing like it."""
    tokenizer = toy_data.tokenizer
    return toy_data._replace(valid=Corpus.of(map(tokenizer.encode, FRESH), tokenizer.eos_id))


def test_every_recipe_and_every_objective_is_a_contender():
    assert set(compare.CONTENDERS) == {*RECIPES, *MODELS, "student"} - {"continuous"}
    objectives = {name: config.objective for name, config in compare.CONTENDERS.items()}
    assert objectives == {name: name if name in MODELS else "continuous" for name in objectives}


def test_what_is_measured_was_held_out_and_what_it_is_held_against_was_not(data, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "TEMPERATURES", (0.8, 0.7))
    out = tmp_path / "comparison"
    contenders = {name: small(compare.CONTENDERS[name]) for name in ("modern", "masked", "autoregressive")}
    settings = {"seeds": [0], "examples": 50, "samples": 15, "settings": {"minutes": 0.01, "samples": 1}}
    settings["steps"] = (64, 4, 2)
    tables = compare.run_compare(data, out, contenders=contenders, **settings)
    results = json.loads((out / "results.json").read_text())
    real = results["lines"]["held-out text"]
    assert real["copied_lines"] == 0.0 == real["copied_4grams"]
    assert min(real["ngram_perplexity"], real["reversed_perplexity"]) > 50  # if judged by itself, below 10
    for run in results["runs"].values():
        assert {point["lines"] for point in run["points"]} == {real["lines"]} == {len(FRESH) // 2}  # not 15
        assert run["likelihood"]["texts"] == len(FRESH) // 2
        assert run["likelihood"]["characters"] == len("\n".join(FRESH[::2])) + 1  # the others choose
    modern, masked, exact = (results["runs"][f"{name}-0"] for name in contenders)
    assert {point["steps"]: point["passes"] for point in modern["points"]} == {64: 64, 4: 4, 2: 2}
    # A step that reveals nothing needs no pass, and no text has more than 32 tokens.
    assert all(1 <= point["passes"] <= min(point["steps"], 32) for point in masked["points"])
    assert {point["steps"] for point in exact["points"]} == {64}  # of which it knows nothing
    orders = [{point["order"] for point in run["points"]} for run in (modern, masked, exact)]
    assert orders == [{None}, set(ORDERS), {None}]
    assert (out / "results.md").read_text() == tables + "\n"
    assert (out / "results.png").stat().st_size > 10_000
    for run in out.glob("*-0"):  # what is measured is not trained anew, its run being gone
        shutil.rmtree(run)
    assert compare.run_compare(data, out, contenders=contenders, **settings) == tables


def test_results_of_another_format_are_measured_anew(data, tmp_path, monkeypatch):
    """They would be misread. What was trained stays."""
    monkeypatch.setattr(compare, "TEMPERATURES", (0.8, 0.7))
    contenders = {"modern": small(compare.CONTENDERS["modern"])}
    settings = {"seeds": [0], "examples": 50, "samples": 12, "settings": {"steps": 2, "samples": 1}}
    tables = compare.run_compare(data, tmp_path, contenders=contenders, steps=(2,), **settings)
    path = tmp_path / "results.json"
    results = json.loads(path.read_text())
    del results["format"]  # as the first had none
    for point in results["runs"]["modern-0"]["points"]:
        point["metrics"] = {name: point.pop(name) for name in ("entropy", "ngram_perplexity")}
    path.write_text(json.dumps(results))
    saved = (tmp_path / "modern-0/checkpoints/step-2/manifest.json").stat()
    again = compare.run_compare(data, tmp_path, contenders=contenders, steps=(2,), **settings)
    assert json.loads(path.read_text())["format"] == compare.FORMAT
    assert (tmp_path / "modern-0/checkpoints/step-2/manifest.json").stat() == saved
    assert len(again.splitlines()) == len(tables.splitlines())
    wider = {"modern": small(compare.CONTENDERS["modern"], model_dim=64)}
    with pytest.raises(UserError, match="differs"):  # what was measured is of another network
        compare.run_compare(data, tmp_path, contenders=wider, steps=(2,), **settings)


def test_a_student_learns_from_the_run_beside_it(data, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "TEMPERATURES", (0.8,))
    settings = {"seeds": [3], "examples": 50, "samples": 12, "settings": {"minutes": 0.01, "samples": 0}}
    student = {"student": small(compare.CONTENDERS["student"], passes=2)}
    with pytest.raises(UserError, match="learns from a teacher"):
        compare.run_compare(data, tmp_path, contenders=student, **settings)
    contenders = student | {"modern": small(compare.CONTENDERS["modern"])}  # in any order
    compare.run_compare(data, tmp_path, contenders=contenders, steps=(4, 2, 1), **settings)
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [point["passes"] for point in runs["student-3"]["points"]] == [2, 1]
    shared = [
        DiffusionLM.from_pretrained(tmp_path / f"{name}-3").model.embedding.weight for name in contenders
    ]
    assert shared[0].equal(shared[1])


def test_a_run_is_measured_on_what_was_held_out_and_judged_by_what_was_not(data, toy_run, monkeypatch):
    monkeypatch.setattr(DiffusionLM, "trained_on", lambda run: data)
    found = evaluate_run(toy_run, samples=50, sampling={"steps": 2})
    assert found["likelihood"]["texts"] == len(FRESH)
    assert {row["lines"] for row in found["lines"].values()} == {len(FRESH)}  # 50 are not held out
    real = found["lines"]["held-out text"]
    assert real["copied_lines"] == 0.0 == real["copied_4grams"]
    assert min(real["ngram_perplexity"], real["reversed_perplexity"]) > 50


def test_a_judge_that_is_none_is_said_before_anything_is_trained(data, toy_run, tmp_path):
    settings = {"seeds": [0], "examples": 50, "samples": 12, "settings": {"minutes": 0.01}}
    contenders = {"modern": small(compare.CONTENDERS["modern"])}
    with pytest.raises(UserError, match="--objective autoregressive"):
        compare.run_compare(data, tmp_path / "out", contenders=contenders, judge=toy_run, **settings)
    with pytest.raises(UserError, match="the number of texts must be at least 1, not 0"):
        compare.run_compare(data, tmp_path / "out", contenders=contenders, **{**settings, "examples": 0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["few lines", "no sacrebleu"])
def test_what_cannot_be_measured_is_said_before_anything_is_trained(given, data, tmp_path, monkeypatch):
    settings = {"seeds": [0], "examples": 50, "samples": 12, "settings": {"minutes": 0.01}}
    contenders = {"modern": small(compare.CONTENDERS["modern"])}
    if given == "few lines":
        data = data._replace(valid=Corpus(data.valid.ids[: data.valid.offsets[18]], data.valid.offsets[:19]))
        words = "9 lines are too few to be measured: 10 or more have to be held out"
    else:
        monkeypatch.setitem(sys.modules, "sacrebleu", None)
        words = "sample metrics need sacrebleu"
    with pytest.raises(UserError, match=words):
        compare.run_compare(data, tmp_path / "out", contenders=contenders, **settings)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_chosen_on_the_half_that_is_not_measured(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(compare, "train_by_turns", lambda runs: seen.extend(runs.values()))
    contenders, budget = {"modern": small(compare.CONTENDERS["modern"])}, {"steps": 2}
    about = {"seeds": [0], "examples": 50, "samples": 12, "settings": budget, "contenders": contenders}
    with pytest.raises(UserError, match="no run here"):  # nothing was trained
        compare.run_compare(data, tmp_path, **about)
    ((_, given),) = seen
    assert list(map(data.tokenizer.decode, given.valid)) == FRESH[1::2]  # not the first: a file may be sorted


def test_half_of_running_text_goes_on_to_its_end():
    corpus = Corpus.of([[1, 2, 3], [4], [5, 6], [7, 8, 9], [1]], 0)
    first, second = compare.halves(corpus, True)
    assert first.ids.tolist() == [1, 2, 3, 0, 4, 0]
    assert second.ids.tolist() == [5, 6, 0, 7, 8, 9, 0, 1, 0]
    assert second.offsets.tolist() == [0, 3, 7, 9]


def test_a_point_is_written_as_it_says(data, toy_run, monkeypatch):
    asked, generate = [], DiffusionLM.generate
    monkeypatch.setattr(DiffusionLM, "generate", lambda *a, **o: asked.append(o) or generate(*a, **o))
    model = DiffusionLM.from_pretrained(toy_run)
    model.model.takes_turns = True  # so that it is asked in every order
    found = compare.measure(model, data.valid, Reference(FRESH, FRESH), 20, 12, (4, 2), ORDERS)
    said = [(point["order"], point["steps"], point["temperature"]) for point in found["points"]]
    assert said == [(each["order"], each["steps"], each["temperature"]) for each in asked]
    assert len(set(said)) == len(said) == len(ORDERS) * 2 * len(compare.TEMPERATURES)
