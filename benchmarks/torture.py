"""Faults, one after the other, and what becomes of the work: kills, full disks, bad input.

    python benchmarks/torture.py [--quick] [--only C N] [--out torture.json]

Each row injects one fault into real commands in processes of their own, and passes if nothing is lost and
what is said is one line. C, N, R, O, P and M are in torture_runs.py, S in torture_server.py, the others in
torture_input.py. E2 needs huggingface_hub.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import measure
import torture_input
import torture_runs
import torture_server
import tyro
from torture_bench import Bench, Row

from simple_diffusion_lm.cli.exits import exit_cleanly

ROWS: dict[str, Row] = {**torture_runs.ROWS, **torture_input.ROWS, **torture_server.ROWS}


def put_to(row: Row, bench: Bench, name: str) -> dict[str, object]:
    """One fault: whether it passed, what there is to say, and how long it took."""
    began = time.monotonic()
    try:
        passed, note = True, row(bench.room(name))
    except Exception as fault:  # AssertionError, or of the row itself: the others are run all the same
        passed, note = False, f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    seconds = round(time.monotonic() - began, 1)
    what = " ".join((row.__doc__ or "").split()).rstrip(".")
    print(f"{'pass' if passed else 'FAIL'}  {name:4} {what}: {note}  ({seconds:.0f} s)", flush=True)
    return {"fault": what, "passed": passed, "note": note, "seconds": seconds}


@dataclass(kw_only=True)
class Torture:
    """Runs the table and prints it, row by row."""

    out: Path = Path("torture.json")  # where the results go
    only: tuple[str, ...] = ()  # rows (C1) or kinds of rows (C)
    quick: bool = False  # fewer repetitions of each
    served: Path | None = None  # the run that the server's rows serve; by default a small one

    def __call__(self) -> None:
        wanted = set(self.only or ROWS)
        chosen = {name: row for name, row in ROWS.items() if wanted & {name, name.rstrip("0123456789")}}
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench.at(Path(directory), quick=self.quick, served=self.served)
            results = {name: put_to(row, bench, name) for name, row in chosen.items()}
        measure.write_results(self.out, {**measure.about(), "rows": results})
        passed = sum(bool(each["passed"]) for each in results.values())
        print(f"\n{passed} of {len(results)} pass")
        if passed < len(results):
            sys.exit(1)


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Torture)())
