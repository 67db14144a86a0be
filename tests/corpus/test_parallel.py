import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from corpora import write

from simple_diffusion_lm.corpus import parallel, reading
from simple_diffusion_lm.corpus import prepare as module
from simple_diffusion_lm.corpus.parallel import map_in_order
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.errors import UserError

PREPARE = """
import sys
from simple_diffusion_lm.corpus import prepare
from simple_diffusion_lm.corpus.encoding import Encoder
prepare.PARALLEL_CHARACTERS, prepare.CHUNK_CHARACTERS, prepare.cores = 0, 1000, lambda: 2
encode = Encoder.encode
def slow(self, lines):
    import time
    time.sleep(0.1)
    return encode(self, lines)
Encoder.encode = slow
from simple_diffusion_lm.cli.main import main
main()
"""

SPAWNED = """
from functools import partial
from types import SimpleNamespace
from simple_diffusion_lm.corpus import parallel
parallel.sys = SimpleNamespace(platform="darwin")
if __name__ == "__main__" or "unguarded" in __file__:
    task = partial(min, "b" * 1_000_000)  # more than a pipe holds
    print(list(parallel.map_in_order(task, "abc", workers=2)) == ["a", "b", "b" * 1_000_000])
"""


def slower_first(number: int) -> tuple[int, int]:
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number, os.getpid()


def killed(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refused(number: int) -> int:
    raise UserError(f"c.txt:{number}: will not do")


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_and_from_processes(workers: int) -> None:
    results = list(map_in_order(slower_first, range(30), workers))
    assert [number for number, _ in results] == list(range(30))
    pids = {pid for _, pid in results}
    assert len(pids) <= workers
    assert (os.getpid() in pids) == (workers == 1)
    assert not multiprocessing.active_children()


def test_only_a_few_items_are_under_way() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with closing(map_in_order(slower_first, items(), workers=2)) as results:
        next(results)
        assert taken < 10


def test_a_killed_worker_is_told_in_a_line() -> None:
    with pytest.raises(UserError, match=r"^a worker process was killed: .*try again$"):
        list(map_in_order(killed, range(50), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_function_raises_is_raised_here(workers: int) -> None:
    with pytest.raises(UserError, match=r"^c.txt:0: will not do$"):
        list(map_in_order(refused, range(50), workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "cores", lambda: workers)
    monkeypatch.setattr(module, "PARALLEL_CHARACTERS", 0)
    monkeypatch.setattr(module.Counter, "update", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="out: cannot write a corpus here: No space left on dev"):
        prepare([corpus], tmp_path / "out", tokenizer=model, quiet=True)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_line_is_named_wherever_the_chunks_end(
    tmp_path: Path, lines: list[str], model: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(module, "cores", lambda: workers)
    monkeypatch.setattr(module, "PARALLEL_CHARACTERS", 0)
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 200)
    file = write(tmp_path / "c.txt", lines)
    good = file.read_bytes().split(b"\n")

    class Spoiled(reading.Source):
        """Spoiled after the first reading, so that this is met while workers encode."""

        def __init__(self, *args: Any, **options: Any) -> None:
            bad = file.read_bytes()
            file.write_bytes(b"\n".join(good))
            super().__init__(*args, **options)
            file.write_bytes(bad)

    for number, source in itertools.product((1, 77, 150), (Spoiled, reading.Source)):
        monkeypatch.setattr(module, "Source", source)
        file.write_bytes(b"\n".join([*good[: number - 1], b"caf\xe9", *good[number:]]))
        with pytest.raises(UserError, match=rf"c.txt:{number}: not UTF-8 \(byte 0xe9\)"):
            prepare([file], tmp_path / "out", tokenizer=model, quiet=True)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_waits_for_the_processes_to_start_whichever_thread_takes_it() -> None:
    """With a signal mask it would be another thread's, and raised at once."""
    ends = threading.Event()
    other = threading.Thread(target=ends.wait, daemon=True)
    other.start()
    started = False

    def start() -> None:
        nonlocal started
        with parallel._interrupts_delayed():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            started = True

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started
    ends.set()


def test_where_processes_are_spawned_a_script_without_a_guard_ends_with_an_error(tmp_path: Path) -> None:
    def said(name: str) -> tuple[str, str]:
        (tmp_path / name).write_text(SPAWNED)
        done = subprocess.run([sys.executable, tmp_path / name], capture_output=True, text=True, timeout=100)
        return done.stdout, done.stderr

    assert said("guarded.py") == ("True\n", "")
    out, error = said("unguarded.py")
    assert out == ""
    assert "if __name__ == '__main__':" in error
    assert error.endswith("UserError: a worker process was killed: free some memory, then try again\n")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_stopped_preparation(
    tmp_path: Path, corpus: Path, model: Path, number: signal.Signals
) -> None:
    corpus.write_text(corpus.read_text() * 40)
    before = sorted(tmp_path.iterdir())
    options = ["prepare", corpus, "--out", tmp_path / "out", "--tokenizer", model]
    command = [sys.executable, "-c", PREPARE, *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or len(children(process.pid)) == 2)
            workers = children(process.pid)
            assert len(workers) == 2
            process.send_signal(number)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    wait_until(lambda: not any(map(running, workers)))
    assert not (tmp_path / "out").exists()
    if number == signal.SIGINT:
        assert process.returncode == 130, said
        assert said.splitlines()[-1] == "sdlm: interrupted"
        assert "Traceback" not in said
        assert sorted(tmp_path.iterdir()) == before
