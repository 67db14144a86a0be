"""Every example runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

from simple_diffusion_lm.core.noise import SCHEDULES

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = {"quickstart.py": 6, "new_schedule.py": len(SCHEDULES) + 4, "steering.py": 12}  # that each prints


def test_every_example_is_tested():
    others = {path.name for path in EXAMPLES.glob("minimal*.py")}  # tests/test_minimal.py
    assert {path.name for path in EXAMPLES.glob("*.py")} - others == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_example_runs(name, toy_run, tmp_path):
    arguments = {"quickstart.py": [tmp_path, "3"], "new_schedule.py": [], "steering.py": [toy_run, "goats"]}
    command = [sys.executable, EXAMPLES / name, *arguments[name]]
    done = subprocess.run(map(str, command), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == LINES[name]
