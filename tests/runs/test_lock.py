import errno
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.run import locked, run_training

HOLD = """
import sys, time
from pathlib import Path
from simple_diffusion_lm.runs.run import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_went(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"another process trains here .*{first.pid}"):
        locked(tmp_path).__enter__()
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".holder").read_text()
        assert (tmp_path / ".lock").read_bytes() == b""  # where it is locked, Windows writes nothing into it
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("fault", [errno.EIO, errno.EMFILE])
def test_only_a_disk_without_locks_is_trained_on_without_one(fault, tmp_path, monkeypatch):
    """Where a lock cannot be had for another reason, another process may hold it."""

    def flock(handle, operation):
        raise OSError(fault, "refused")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="refused"):
        locked(tmp_path)


def test_a_command_that_is_refused_changes_nothing_of_the_run(toy_data, tmp_path):
    run, config = tmp_path / "run", small(Config(), steps=1, samples=0)
    run_training(config, toy_data, run, quiet=True)
    before = (run / "config.json").read_bytes()
    with locked(run), pytest.raises(UserError, match="another process trains here"):
        run_training(replace(config, steps=2), toy_data, run, quiet=True)
    assert (run / "config.json").read_bytes() == before


def test_what_a_kill_left_before_training_is_no_other_run(toy_data, tmp_path):
    """A lock, and the directory in which a corpus was being prepared."""
    (tmp_path / ".corpus-abc").mkdir()
    (tmp_path / ".lock").touch()
    run_training(small(Config(), steps=1, samples=0), toy_data, tmp_path, quiet=True)
    assert (tmp_path / "checkpoints" / "step-1").is_dir()
