"""What other machines lack or have, taken away or put there: each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simple_diffusion_lm.devices.processes import keep_to_quota, pick_device, use_device

WINDOWS = """
import os, signal, sys
sys.modules["fcntl"] = None
del signal.SIGUSR1
real = os.open
def no_directories(path, flags, *args, **named):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real(path, flags, *args, **named)
os.open = no_directories
"""
NO_LOCKS = """
import errno, fcntl
def flock(handle, operation):
    raise OSError(errno.{0}, "refused")
fcntl.flock = flock
"""
NO_DIRECTORY_SYNC = """
import errno, os, stat
real = os.fsync
def fsync(handle):
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        raise OSError(errno.{0}, "refused")
    return real(handle)
os.fsync = fsync
"""
SMALL = ["--model-dim=32", "--layers=1", "--heads=2", "--embedding-dim=16", "--batch-tokens=512"]


def sdlm(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "simple_diffusion_lm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


LACKS = {
    "windows": WINDOWS,
    **{f"flock, {fault}": NO_LOCKS.replace("{0}", fault) for fault in ("ENOSYS", "ENOLCK")},
    **{f"fsync, {fault}": NO_DIRECTORY_SYNC.replace("{0}", fault) for fault in ("EINVAL", "EBADF")},
}


@pytest.mark.parametrize("machine", LACKS.values(), ids=LACKS)
def test_training_and_writing_do_without(machine, toy_text, tmp_path):
    (tmp_path / "lacks").mkdir()
    (tmp_path / "lacks" / "sitecustomize.py").write_text(machine)
    lacks, run = {"PYTHONPATH": str(tmp_path / "lacks")}, tmp_path / "run"
    train = ["train", toy_text, "--out", run, "--steps", "2", "--vocab-size", "300", *SMALL]
    for _ in range(2):  # the second time it is resumed
        done = sdlm(*train, **lacks)
        assert done.returncode == 0, done.stderr.decode()
    written = sdlm("generate", run, "--count", "2", "--steps", "2", **lacks)
    assert written.returncode == 0, written.stderr.decode()
    assert len(written.stdout.decode().splitlines()) == 2


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_text_is_written_as_utf8_whatever_the_terminals_encoding(encoding, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("ведро воды стоит .\n" * 150, encoding="utf-8")
    run = tmp_path / "run"
    done = sdlm("train", text, "--out", run, "--steps", "2", *SMALL, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr.decode()
    filled = sdlm(
        "infill", run, "ведро ___ .", "--steps", "2", "--candidates", "1", PYTHONIOENCODING=encoding
    )
    assert filled.stdout.decode("utf-8").startswith("ведро ")
    measured = sdlm("evaluate", run, "--samples", "0", "--data", text, PYTHONIOENCODING=encoding)
    assert "±" in measured.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 3),
        ({"cpu.max": "800000 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({}, 3),
    ],
)
def test_threads_keep_to_a_containers_quota(files, threads, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        keep_to_quota(tmp_path)
        assert torch.get_num_threads() == threads
        monkeypatch.setenv("OMP_NUM_THREADS", "3")  # said by hand
        torch.set_num_threads(3)
        keep_to_quota(tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_quota_is_kept_before_anything_computes():
    """From Python too, and whatever the device."""
    python = """
import pathlib
import torch
torch.set_num_threads(3)
read, exists = pathlib.Path.read_text, pathlib.Path.exists
pathlib.Path.exists = lambda path: path.name == "cpu.max" or exists(path)
pathlib.Path.read_text = lambda path, **a: "100000 100000" if path.name == "cpu.max" else read(path, **a)
from simple_diffusion_lm import DiffusionLM
print(torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, env=environment, text=True)
    assert done.stdout == "1\n", done.stderr


def test_the_device_can_be_chosen():
    for name, code in (("cpu", 0), ("nonsense", 2), ("meta", 2)):
        done = sdlm("generate", "toy", "--count", "1", "--steps", "2", "--device", name)
        assert done.returncode == code
        if code:
            assert done.stderr.decode().splitlines()[-1].startswith(f"sdlm: device {name}: ")
    use_device("cpu")
    assert pick_device() == torch.device("cpu")
    use_device(None)
