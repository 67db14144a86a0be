"""What several tests share: one thread, small models, and one real run on the toy language."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"
# What a shell starts in the background ignores Ctrl-C, and so do its processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# Not by --jaxtyping-packages, which in older versions comes after this file.
install_import_hook("simple_diffusion_lm", "typechecker.check")
settings.register_profile("no deadline", deadline=None)  # other work takes any time from a test
settings.load_profile("no deadline")

from small_models import small

from simple_diffusion_lm.core.train import Config
from simple_diffusion_lm.corpus.prepare import Prepared, prepare
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.tasks.toy import ToyLanguage


@pytest.fixture(scope="session")
def toy_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.txt"
    path.write_text("\n".join(ToyLanguage().lines(400, seed=0)) + "\n")
    return path


@pytest.fixture(scope="session")
def toy_data(toy_text: Path) -> Prepared:
    return prepare([toy_text], toy_text.parent / "prepared", vocab_size=300, quiet=True)


@pytest.fixture(scope="session")
def toy_run(toy_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps: nothing learnt, everything in place."""
    run = tmp_path_factory.mktemp("runs") / "run"
    run_training(small(Config(), steps=6, samples=1), toy_data, run, quiet=True)
    return run
