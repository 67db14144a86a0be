import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import small

from simple_diffusion_lm.baselines import MODELS
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.runs.compiling import compile_layers
from simple_diffusion_lm.runs.config import RECIPES, with_objective

# torch's own, of what its compiler imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PATH = {"PYTHONPATH": str(Path(__file__).parent.parent)}  # of small_models
V = 23


def model_of(config):
    torch.manual_seed(0)
    return MODELS[config.objective](config, V)


def losses(model):
    ids = torch.randint(V, (3, 8), generator=torch.Generator().manual_seed(1))
    everywhere, number = torch.ones_like(ids, dtype=torch.bool), torch.arange(3)
    batch = Batch(ids, everywhere, ~everywhere, number, number / 3)
    found = model.loss(batch, Draws.of(batch, seed=0, step=0))
    found.total.backward()
    return found, [p.grad for p in model.parameters()]


@pytest.mark.parametrize(("minutes", "compile", "expected"), [(9.0, None, False), (20.0, False, False)])
def test_short_budgets_and_those_who_decline_do_without(minutes, compile, expected):
    config = small(Config(), minutes=minutes, compile=compile)
    assert compile_layers(config, model_of(config)) is expected


def test_without_a_compiler_one_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = small(Config(), minutes=20.0, model_dim=20)
    model, plain = model_of(config), model_of(config)
    assert not compile_layers(config, model)
    assert capsys.readouterr().err.count("\n") == 1
    torch.testing.assert_close(losses(model), losses(plain), atol=0, rtol=0)


CONFIGS = {**RECIPES, "masked": with_objective(Config(), "masked")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_compiled_layers_have_the_same_losses_and_gradients(name):
    """In a process of its own: what checks shapes in tests is not to be compiled."""
    subprocess.run([sys.executable, __file__, name], check=True, env={**os.environ, **PATH})


def compare(name):
    config = small(CONFIGS[name], minutes=20.0)
    model, plain = model_of(config), model_of(config)
    names = list(model.state_dict())
    assert compile_layers(config, model)
    assert list(model.state_dict()) == names
    first = losses(model)
    torch.testing.assert_close(first, losses(plain), atol=1e-5, rtol=1e-4)
    again = model_of(config)
    assert compile_layers(config, again)
    torch.testing.assert_close(first, losses(again), atol=0, rtol=0)


if __name__ == "__main__":
    compare(sys.argv[1])


def test_a_network_of_ones_own_has_no_layers_to_compile(capsys):
    model = model_of(small(Config(), minutes=20.0))
    model.transformer = torch.nn.Identity()
    assert not compile_layers(model.config, model)
    assert not capsys.readouterr().err
