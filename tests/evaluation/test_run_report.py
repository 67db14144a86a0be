import re
from dataclasses import replace

import numpy as np
import pytest
from small_models import small

from simple_diffusion_lm.evaluation.metrics import plain_batches
from simple_diffusion_lm.evaluation.noise import by_level
from simple_diffusion_lm.evaluation.run_report import write_report
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.run import run_training
from simple_diffusion_lm.training.recipes import modern, with_objective


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


def test_several_runs_share_a_page_a_twin_among_them(toy_run, toy_data, tmp_path):
    twin = tmp_path / "twin"
    config = replace(with_objective(modern(), "masked"), steps=2, samples=1)
    run_training(small(config), toy_data, twin, quiet=True)
    write_report([toy_run, twin], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "<th>twin</th>" in page
    write_report([twin, toy_run], tmp_path / "other.html")
    assert (tmp_path / "other.html").read_text().count("<svg") == 2  # a twin has no noise


@pytest.mark.parametrize("stagger", [0.0, 8.0])
def test_what_is_known_at_a_level_runs_from_all_to_what_words_are_frequent(
    stagger, toy_run, toy_data
):
    model = DiffusionLM.from_pretrained(toy_run)
    model.model.stagger = stagger
    found = by_level(model.model, plain_batches(model, toy_data.valid), examples=20, draws=100)
    assert found.log_snr == sorted(found.log_snr)
    assert found.accuracy_alone[-1] > 0.8 > 0.2 > found.accuracy_alone[0]
    assert found.nats_alone[-1] < 0.5
    counts = toy_data.train.counts(len(toy_data.tokenizer)) + 0.1
    entropy = -(counts / counts.sum() * np.log(counts / counts.sum())).sum()
    assert found.nats_alone[0] == pytest.approx(entropy, abs=1.0)
