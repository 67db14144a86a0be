import json
import math
import shutil

import pytest

from simple_diffusion_lm.evaluation.report import (
    comparison_tables,
    figure_rows,
    likelihood_lines,
    mean_of,
    table,
    training_figure,
)

METRICS = {
    "lines": 100, "ngram_perplexity": 20.0, "reversed_perplexity": 25.0, "autoregressive_perplexity": None,
    "entropy": 5.0, "distinct_2": 0.5, "self_bleu": 30.0, "repetition": 0.01, "words_mean": 12.0,
    "words_deviation": 2.0, "copied_lines": 0.0, "copied_4grams": 0.4, "grammatical": None,
}  # fmt: skip


def likelihood(nats, is_bound=True):
    return {
        "is_bound": is_bound, "nats_per_token": nats, "standard_error": 0.05, "prior": 0.1, "diffusion": 2.5,
        "reconstruction": 0.1, "length": 0.3, "texts": 500, "tokens": 6000, "nats_per_text": 12 * nats,
        "bits_per_character": nats / 3.6 / math.log(2), "perplexity_per_word": math.exp(1.2 * nats),
        "characters": 21600, "words": 5000,
    }  # fmt: skip


def point(steps, passes, **changes):
    where = {"order": None, "steps": steps, "temperature": 0.8}
    return {**where, "passes": passes, "seconds_per_line": 0.1, **METRICS, **changes}


def results(**nats):
    runs = {
        name.replace("_", "-"): {
            "likelihood": likelihood(value),
            "progress": {"step": 1000, "tokens": 2_000_000},
            "points": [
                point(64, 64.0),
                point(64, 64.0, entropy=4.0, ngram_perplexity=5.0, reversed_perplexity=10.0),
                point(8, 8.0),
            ],
        }
        for name, value in nats.items()
    }
    return {"lines": {"held-out text": METRICS}, "runs": runs}


def test_seeds_share_a_row_with_their_mean_and_spread():
    table = comparison_tables(results(modern_0=3.0, modern_1=3.2, masked_0=2.5))
    bits = f"<= {3.1 * 6000 / 21600 / math.log(2):.3f}"
    assert f"| modern, 2 seeds | <= 3.100 ± 0.141 | {bits} | 64 | 2.0 M | 1,000 |" in table
    assert "| masked | <= 2.500 ± 0.050 |" in table
    assert table.count("| modern, 2 seeds |") == 1
    assert "grammatical" not in table
    real = "| 100 | 20.0 | 25.0 | 5.00 | 0.50 | 30.0 | 1.0% | 12.0 ± 2.0 | 0.0% | 40% |"
    assert f"| held-out text |  |  {real}" in table


def test_every_contender_says_how_many_passes_it_takes():
    found = results(modern_0=3.0, autoregressive_0=2.0)
    exact = found["runs"]["autoregressive-0"]
    exact["likelihood"] = likelihood(2.0, is_bound=False)
    for each in exact["points"]:
        each |= {"passes": 11.9}
    table = comparison_tables(found)
    assert "| autoregressive | 2.000 ± 0.050 |" in table  # exact: it has no sign
    rows = [line for line in table.splitlines() if line.startswith("| modern |")]
    assert [" | 64 | " in row for row in rows][:2] == [True] * 2
    rows = [line for line in table.splitlines() if line.startswith("| autoregressive |")]
    assert [" | 11.9 | " in row for row in rows][:2] == [True] * 2


def test_means_are_figure_by_figure():
    other = METRICS | {"ngram_perplexity": 30.0, "grammatical": 0.5}
    both = mean_of([METRICS | {"grammatical": 0.7}, other])
    assert both["ngram_perplexity"] == pytest.approx(25.0)
    assert both["grammatical"] == pytest.approx(0.6)
    assert mean_of([METRICS, other])["grammatical"] is None


def test_a_table_has_a_column_for_each_figure_that_any_row_has():
    rows = figure_rows("lines", {"a": METRICS, "b": METRICS | {"grammatical": 0.25}})
    lines = table(rows).splitlines()
    assert lines[0].endswith("| copied 4-grams | grammatical |")
    assert lines[2].endswith("| 40% |  |")
    assert lines[3].endswith("| 40% | 25.0% |")
    assert "autoregressive" not in lines[0]


def test_a_likelihood_is_said_in_every_unit():
    said = likelihood_lines(likelihood(3.0))
    assert said.startswith("<= 3.0000 nats per token (± 0.0500)\n<= 1.2022 bits per character\n<= 36.60 perp")
    assert said.endswith("length 0.3000 nats per token; 500 texts, 6,000 tokens, 21,600 characters")
    assert "<=" not in likelihood_lines(likelihood(3.0, is_bound=False))


