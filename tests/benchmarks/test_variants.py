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
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.loss import Draws, diffusion_loss
from simple_diffusion_lm.core.train import MODELS, Diffusion, train
from simple_diffusion_lm.runs.config import check, with_settings
from simple_diffusion_lm.runs.run import begin, make_batches

V, L = 30, 7
VARIANTS = [
    {"objective": "pure_noise"},
    {"objective": "bound", "mse_weight": 1.0},
    {"objective": "two_draws"},
    {"objective": "told_level"},
    {"objective": "tied"},
]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variants are models here, and not in the tests of others."""
    for name, variant in variants.VARIANTS.items():
        monkeypatch.setitem(MODELS, name, variant)


@pytest.mark.parametrize("name", [name for names in ABLATIONS.values() for name in names])
def test_an_ablation_is_a_setting_that_can_be_trained(name: str) -> None:
    changed = with_settings(Config(steps=1), variants.settings_of(name))
    check(changed)
    assert changed != Config(steps=1) or name == "stagger=8"  # the recipe's own
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


def gradient(kind: type[Diffusion], t: float, **changes: Any) -> Tensor:
    """Of the loss, where all texts are at one time."""
    torch.manual_seed(0)
    model = kind(small(Config(), self_cond_rate=0.0, **changes), V)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    batch, draws = texts(t)
    diffusion_loss(model, batch, draws).total.backward()
    assert model.embedding.weight.grad is not None
    return model.embedding.weight.grad


def texts(t: float) -> tuple[Batch, Draws]:
    ids, number = torch.randint(V, (4, L), generator=torch.Generator().manual_seed(1)), torch.arange(4)
    text = torch.ones(4, L, dtype=torch.bool)
    return Batch(ids, text, ~text, number, number / 4), Draws(torch.full((4,), t), number)


def test_pure_noise_weighs_less_and_the_rest_the_same() -> None:
    pure, moving = ((gradient(variants.PureNoise, t), gradient(Diffusion, t)) for t in (1.0, 0.1))
    torch.testing.assert_close(pure[0], 0.3 * pure[1])
    assert moving[1].abs().max() > 0
    torch.testing.assert_close(
        *(gradient(kind, 0.5, stagger=0.0) for kind in (variants.PureNoise, Diffusion))
    )


def test_the_weighed_mse_is_the_integrand_of_the_bound() -> None:
    """The slope of the schedule by differentiation; it is taken along lines."""
    t = torch.tensor(0.4, requires_grad=True)
    settings = {"stagger": 0.0, "mse_weight": 1.0, "ce_weight": 0.0}
    schedule = Diffusion(small(Config()), V).schedule
    log_snr = schedule(t).log_snr
    (slope,) = torch.autograd.grad(log_snr, t)
    weight = -0.5 * log_snr.detach().exp() * slope * small(Config()).embedding_dim
    expected = weight * gradient(Diffusion, 0.4, **settings)
    found = gradient(variants.BoundIntegrand, 0.4, **settings)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-4 * expected.abs().max().item())


def test_a_tied_head_is_the_table() -> None:
    model = variants.Tied(small(Config()), V)
    torch.nn.init.normal_(model.project.weight)
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(model.head(hidden), model.project(hidden) @ model.embedding.table.T)
    plain = Diffusion(replace(model.config), V)
    count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert count == 32 * 16 - 32 * V
