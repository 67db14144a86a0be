"""A run on several processes is the same run: on 2 and 4 of them, with gloo, on one machine."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from several import environment, free_port, on_processes
from small_models import small, tensors

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.train import NonFinite
from simple_diffusion_lm.corpus.prepare import open_prepared
from simple_diffusion_lm.devices.distributed import divided_loss
from simple_diffusion_lm.devices.processes import joined, world
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs import checkpoint
from simple_diffusion_lm.runs.config import RECIPES, with_objective
from simple_diffusion_lm.runs.distil import distil
from simple_diffusion_lm.runs.run import begin, make_batches, run_training
from simple_diffusion_lm.runs.signals import Stop


def train(config, data, run, pause_at=math.inf):
    """One process's part of a run; what ended it, if anything did."""
    try:
        run_training(config, open_prepared(data), run, quiet=True, pause_at=pause_at)
    except (UserError, NonFinite, Stop) as error:
        return type(error).__name__, str(error)
    return None


def metrics(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if "second" not in k} for r in records]


def assert_same(run, other, tolerance=3e-3):
    """The same numbers told, and the same checkpoint, relative to each tensor's largest entry."""
    told, otherwise = metrics(run), metrics(other)
    assert len(told) == len(otherwise)
    for mine, others in zip(told, otherwise, strict=True):
        assert mine.pop("kind") == others.pop("kind")
        assert mine == pytest.approx(others, rel=1e-4, abs=1e-6)
    assert (run / "samples.txt").read_text() == (other / "samples.txt").read_text()
    first, second = tensors(run), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        largest = tensor.abs().max().item()
        assert (second[name] - tensor).abs().max().item() <= tolerance * largest + 1e-9, name


def adamw(recipe, **changes):
    """Muon orthogonalises in bfloat16: it makes much of a gradient's last digit."""
    return small(recipe, optimizer="adamw", steps=4, samples=3, validate_every=3, **changes)


# Three examples to a batch: with four processes one has none.
CASES = {
    "modern": (adamw(Config()), 2),
    "modern, one idle": (adamw(Config(), batch_size=3, accumulate=2), 4),
    "original": (adamw(RECIPES["original"]), 2),
    "masked": (adamw(with_objective(Config(), "masked")), 2),
    "masked, one idle": (adamw(with_objective(Config(), "masked"), batch_size=3), 4),
    "autoregressive": (adamw(with_objective(Config(), "autoregressive")), 2),
}


@pytest.fixture(scope="module")
def alone(toy_data, tmp_path_factory):
    """The run of one process with a configuration."""
    runs = {}

    def run_of(config):
        if config not in runs:
            runs[config] = tmp_path_factory.mktemp("alone") / "run"
            on_processes(1, train, config, toy_data.directory, runs[config])
        return runs[config]

    return run_of


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_processes_is_the_same_run(name, alone, toy_data, tmp_path):
    config, count = CASES[name]
    assert on_processes(count, train, config, toy_data.directory, tmp_path) == [None] * count
    assert_same(alone(config), tmp_path)


def teach(teacher, data, run):
    """One process's part of a distillation."""
    distil(teacher, open_prepared(data), run, {"optimizer": "adamw", "steps": 4, "samples": 3}, quiet=True)


def test_a_student_is_the_same_too(toy_run, toy_data, tmp_path):
    """With its critic: both are divided among the processes."""
    for count in (1, 2):
        on_processes(count, teach, toy_run, toy_data.directory, tmp_path / str(count))
    assert_same(tmp_path / "1", tmp_path / "2")


def test_a_run_goes_on_with_another_number_of_processes(alone, toy_data, tmp_path):
    """A step by two, then by one, by two, and by one again."""
    config, data = adamw(Config()), toy_data.directory
    for count in (2, 1, 2):
        assert on_processes(count, train, config, data, tmp_path, 1e-9) == [None] * count
    on_processes(1, train, config, data, tmp_path)
    first, last = tensors(alone(config)), tensors(tmp_path)
    for name, tensor in first.items():
        assert torch.allclose(tensor, last[name], rtol=1e-2, atol=1e-4), name


def train_and_stop(config, data, run):
    """Process 1 is sent a signal while it trains."""
    if os.environ["RANK"] == "1":

        def stop():
            while not (run / "metrics.jsonl").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=stop, daemon=True).start()
    return train(config, data, run)


def test_a_signal_to_one_stops_all_at_the_same_step(toy_data, tmp_path):
    config = replace(adamw(Config()), steps=100_000, validate_every=100_000)
    ends = on_processes(2, train_and_stop, config, toy_data.directory, tmp_path)
    assert ends == [("Stop", "SIGTERM")] * 2
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert saved.name == f"step-{checkpoint.newest(tmp_path).manifest['progress']['step']}"


def test_a_broken_number_stops_all(alone, toy_data, tmp_path):
    config, data = adamw(Config()), toy_data.directory
    on_processes(1, train, config, data, tmp_path, 1e-9)
    found = checkpoint.newest(tmp_path)
    model = found.read(checkpoint.MODEL)
    model["head.weight"][:] = math.nan
    checkpoint.save(
        tmp_path, 1, model, found.read(checkpoint.STATE), {"progress": found.manifest["progress"]}
    )
    ends = on_processes(2, train, config, data, tmp_path)
    assert [kind for kind, _ in ends] == ["NonFinite"] * 2
    assert ends[0][1].startswith("step 2: loss nan")


def test_a_lock_keeps_all_out(toy_data, tmp_path):
    config, data = adamw(Config()), toy_data.directory
    on_processes(1, train, config, data, tmp_path, 1e-9)
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ends = on_processes(2, train, config, data, tmp_path)
    assert ends[0] == ends[1]
    assert ends[0][0] == "UserError"
    assert "another process trains here" in ends[0][1]


def dropped(data):
    """A batch's loss with the same rows on both processes, which differs only by what is dropped."""
    config, prepared = small(Config(), dropout=0.5, cond_rate=0.0), open_prepared(data)
    batches = make_batches(config, prepared, prepared.train)
    state = begin(config, prepared)
    torch.nn.init.normal_(state.model.head.weight)
    loss = divided_loss(state.model, state.model.loss)
    batch = batches.batch(0, batches.order(0)[0])
    torch.manual_seed(0)
    return [part.tolist() for part in loss(batch, Draws.of(batch, 0, 0)).ce.chunk(2)]


def test_each_process_has_a_dropout_of_its_own(toy_data):
    (first, second), again = on_processes(2, dropped, toy_data.directory)
    assert again == [first, second]
    assert first != second


COMMAND = [sys.executable, "-m", "simple_diffusion_lm"]


def test_a_users_error_is_said_once(tmp_path):
    command = [*COMMAND, "train", str(tmp_path / "nothing.txt"), "--out", str(tmp_path / "run")]
    port = free_port()
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **environment(rank, 2, port)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert said[0].startswith("sdlm: ")
    assert "nothing.txt" in said[0]
    assert said[1] == ""


def test_torchrun(toy_text, tmp_path):
    """The command line as users start it, from a text file to lines generated by both."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    sizes = [word for k, v in {**small_sizes(), "samples": 1}.items() for word in (f"--{k}", str(v))]
    run = tmp_path / "run"
    command = [*torchrun, *COMMAND[1:], "train", str(toy_text), "--out", str(run)]
    done = subprocess.run([*command, "--steps", "2", *sizes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trained. Now:") == 1
    assert [m["step"] for m in metrics(run)] == [1, 2]
    assert checkpoint.newest(run).manifest["step"] == 2


def small_sizes():
    config = small(Config())
    return {k: getattr(config, k) for k in ("embedding_dim", "model_dim", "layers", "heads")}


def test_a_rank_alone_is_no_group_of_processes(monkeypatch):
    """Some schedulers set it for every job."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined():
        assert world() == 1
