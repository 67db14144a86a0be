"""examples/minimal.py is the core in small: with its weights it has the same noise, loss and sample."""

import difflib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_models import small

from simple_diffusion_lm.core import Config, loss
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Group, Sampling
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.noise import make_keys, normal
from simple_diffusion_lm.core.train import Diffusion

EXAMPLES = Path(__file__).parent.parent / "examples"
V, B, L = 30, 4, 7


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    return load("minimal")


@pytest.fixture
def both(minimal):
    """A core model, and minimal.py's with the same weights."""
    torch.manual_seed(0)
    config = small(
        Config(),
        embedding_dim=minimal.D,
        model_dim=minimal.M,
        layers=minimal.LAYERS,
        heads=minimal.HEADS,
        width=0,
        bell_times=False,
        late_given=False,
    )
    core = Diffusion(config, V)
    core.start_from_counts(torch.arange(V))
    torch.nn.init.normal_(core.head.weight, std=0.3)
    mean, _, previous = torch.arange(3 * minimal.D).chunk(3)  # there are no given tokens
    small_one = minimal.Denoiser(torch.arange(V).float())
    weights = {
        name.replace("transformer.", "").replace("attention.", ""): weight
        for name, weight in core.state_dict().items()
    }
    weights["project.weight"] = weights["project.weight"][:, torch.cat([mean, previous])]
    small_one.load_state_dict(weights)
    return core.eval(), small_one.eval()


def texts() -> Batch:
    torch.manual_seed(1)
    length_mask = torch.arange(L) < torch.tensor([7, 5, 6, 4])[:, None]
    number = torch.arange(B)
    return Batch(torch.randint(V, (B, L)), length_mask, torch.zeros_like(length_mask), number, number / B)


@pytest.mark.parametrize("self_conditioned", [False, True])
def test_the_loss_is_the_cores(minimal, both, self_conditioned, monkeypatch):
    """But for the noise that the core's first prediction has more than the second."""
    core, small_one = both
    previous_pass = loss.previous_pass
    monkeypatch.setattr(loss, "previous_pass", lambda keys, t, rate: (previous_pass(keys, t, rate)[0], t))
    batch = texts()
    draws = Draws.of(batch, 0, 0)
    object.__setattr__(core.config, "self_cond_rate", float(self_conditioned))
    eps = normal(draws.keys, L, minimal.D)
    mine = minimal.loss(small_one, batch.ids, batch.length_mask, draws.t, eps, self_conditioned)
    torch.testing.assert_close(mine, core.loss(batch, draws).total, atol=1e-5, rtol=1e-5)


def test_the_sample_is_the_cores(minimal, both):
    core, small_one = both
    batch = texts()
    batch = batch._replace(length_mask=torch.ones_like(batch.length_mask))
    keys = make_keys(5, batch.number)
    sampling = Sampling(steps=minimal.PASSES, sampler="renoise", temperature=minimal.TEMPERATURE)
    *_, last = core.sample(Group(batch, keys), sampling)
    number = iter(range(10**6))
    noise = lambda *shape: normal(make_keys(keys, next(number)), *shape[1:])  # noqa: E731
    found = minimal.sample(small_one, B, L, noise)
    assert (found == last.ids).float().mean() > 0.95  # a tie within rounding may fall otherwise


def test_both_files_are_short_and_nearly_the_same():
    files = [(EXAMPLES / f"{n}.py").read_text().splitlines() for n in ("minimal", "minimal_autoregressive")]
    assert all(len(lines) <= 300 for lines in files)
    changed = [line for line in difflib.unified_diff(*files, n=0, lineterm="") if line[0] in "+-"]
    assert len(changed) < 120


@pytest.mark.parametrize("name", ["minimal", "minimal_autoregressive"])
def test_a_file_runs_alone_on_ones_own_lines(name, tmp_path):
    """It needs torch and nothing of ours; here with a budget that fits a test."""
    path = tmp_path / "lines.txt"
    path.write_text("the cat sat down .\nthe dog ran away .\n" * 40)
    code = (EXAMPLES / f"{name}.py").read_text()
    code = code.replace("STEPS, BATCH, RATE = 800", "STEPS, BATCH, RATE = 8")
    assert "simple_diffusion_lm" not in code
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, "-I", str(tmp_path / "run.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "80 lines, 8 words" in done.stdout
    assert len(done.stdout.split("samples:")[1].split("\n    ")) == 9
