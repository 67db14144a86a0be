"""Faults of clients: too many, gone, slow, rude; and a server that is asked to stop."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from torture_bench import Bench, Process, Row

CLIENTS = 50
LONG = json.dumps({"count": 32, "steps": 512, "stream": True}).encode()  # an answer of many frames


class Server(NamedTuple):
    """A server in a process of its own."""

    process: Process
    port: int

    def ask(self, path: str, body: object = None) -> tuple[int, bytes]:
        """(status, answer). bytes are sent as they are, other bodies as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def metric(self, name: str) -> float:
        return float(json.loads(self.ask("/v1/load")[1])[name])

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stream(self) -> socket.socket:
        """A connection in the middle of a long answer."""
        head = "POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection = self.connect()
        connection.sendall(f"{head}Content-Length: {len(LONG)}\r\n\r\n".encode() + LONG)
        while b"event: frame" not in connection.recv(65536):
            pass
        return connection


@contextmanager
def serving(run: Path) -> Iterator[Server]:
    """`sdlm serve` of a run, at a port of its own."""
    command = [sys.executable, "-m", "simple_diffusion_lm", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = None
    while found is None and (line := process.stderr.readline()):
        found = re.search(r"http://127.0.0.1:(\d+)", line)
    assert found, process.communicate()[1]
    server = Server(process, int(found[1]))
    for _ in range(600):
        with suppress(OSError):
            server.ask("/v1/health")
            break
        time.sleep(0.05)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def s1(bench: Bench) -> str:
    """50 clients at once, against one"""
    with serving(bench.run) as server:

        def once(seed: int) -> tuple[int, float]:
            began = time.monotonic()
            status, _ = server.ask("/v1/generate", {"count": 1, "steps": 64, "seed": seed})
            return status, time.monotonic() - began

        alone = [once(seed) for seed in range(10)]
        one = len(alone) / sum(seconds for _, seconds in alone)
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(once, range(CLIENTS * (2 if bench.quick else 10))))
        many = len(found) / (time.monotonic() - began)
    statuses = {status for status, _ in found}
    assert statuses <= {200, 503}, statuses
    slowest = quantiles([seconds for _, seconds in found], n=20)[-1]
    assert many >= 3 * one, f"{many:.1f} a second against {one:.1f}"
    return f"{many:.0f} a second against {one:.0f} of one client, p95 {slowest:.2f} s"


def s2(bench: Bench) -> str:
    """ten minutes at two requests a second"""
    minutes = 0.25 if bench.quick else 10
    with serving(bench.run) as server:
        warm, statuses, number = 0, set(), 0
        began = time.monotonic()
        while (passed := time.monotonic() - began) < 60 * minutes:
            body = {"templates": ["the ___ ."], "steps": 16, "seed": number, "candidates": 4}
            statuses.add(server.ask("/v1/infill", body)[0])
            if warm == 0 and passed > 6 * minutes:  # a tenth of the time to get used to it
                warm = server.memory()
            number += 1
            time.sleep(max(0.0, number / 2 - (time.monotonic() - began)))
        grown = server.memory() / warm - 1
    assert statuses == {200}, statuses
    assert grown < 0.05, f"memory grew by {grown:.1%}"
    return f"{number} requests, memory {grown:+.1%}"


def s3(bench: Bench) -> str:
    """a client that leaves in the middle"""
    with serving(bench.run) as server:
        for _ in range(3):
            server.stream().close()
            time.sleep(1)
            before = server.metric("steps")
            time.sleep(0.5)
            assert server.metric("steps") == before, "it writes for nobody"
            assert server.metric("under_way") == 0
    return "not written for any more"


def s4(bench: Bench) -> str:
    """bad JSON, a megabyte, absurd numbers, unknown routes, paths out of the page, a slow client"""
    slowest = 0.0
    with serving(bench.run) as server, server.connect() as slow:
        slow.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-")
        for path, body, status in (
            ("/v1/generate", b"{", 400),
            ("/v1/generate", b"[" * 90_000, 400),
            ("/v1/score", b'{"texts": ["' + b"a" * 1_000_000 + b'"]}', 413),
            ("/v1/generate", {"steps": 10**9}, 422),
            ("/v1/generate", {"length": -1}, 422),
            ("/v1/generate", {"count": 32, "candidates": 32, "steps": 512}, 409),
            ("/v1/infill", {"templates": ["a [[9"]}, 409),
            ("/v1/nothing", {}, 404),
            ("/page/../app.py", None, 404),
            ("/page/%2e%2e/%2e%2e/errors.py", None, 404),
        ):
            began = time.monotonic()
            found, _ = server.ask(path, body)
            slowest = max(slowest, time.monotonic() - began)
            assert found == status, f"{path}: {found}, not {status}"
        for path, body in (("/v1/health", None), ("/v1/generate", {"steps": 2})):
            assert server.ask(path, body)[0] == 200, path
    assert slowest < 0.5, f"{slowest:.2f} s"
    return f"each refused, in at most {1000 * slowest:.0f} ms"


def s5(bench: Bench) -> str:
    """SIGTERM in the middle of an answer"""
    rest: list[bytes] = []
    with serving(bench.run) as server, server.stream() as connection:

        def read() -> None:
            while part := connection.recv(65536):
                rest.append(part)

        reader = threading.Thread(target=read)
        reader.start()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=30)
        seconds = time.monotonic() - began
        reader.join(timeout=5)
        assert server.process.returncode == 0, server.process.returncode
    last = b"".join(rest)[-300:]
    assert b"event: done" in last or b"event: error" in last, "cut off in the middle of a frame"
    return f"ended after {seconds:.1f} s with exit code 0, the stream with its last event"


ROWS: dict[str, Row] = {row.__name__.upper(): row for row in (s1, s2, s3, s4, s5)}
