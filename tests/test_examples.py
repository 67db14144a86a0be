"""Every example runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"quickstart.py", "new_schedule.py"}


@pytest.mark.parametrize(("name", "lines"), [("quickstart.py", 6), ("new_schedule.py", 7)])
def test_example_runs(name, lines, tmp_path):
    arguments = [str(tmp_path), "3"] if name == "quickstart.py" else []
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == lines
