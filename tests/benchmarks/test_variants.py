"""Each ablation is a configuration, each variant learns something else; what is exact is exact."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import variants
from ablations import ABLATIONS
from small_models import small
from torch import Tensor

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.train import MODELS, Diffusion, train
from simple_diffusion_lm.runs.config import check, with_settings
from simple_diffusion_lm.runs.run import begin, make_batches

V = 30
VARIANTS = [{"objective": "tied"}]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variants are models here, and not in the tests of others."""
    for name, variant in variants.VARIANTS.items():
        monkeypatch.setitem(MODELS, name, variant)


@pytest.mark.parametrize("name", [name for names in ABLATIONS.values() for name in names])
def test_an_ablation_is_a_setting_that_can_be_trained(name: str) -> None:
    changed = with_settings(Config(steps=1), variants.settings_of(name))
    check(changed)
    assert changed != Config(steps=1)
    MODELS[changed.objective](changed, V)


def learned(data: Any, **changes: Any) -> Tensor:
    """The weights after a few steps, some of them with self-conditioning."""
    config = small(Config(steps=4), warmup_steps=1, **changes)
    state = begin(config, data)
    for _ in train(config, state, make_batches(config, data, data.train, masks=True)):
        pass
    return torch.cat([tensor.detach().flatten() for tensor in state.model.parameters()])


@pytest.fixture(scope="module")
def plain(toy_data: Any) -> Tensor:
    return learned(toy_data)


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: next(iter(changes.values())))
def test_a_variant_learns_something_else(changes: dict[str, Any], toy_data: Any, plain: Tensor) -> None:
    changed = learned(toy_data, **changes)
    assert changed.isfinite().all()
    assert len(changed) != len(plain) or (changed - plain).abs().max() > 1e-6


def test_a_tied_head_is_the_table() -> None:
    model = variants.Tied(small(Config()), V)
    torch.nn.init.normal_(model.project.weight)
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(model.head(hidden), model.project(hidden) @ model.embedding.table.T)
    plain = Diffusion(replace(model.config), V)
    count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert count == 32 * 16 - 32 * V
