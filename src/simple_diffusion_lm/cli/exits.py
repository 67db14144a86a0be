"""How a command ends: exit codes and last lines."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable

import torch

from ..core.train import NonFinite
from ..devices.processes import joined, say_once
from ..errors import UserError, first_line
from ..runs.signals import Stop


def exit_cleanly(command: Callable[[], None]) -> None:
    """Runs a command: one clear line and exit code 2 for what a user can mend.

    A number that is not finite exits with 3, a signal with 128 + its number. What nobody foresaw
    is one line and 1, and with SDLM_DEBUG=1 a traceback too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # texts may have any letter, as the files they came from
    try:
        with joined():
            command()
        return
    except UserError as error:
        message, code = str(error), 2
    except NonFinite as error:
        message, code = f"training broke at {error}; the last checkpoint is untouched", 3
    except Stop as stop:
        message, code = f"stopped by {stop}; the same command resumes", stop.exit_code
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as when piped into head
        return
    except Exception as error:
        if os.environ.get("SDLM_DEBUG") == "1":
            traceback.print_exc()
        message, code = _advice(error)
    say_once(f"sdlm: {message}")
    sys.exit(code)


def _advice(error: Exception) -> tuple[str, int]:
    """The last line for what a machine refuses, or for a fault of ours; and the exit code."""
    said = first_line(error)
    no_memory = "can't allocate memory" in str(error) or "DefaultCPUAllocator" in str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or no_memory:
        fewer = "a smaller --batch-tokens, with --accumulate for as many a step; a smaller --crop"
        return f"out of memory ({said}): take fewer tokens at a time ({fewer}), or a smaller --size", 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}: make room there; the same command resumes", 2
    return f"unforeseen {said} (SDLM_DEBUG=1 shows where)", 1
