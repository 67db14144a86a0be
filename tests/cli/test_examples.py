"""Every example runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

from simple_diffusion_lm.core.noise import SCHEDULES

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = {  # that each prints
    "class_labels.py": 16,
    "finetune.py": 8,
    "new_schedule.py": len(SCHEDULES) + 4,
    "own_network.py": 8,
    "quickstart.py": 6,
    "seq2seq.py": 9,
    "steering.py": 12,
}


def test_every_example_is_tested():
    others = {path.name for path in EXAMPLES.glob("minimal*.py")}  # tests/test_minimal.py
    assert {path.name for path in EXAMPLES.glob("*.py")} - others == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_example_runs(name, toy_run, tmp_path):
    short = {
        "class_labels.py": ["3"],
        "finetune.py": ["toy", tmp_path, "3"],
        "steering.py": [toy_run, "goats"],
    }
    short |= {other: [tmp_path, "3"] for other in ("own_network.py", "quickstart.py", "seq2seq.py")}
    command = [sys.executable, EXAMPLES / name, *short.get(name, [])]
    done = subprocess.run(map(str, command), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == LINES[name]
