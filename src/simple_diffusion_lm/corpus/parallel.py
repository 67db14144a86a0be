"""A function of many items on all cores: results come in order, and no process is left behind."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any, TypeVar

from ..errors import UserError

T = TypeVar("T")


def cores() -> int:
    """The number of processors to use: eight at most, as one process reads for all and can feed no more."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def map_in_order(task: Callable[[Any], T], items: Iterable[Any], workers: int) -> Generator[T, None, None]:
    """Calls a function with each item and yields the results, in the order of the items.

    More than one worker means processes, each with its own copy of the function and one item at a time.
    Closing the generator ends them early. Raises UserError if one is killed, as when memory runs out.
    """
    if workers == 1:
        yield from map(task, items)
        return
    # A forked worker shares what is loaded and starts at once. Elsewhere forking is not safe. It also holds
    # the pipes of the workers before it: the stack closes the last one first.
    context: Any = get_context("fork" if sys.platform == "linux" else "spawn")
    pipes, in_work = [], deque[Connection]()
    try:
        with ExitStack() as stack:
            with _interrupts_delayed():
                for _ in range(workers):
                    pipe, others_end = context.Pipe()
                    process = context.Process(target=_work, args=(others_end, pipe), daemon=True)
                    process.start()
                    others_end.close()
                    stack.callback(process.join)
                    pipes.append(stack.enter_context(pipe))
            for pipe in pipes:
                pipe.send(task)  # not by start(), which hangs if a spawned process fails to import the script
            for pipe, item in zip(cycle(pipes), items):
                done = [_result(in_work.popleft())] if len(in_work) == workers else []
                pipe.send(item)
                in_work.append(pipe)
                yield from done
            yield from map(_result, in_work)
    except (EOFError, OSError):
        raise UserError("a worker process was killed: free some memory, then try again") from None


@contextmanager
def _interrupts_delayed() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block. A fork loses it; a mask leaves it to any other thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _work(pipe: Connection, others_end: Connection) -> None:
    """Answers the parent until it closes the pipe or is gone. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    others_end.close()
    with suppress(EOFError, OSError):
        task = pipe.recv()
        while True:
            item = pipe.recv()
            try:
                answer = task(item)
            except Exception as error:
                answer = ExceptionWithTraceback(error, error.__traceback__)
            pipe.send(answer)


def _result(pipe: Connection) -> Any:
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer
