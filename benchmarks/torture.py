"""Faults, one after the other, and what becomes of the work: kills, full disks, bad input.

    python benchmarks/torture.py [--quick] [--only C N] [--original CHECKOUT] [--out torture.json]

Each row injects one fault into real commands in processes of their own, and passes if nothing is
lost and what is said is one line. The rows are in torture_runs.py (C: checkpoints and signals, N:
numbers), torture_input.py (D: corpora, T: tokenizers, A: arguments, F: fuzzing),
torture_memory.py (M) and torture_server.py (S). With --original some are also put to a checkout of
the original project.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torture_input
import torture_memory
import torture_original
import torture_runs
import torture_server
import tyro
from torture_bench import Bench, Row

from simple_diffusion_lm.evaluation.compare import machine
from simple_diffusion_lm.exits import exit_cleanly

ROWS: dict[str, Row] = {
    **torture_runs.ROWS, **torture_input.ROWS, **torture_memory.ROWS, **torture_server.ROWS,
}  # fmt: skip


def put_to(row: Row, bench: Bench, name: str) -> dict[str, object]:
    """One fault: whether it passed, what there is to say, and how long it took."""
    began = time.monotonic()
    try:
        passed, note = True, row(bench.room(name)) or ""
    except AssertionError as fault:
        passed, note = False, " ".join(str(fault).split())[:300]
    except Exception as fault:  # of the row itself: the others are run all the same
        passed, note = False, f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    seconds = round(time.monotonic() - began, 1)
    what = " ".join((row.__doc__ or "").split()).rstrip(".")
    print(f"{'pass' if passed else 'FAIL'}  {name:4} {what}: {note}  ({seconds:.0f} s)", flush=True)
    return {"fault": what, "passed": passed, "note": note, "seconds": seconds}


def torture(
    out: Path = Path("torture.json"),
    only: tuple[str, ...] = (),
    quick: bool = False,
    original: Path | None = None,
    served: Path | None = None,
) -> None:
    """Runs the table and prints it, row by row.

    Args:
        out: where the results go.
        only: rows (C1) or kinds of rows (C).
        quick: fewer repetitions of each.
        original: a checkout of the original project, to put what applies to it too.
        served: the run that the server's rows serve; by default a small one.
    """
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench.at(Path(directory), quick=quick, served=served)
        wanted = set(only or ROWS)
        chosen = {k: r for k, r in ROWS.items() if wanted & {k, k.rstrip("0123456789")}}
        results = {name: put_to(row, bench, name) for name, row in chosen.items()}
        theirs: dict[str, dict[str, object]] = {}
        if original is not None:
            print("\nthe original")
            rows = torture_original.rows(original)
            apart = bench.room("original")
            theirs = {n: put_to(r, apart, n) for n, r in rows.items() if n in chosen}
    passed, their_passed = (
        sum(bool(each["passed"]) for each in found.values()) for found in (results, theirs)
    )
    print(f"\n{passed} of {len(results)} pass")
    if theirs:
        print(f"of the original's {their_passed} of {len(theirs)}")
    command = f"python benchmarks/torture.py {' '.join(sys.argv[1:])}".strip()
    record = {"command": command, "machine": machine(), "rows": results, "original": theirs}
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if passed < len(results):
        sys.exit(1)


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(torture))
