from dataclasses import asdict, replace

import pytest

from simple_diffusion_lm.evaluation.metrics import Likelihood
from simple_diffusion_lm.evaluation.report import comparison_tables, mean_metrics
from simple_diffusion_lm.evaluation.samples import SampleMetrics

METRICS = SampleMetrics(100, 20.0, 5.0, 0.5, 30.0, 0.01, 12.0, 2.0, 0.0, 0.4, 0.9, None)
LIKELIHOOD = Likelihood(True, 3.0, 36.0, 1.2, 40.0, 0.1, 2.5, 0.1, 0.3, 0.05, 500, 6000, 21600)


def results(**nats):
    progress = {"step": 1000, "tokens": 2_000_000}
    runs = {
        name.replace("_", "-"): {
            "likelihood": asdict(replace(LIKELIHOOD, nats_per_token=value)),
            "progress": progress,
            "points": [
                {"steps": 64, "metrics": asdict(METRICS)},
                {
                    "steps": 64,
                    "metrics": asdict(replace(METRICS, entropy=4.0, judge_perplexity=5.0)),
                },
                {"steps": 8, "metrics": asdict(METRICS)},
            ],
        }
        for name, value in nats.items()
    }
    return {"lines": {"held-out text": asdict(METRICS)}, "runs": runs}


def test_seeds_share_a_row_and_their_spread_is_told():
    table = comparison_tables(results(modern_0=3.0, modern_1=3.2, masked_0=2.5))
    assert "| modern, 2 seeds | <= 3.100 ± 0.141 | <= 1.200 | 2.0 M | 1,000 |" in table
    assert "| masked | <= 2.500 ± 0.050 |" in table
    assert table.count("| modern |") == 2
    assert "grammatical" not in table
    assert "| held-out text | 20.0 | 5.00 |" in table


def test_an_exact_likelihood_has_no_sign():
    exact = replace(LIKELIHOOD, is_bound=False)
    found = results(autoregressive_0=2.0)
    found["runs"]["autoregressive-0"]["likelihood"] = asdict(replace(exact, nats_per_token=2.0))
    assert "| autoregressive | 2.000 ± 0.050 |" in comparison_tables(found)


def test_means_are_figure_by_figure():
    other = replace(METRICS, judge_perplexity=30.0, grammatical=0.5)
    both = mean_metrics([replace(METRICS, grammatical=0.7), other])
    assert both.judge_perplexity == pytest.approx(25.0)
    assert both.grammatical == pytest.approx(0.6)
    assert mean_metrics([METRICS, other]).grammatical is None


def test_perplexities_are_compared_at_one_entropy():
    found = results(modern_0=3.0, masked_0=2.5)
    warm = found["runs"]["masked-0"]["points"][1]["metrics"]
    warm |= {"entropy": 4.5, "judge_perplexity": 80.0}
    found["runs"]["modern-0"]["points"][0]["metrics"]["entropy"] = 4.78
    table = comparison_tables(found)
    assert "at entropy 4.7 | 64 steps |" in table  # eight steps have one temperature only
    assert f"| modern | {5 * 4 ** (0.7 / 0.78):.1f} |" in table
    assert f"| masked | {80 * 0.25**0.4:.1f} |" in table
    warm["entropy"] = 4.9  # above 4.7 at every temperature
    assert "| masked |  |" in comparison_tables(found)
