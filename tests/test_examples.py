"""Every example runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
LINES = {"quickstart.py": 6, "new_schedule.py": 7, "steering.py": 12}  # that each prints


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_example_runs(name, toy_run, tmp_path):
    arguments = {
        "quickstart.py": [tmp_path, "3"],
        "new_schedule.py": [],
        "steering.py": [toy_run, "goats"],
    }
    command = [sys.executable, EXAMPLES / name, *arguments[name]]
    done = subprocess.run(map(str, command), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == LINES[name]