def test_figures_are_compared_at_one_entropy():
    found = results(modern_0=3.0, modern_1=3.0, masked_0=2.5)
    found["runs"]["modern-0"]["points"][0]["entropy"] = 4.78  # the highest that all reach
    masked = found["runs"]["masked-0"]["points"]
    for each in masked:
        each["order"] = "reading"
    masked[1] |= {"entropy": 4.5, "ngram_perplexity": 80.0}
    table = comparison_tables(found)
    assert "| n-gram judge perplexity, at entropy 4.78; steps: | 8 | 64 |" in table
    first, second = 20.0, 5 * 4**0.78
    spread = abs(first - second) / 2**0.5
    row = f"{(first + second) / 2:.1f} ± {spread:.1f}"  # in 8 steps there is one temperature, of more entropy
    assert f"| modern | 20.0 ± 0.0 * | {row} |" in table  # which a star says
    assert f"| masked, reading | 20.0 * | {80 * 0.25**0.56:.1f} |" in table
    assert "| read backwards, at entropy 4.78" in table
    assert "| masked, reading | 0.100 * | 0.100 |" in table.split("seconds a line, at")[1]
    assert "grammatical" not in table
    masked[1]["entropy"] = 4.9  # above 4.78 at every temperature
    assert "| masked, reading | 20.0 * | 80.0 * |" in comparison_tables(found)
    masked[2]["entropy"] = 4.7  # below it
    assert "| n-gram judge perplexity, at entropy 4.70; steps: | 8 | 64 |" in comparison_tables(found)
    for run in found["runs"].values():
        run["points"][2]["steps"] = 2  # so few need not be as varied
    assert "| n-gram judge perplexity, at entropy 4.78; steps: | 2 | 64 |" in comparison_tables(found)
    assert "| masked, reading |  | 80.0 * |" in comparison_tables(found)
    found["runs"]["modern-1"]["points"][2]["entropy"] = 4.7  # one of two seeds: no mean of the other
    assert f"| modern |  | {row} |" in comparison_tables(found)


def test_an_order_that_gives_little_variety_does_not_lower_what_is_compared():
    found = results(modern_0=3.0, masked_0=2.5)
    points = found["runs"]["masked-0"]["points"]
    found["runs"]["masked-0"]["points"] = [
        point | {"order": order, "entropy": point["entropy"] - less}
        for order, less in (("random", 0.0), ("confidence", 1.0))
        for point in points
    ]
    table = comparison_tables(found).split("n-gram judge perplexity, at entropy ")[1]
    assert table.startswith("5.00;")  # of held-out text, which random order reaches
    assert "| masked, confidence |  |  |" in table


def test_contenders_whose_names_begin_alike_are_two():
    found = results(modern_0=3.0, masked_0=3.0)
    runs = found["runs"]
    found["runs"] = {"dropout=0-0": runs["modern-0"], "dropout=0,layers=3-0": runs["masked-0"]}
    runs["masked-0"]["points"][0]["entropy"] = 4.78  # the highest that the second reaches
    assert "| n-gram judge perplexity, at entropy 4.78; steps:" in comparison_tables(found)


def test_of_the_toy_language_the_grammatical_share_is_compared():
    found = results(modern_0=3.0)
    points = found["runs"]["modern-0"]["points"]
    found["lines"]["held-out text"] = METRICS | {"grammatical": 1.0}
    for each, share in zip(points, (0.8, 0.9, 0.1), strict=True):
        each["grammatical"] = share
    points[0]["entropy"] = 5.5  # held-out text has 5.0
    share = 0.9 - 0.1 * (5.0 - 4.0) / 1.5
    _, table = comparison_tables(found).split("| grammatical, at entropy 5.00; steps:")
    assert f"| modern | 0.100 | {share:.3f} |" in table


def test_what_is_said_of_training_holds_for_every_objective(toy_run, tmp_path):
    """Cross-entropy is of noised tokens, masked ones or next ones: no title says which."""
    baseline = tmp_path / "baseline"
    baseline.mkdir()
    shutil.copy(toy_run / "metrics.jsonl", baseline)
    one, both = training_figure([toy_run], entropy=1.5), training_figure([toy_run, baseline])
    one.savefig(tmp_path / "loss.png")
    axes = {axis.get_title(): axis for axis in both.axes}
    assert {axis.get_title() for axis in one.axes} == set(axes)
    assert not any("noise" in title for title in axes)
    own = [title for title in axes if title.endswith("in its own training task")]
    assert [title.split()[0] for title in own] == ["cross-entropy", "accuracy"]
    assert len(axes[own[0]].containers) == 2


def test_curves_are_drawn_against_steps(toy_run):
    lines = (toy_run / "metrics.jsonl").read_text().splitlines()
    steps = {json.loads(line)["step"] for line in lines}
    for axis in training_figure([toy_run]).axes:
        assert axis.get_xlabel() == "steps"
        assert {x for line in axis.lines for x in line.get_xdata()} <= steps


def test_a_run_that_was_never_validated_has_curves_all_the_same(toy_run, tmp_path):
    lines = (toy_run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(line for line in lines if '"kind": "train"' in line))
    figure = training_figure([tmp_path])
    figure.savefig(tmp_path / "loss.png")  # a warning would be an error here
    assert figure.axes[0].get_legend() is None
