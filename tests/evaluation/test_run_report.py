import re
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from small_models import small

from simple_diffusion_lm.cli.main import Evaluate
from simple_diffusion_lm.cli.options import SamplingOptions
from simple_diffusion_lm.core.train import Config
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation import run_report
from simple_diffusion_lm.evaluation.likelihood import plain_batches
from simple_diffusion_lm.evaluation.report import PANELS
from simple_diffusion_lm.evaluation.run_report import by_level, write_report
from simple_diffusion_lm.runs.config import with_objective
from simple_diffusion_lm.runs.run import about_run, run_training
from simple_diffusion_lm.writing.model import DiffusionLM


def outside(page):
    """Everything that a page would fetch from elsewhere."""
    return re.findall(r"""(?:src|href)=["'](?!#)[^"']*|url\((?!#)[^)]*|@import""", page)


def test_a_page_needs_nothing_else_and_tells_all(toy_run, toy_data, tmp_path):
    write_report([toy_run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert outside(page) == []
    assert page.count("<svg") == len(PANELS) + 3  # of the noise
    for words in ("nats per token", "the schedule", "From noise to text", "its nearest"):
        assert words in page
    last = (toy_run / "samples.txt").read_text().splitlines()[-1].split("\t")[1]
    assert last.replace("'", "&#39;") in page
    made, corpus = about_run(toy_run)["machine"], toy_data.meta["parts"]["train"]
    assert made["date"] in page
    assert f"simple-diffusion-lm {made['version']}" in page
    assert f"toy.txt: {corpus['lines']:,} lines,\n{corpus['tokens']:,} tokens" in page
    assert about_run(toy_run)["corpus"] in page
    assert "Evaluation" not in page


def test_what_was_evaluated_last_is_on_the_page(toy_run, toy_text, tmp_path, capsys):
    run = shutil.copytree(toy_run, tmp_path / "run")
    for samples in (0, 20):
        capsys.readouterr()
        files = (str(toy_text),)
        Evaluate(run=run, sampling=SamplingOptions(steps=2), data=files, samples=samples, examples=20)()
    printed = capsys.readouterr().out
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h2>Evaluation") == 1
    assert f"of step 6, on {toy_text}" in page
    assert printed.split(" nats")[0].replace("<", "&lt;") in page
    for row in printed.splitlines()[-4:]:
        for cell in row.strip("| ").split(" | "):
            assert cell == "---" or f">{cell}</t" in page


def test_a_run_under_way_is_told_of_without_its_model(toy_run, tmp_path):
    run = shutil.copytree(toy_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    write_report([run], tmp_path / "report.html", training=True)
    page = (tmp_path / "report.html").read_text()
    assert outside(page) == []
    assert page.count("<svg") == len(PANELS)
    for words in ("under way", "6 steps", 'http-equiv="refresh"'):
        assert words in page
    with pytest.raises(UserError, match="no whole checkpoint"):
        write_report([run], tmp_path / "report.html")


def test_samples_that_a_killed_run_wrote_twice_stand_once(tmp_path):
    lines = [f"step {step}\t{text}\n" for step in (10, 20, 20, 30) for text in ("a", "b")]
    (tmp_path / "samples.txt").write_text("".join(lines))
    assert run_report._samples(tmp_path) == [(step, ["a", "b"]) for step in ("10", "20", "30")]


def test_neighbours_are_text(toy_run, toy_data):
    model = DiffusionLM.from_pretrained(toy_run)
    ids, weight = toy_data.tokenizer.special_ids, model.model.embedding.weight
    (first, _), *_ = run_report._neighbours(model)
    word = next(i for i, piece in enumerate(model.pieces) if piece.strip() == first)
    with torch.no_grad():  # nothing is nearer to the first word than they are
        weight[ids] = weight[word].clone()
    special = {model.pieces[i].strip() for i in ids}
    for _, nearest in run_report._neighbours(model):
        assert len(nearest) == 5
        assert not special & set(nearest)


# Of the paper, and of what is written and drawn on it: text, text in a picture, an axis.
BRIGHTNESS = """[["body", "backgroundColor"], ["body", "color"], ["svg text", "fill"],
    ["svg [style*='000000']", "stroke"]]
    .map(([what, of]) => getComputedStyle(document.querySelector(what))[of].match(/\\d+/g).slice(0, 3))
    .map((colour) => colour.reduce((sum, part) => sum + Number(part) / 3, 0))"""


def test_a_page_fits_its_screen_and_can_be_read(toy_run, tmp_path):
    playwright, chromium = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    write_report([toy_run, toy_run], tmp_path / "report.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium)
        for width, scheme in product((390, 1280), ("light", "dark")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.goto((tmp_path / "report.html").as_uri())
            page.click("summary")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            paper, *ink = page.evaluate(BRIGHTNESS)
            assert (paper > 128) == (scheme == "light")
            assert len(ink) == 3
            assert all(abs(colour - paper) > 150 for colour in ink)
        browser.close()


def test_markup_in_a_corpus_stays_text(toy_run, tmp_path, monkeypatch):
    samples = toy_run / "samples.txt"
    before = samples.read_text()
    samples.write_text("step 6\t<script>alert(1)</script> & <b>\n")
    try:
        write_report([toy_run], tmp_path / "report.html")
    finally:
        samples.write_text(before)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;" in page


@pytest.fixture
def baseline_run(toy_data, tmp_path):
    run = tmp_path / "baseline"
    run_training(small(with_objective(Config(), "masked"), steps=2, samples=1), toy_data, run, quiet=True)
    return run


def test_several_runs_share_a_page_a_baseline_among_them(toy_run, baseline_run, tmp_path):
    write_report([toy_run, baseline_run], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "<th>baseline</th>" in page
    write_report([baseline_run, toy_run], tmp_path / "other.html")
    assert (tmp_path / "other.html").read_text().count("<svg") == len(PANELS)  # a baseline has no noise


def test_what_is_known_at_a_level_runs_from_all_to_what_words_are_frequent(toy_run, toy_data):
    model = DiffusionLM.from_pretrained(toy_run)
    found = by_level(model.model, plain_batches(model, toy_data.valid), texts=20, draws=100)
    log_snr, _, _, nats_alone, accuracy_alone = found
    assert log_snr == sorted(log_snr)
    assert accuracy_alone[-1] > 0.8 > 0.2 > accuracy_alone[0]
    assert nats_alone[-1] < 0.5
    counts = toy_data.train.counts(len(toy_data.tokenizer)) + 0.1
    entropy = -(counts / counts.sum() * np.log(counts / counts.sum())).sum()
    assert nats_alone[0] == pytest.approx(entropy, abs=1.0)
