"""One process to a run directory."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds RUN/.lock. The kernel lets go of it when the process ends, however it ends.

    Raises UserError, with the process and the machine, when another holds it.
    """
    path = run / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{run}: another process trains here ({file.read() or 'it just began'}): "
                "wait for it, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield
