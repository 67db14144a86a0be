"""A tracker has what metrics.jsonl has, in one run however often it was resumed; read from its own files."""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from several import on_processes
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.corpus.prepare import open_prepared
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.log import TRACKERS, read_metrics, tracking
from simple_diffusion_lm.runs.run import run_training

Found = dict[tuple[str, int], float]  # a number by its name and step
STEPS, HALF = 40, 20
TRAIN = """
import sys
from pathlib import Path
from test_tracking import tracked_training
tracked_training(*map(Path, sys.argv[1:3]), sys.argv[3])
"""
TWICE = """
from pathlib import Path
from simple_diffusion_lm.runs.log import tracking
for _ in range(2):
    with tracking("trackio", Path("run"), {}, 0) as track:
        track({"x": 1.0}, 1)
"""


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


def tracked_training(data: Path, run: Path, name: str) -> None:
    config = small(Config(), steps=STEPS, samples=0, validate_every=HALF, save_every=HALF)
    run_training(config, open_prepared(data), run, quiet=True, tracker=name)


def train(data: Path, run: Path, name: str, home: Path) -> None:
    """In a process of its own, since trackers leave threads and processes behind."""
    environment = {**os.environ, "HOME": str(home), "WANDB_MODE": "offline"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    command = [sys.executable, "-c", TRAIN, str(data), str(run), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def tensorboard(run: Path) -> tuple[Found, dict[str, object]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert all(len(some) == len({each.step for each in some}) for some in scalars.values())
    config = json.loads(events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0])
    return {(tag, each.step): each.value for tag, some in scalars.items() for each in some}, config


def trackio(run: Path) -> tuple[Found, dict[str, object]]:
    (path,) = run.parent.rglob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("select run_id, step, metrics from metrics").fetchall()
        ((config,),) = database.execute("select config from configs").fetchall()
    database.close()
    assert len({each[0] for each in rows}) == 1
    numbers = {(name, step): x for _, step, some in rows for name, x in json.loads(some).items()}
    return numbers, json.loads(config)


def wandb(run: Path) -> tuple[Found, dict[str, object]]:
    from wandb.proto.wandb_internal_pb2 import Record

    numbers, names, config = Found(), set(), {}
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        names.add(file.name)
        for content in log_records(file.read_bytes()):
            record = Record.FromString(content)
            for change in record.run.config.update:
                config[change.key] = json.loads(change.value_json)
            items = {(each.key or each.nested_key[0]): each.value_json for each in record.history.item}
            numbers |= {(name, record.history.step.num): float(x) for name, x in items.items() if "/" in name}
    assert len(names) == 1
    return numbers, config


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after a header of 7 bytes."""
    at, parts = 7, b""
    while at < len(content):
        if 2**15 - at % 2**15 < 7:  # too little of a block is left for a record
            at += 2**15 - at % 2**15
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


READERS = {"trackio": trackio, "wandb": wandb, "tensorboard": tensorboard}


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in TRACKERS])
def test_what_is_tracked_is_what_metrics_jsonl_has(name, toy_data, tmp_path):
    run = tmp_path / "läuft hier"
    train(toy_data.directory, run, name, tmp_path)
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS}")  # as if it had been killed before
    train(toy_data.directory, run, name, tmp_path)
    found, config = READERS[name](run)
    expected = {
        (f"{kind}/{key}", record["step"]): value
        for kind in ("train", "valid")
        for record in read_metrics(run, kind)
        for key, value in record.items()
        if key not in ("kind", "step")
    }
    assert {("train/ce", 1), ("train/ce", STEPS), ("valid/bound", STEPS)} <= set(expected)
    clock = ("train/seconds", "valid/seconds", "train/tokens_per_second")  # of either of the two
    assert {k: x for k, x in found.items() if k[0] not in clock} == pytest.approx(
        {k: x for k, x in expected.items() if k[0] not in clock}
    )
    assert set(found) == set(expected)
    assert config["steps"] == STEPS
    assert config["optimizer"] == "muon"


@needs("trackio")
def test_a_run_that_begins_anew_is_another_one(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path)}
    (tmp_path / "run").mkdir()
    subprocess.run([sys.executable, "-c", TWICE], env=environment, cwd=tmp_path, check=True)
    (path,) = tmp_path.rglob("*.db")
    with sqlite3.connect(path) as database:
        names = {each for (each,) in database.execute("select run_name from metrics")}
    database.close()
    assert len(names) == 2
    assert all(name.startswith("run-") for name in names)


@needs("tensorboard")
def test_one_of_several_processes_tracks(toy_data, tmp_path):
    on_processes(2, tracked_training, toy_data.directory, tmp_path / "run", "tensorboard")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert ("train/ce", 1) in tensorboard(tmp_path / "run")[0]


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_missing_is_said_before_anything_is_done(name, toy_text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, TRACKERS[name], None)
    with pytest.raises(UserError, match=f"--log {name} needs {name}: pip install '{name}'"):
        tracking(name, tmp_path, {}, 0).__enter__()
    assert list(tmp_path.iterdir()) == []


@needs("wandb")
def test_what_a_tracker_refuses_is_one_line(toy_data, tmp_path):
    command = [sys.executable, "-m", "simple_diffusion_lm", "train", str(toy_data.directory), "--steps", "1"]
    command += ["--out", str(tmp_path / "run"), "--log", "wandb"]
    environment = {**os.environ, "HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_API_KEY": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("sdlm: wandb: cannot log there (")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
