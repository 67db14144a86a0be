"""How a command ends: exit codes and last lines."""

import errno
import os
import sys
import traceback
from collections.abc import Callable

import torch

from .errors import UserError
from .training.loop import NonFinite
from .training.processes import joined, say_once
from .training.signals import Stop


def exit_cleanly(command: Callable[[], None]) -> None:
    """Runs a command: one clear line and exit code 2 for what a user can mend.

    A number that is not finite exits with 3, a signal with 128 + its number. What nobody foresaw
    is one line and 1, and with SDLM_DEBUG=1 a traceback too.
    """
    try:
        with joined():
            command()
    except UserError as error:
        sys.exit(_say(f"sdlm: {error}", 2))
    except NonFinite as error:
        sys.exit(_say(f"sdlm: training broke at {error}; the last checkpoint is untouched", 3))
    except Stop as stop:
        message = f"sdlm: stopped by {stop}; the same command resumes"
        sys.exit(_say(message, stop.exit_code))
    except KeyboardInterrupt:
        sys.exit(_say("sdlm: interrupted", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as when piped into head
    except Exception as error:
        if os.environ.get("SDLM_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(_say(*_advice(error)))


def _advice(error: Exception) -> tuple[str, int]:
    """The last line for what a machine refuses, or for a fault of ours; and the exit code."""
    said = (str(error).strip().splitlines() or [""])[0]
    no_memory = "can't allocate memory" in str(error) or "DefaultCPUAllocator" in str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or no_memory:
        return (
            f"sdlm: out of memory ({said}): take fewer tokens at a time (--set batch_tokens=, with "
            "accumulate= for as many a step; crop= for shorter texts), or a smaller --size",
            2,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f"{error.filename}: " if error.filename else ""
        return f"sdlm: {where}{error.strerror}: make room there; the same command goes on", 2
    return f"sdlm: unforeseen {type(error).__name__}: {said} (SDLM_DEBUG=1 shows where)", 1


def _say(message: str, code: int) -> int:
    say_once(message)
    return code
