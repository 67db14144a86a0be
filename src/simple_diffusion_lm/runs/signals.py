"""What a run does when it is asked to stop: it ends with a checkpoint."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from ..devices.processes import largest, world


class Stop(BaseException):
    """A signal asked the run to end; it ended with a checkpoint.
    No Exception, as KeyboardInterrupt is none: a compiler would take it for its own failure, and continue."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Signals:
    """SIGINT, SIGTERM and SIGUSR1 during a run. `seen` holds those that came; a step is finished first."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.may_leave = False

    def __enter__(self) -> "Signals":
        """A thread other than the main one cannot catch signals, and Windows has no SIGUSR1."""
        main = threading.current_thread() is threading.main_thread()
        names = ("SIGINT", "SIGTERM", "SIGUSR1") if main else ()
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self.old: dict[int, Any] = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen.append(number)
        if self.may_leave:
            self.may_leave = False
            raise Stop(number)

    def agreed(self) -> int:
        """The first that came to any process, which stops all at the same step; 0: none did."""
        return int(largest(float(self.seen[0] if self.seen else 0)))

    def leaving_at_once(self, work: Callable[[], object]) -> None:
        """Does what changes nothing of the run, until it is done or a signal comes.
        Several processes finish it: one that had no signal would wait for the others for ever."""
        with suppress(Stop):  # it is in `seen`
            try:
                self.may_leave = world() == 1
                work()
            finally:
                self.may_leave = False
