import re
from dataclasses import replace

import numpy as np
import pytest
from small_models import small

from simple_diffusion_lm.core.train import Config
from simple_diffusion_lm.evaluation.likelihood import plain_batches
from simple_diffusion_lm.evaluation.run_report import by_level, write_report
from simple_diffusion_lm.runs.config import with_objective
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing.model import DiffusionLM


def outside(page):
    """Everything that a page would fetch from elsewhere."""
    return re.findall(r"""(?:src|href)=["'](?!#)[^"']*|url\((?!#)[^)]*|@import""", page)


def test_a_page_needs_nothing_else_and_tells_all(toy_run, tmp_path):
    write_report([toy_run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert outside(page) == []
    assert page.count("<svg") == 3
    for words in ("nats per token", "the schedule", "From noise to text", "its nearest", "stagger"):
        assert words in page
    last = (toy_run / "samples.txt").read_text().splitlines()[-1].split("\t")[1]
    assert last.replace("'", "&#39;") in page


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
    assert (tmp_path / "other.html").read_text().count("<svg") == 2  # a baseline has no noise


@pytest.mark.parametrize("stagger", [0.0, 8.0])
def test_what_is_known_at_a_level_runs_from_all_to_what_words_are_frequent(stagger, toy_run, toy_data):
    model = DiffusionLM.from_pretrained(toy_run)
    model.model.config = replace(model.config, stagger=stagger)
    found = by_level(model.model, plain_batches(model, toy_data.valid), examples=20, draws=100)
    assert found.log_snr == sorted(found.log_snr)
    assert found.accuracy_alone[-1] > 0.8 > 0.2 > found.accuracy_alone[0]
    assert found.nats_alone[-1] < 0.5
    counts = toy_data.train.counts(len(toy_data.tokenizer)) + 0.1
    entropy = -(counts / counts.sum() * np.log(counts / counts.sum())).sum()
    assert found.nats_alone[0] == pytest.approx(entropy, abs=1.0)
