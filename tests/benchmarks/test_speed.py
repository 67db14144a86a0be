"""FLOPs as they are counted, against arithmetic by hand; the settings of a GPU."""

from typing import Any

import pytest
import speed
import torch
from small_models import small
from speed import Training

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.runs.config import with_objective


def test_flops_are_those_of_the_text_without_padding(toy_data: Any) -> None:
    """Of the autoregressive model by hand: every product forward, then to its weights and its inputs."""
    training = Training(small(with_objective(Config(), "autoregressive"), batch_tokens=4096), toy_data)
    lengths = torch.from_numpy(training.batches.lengths())
    order = sorted(training.batches.order(0), key=lambda numbers: lengths[numbers].float().mean())
    lengths = lengths[order[len(order) // 2]]
    assert len(lengths.unique()) > 1
    m, d, layers = (getattr(training.config, name) for name in ("model_dim", "embedding_dim", "layers"))
    count = int(lengths.sum())
    total = 3 * count * 2 * m * len(toy_data.tokenizer)
    for length in lengths.tolist():
        token = 2 * d * m + layers * 2 * (3 + 1 + 4 + 4) * m**2
        total += 3 * (length * token + layers * 2 * 2 * length**2 * m)
    assert training.flops() * count == pytest.approx(total, rel=1e-12)


def test_counting_leaves_training_where_it_was(toy_data: Any) -> None:
    one, other = (Training(small(Config()), toy_data) for _ in range(2))
    one.flops()
    assert [one.step() for _ in range(3)] == [other.step() for _ in range(3)]
    for mine, its in zip(one.state.model.parameters(), other.state.model.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_row_of_a_gpu_that_cannot_be_measured_says_why(
    toy_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(speed, "BATCH_TOKENS", (128, 256, 512))
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(speed, "compile_layers", cannot)
    precision = torch.get_float32_matmul_precision()
    rows = dict(speed.measure_on_gpu({speed.LINE: toy_data, speed.WINDOW: toy_data}, ["smoke"]))
    torch.set_float32_matmul_precision(precision)
    assert len(rows) == 9
    for setting, row in rows.items():
        if "compiled" in setting:
            assert row == {"left_out": "RuntimeError: no compiler"}
        else:
            assert row["modern"]["tokens_per_second"]["median"] > 0
