"""A function of many items on all cores: results in order, and no process left behind."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import starmap
from multiprocessing import get_context, parent_process
from types import FrameType
from typing import Any, TypeVar

from ..errors import UserError

MOST_WORKERS = 8  # one process reads for all, and can feed no more

T = TypeVar("T")


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[..., T], items: Iterable[tuple[Any, ...]], *, workers: int
) -> Generator[T, None, None]:
    """function(*item) of each item, in their order.

    More than one worker means processes, each with its own copy of the function; only a few
    items are under way at a time. Close the generator to end the processes early.

    Raises:
        UserError: a worker was killed from outside, as happens when memory runs out.
    """
    if workers == 1:
        yield from starmap(function, items)
        return
    # A forked worker shares what is loaded and starts at once. Elsewhere forking is not safe.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (function,))
    under_way: deque[Future[T]] = deque()
    try:
        with _interrupts_waiting():
            pool.submit(_nothing)  # starts the processes
        for item in items:
            under_way.append(pool.submit(_call, item))
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool:
        raise UserError("a worker process was killed: free some memory, then try again") from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Ctrl-C comes after this: a pool that was half started could not be shut down.

    A signal mask would not do: another thread may take the signal, and Python raises it in this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def _nothing() -> None:
    pass


_function: Callable[..., Any]


def _start(function: Callable[..., Any]) -> None:
    """Readies a worker. It leaves Ctrl-C to the process that started it, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _function
    _function = function


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _call(item: tuple[Any, ...]) -> Any:
    return _function(*item)
