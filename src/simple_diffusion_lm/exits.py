"""How a command ends: exit codes and last lines."""

import os
import sys
from collections.abc import Callable

from .errors import UserError
from .run import Stop
from .training.loop import NonFinite
from .training.processes import joined, say_once


def exit_cleanly(command: Callable[[], None]) -> None:
    """Runs a command: one clear line and exit code 2 for what a user can mend.

    A number that is not finite exits with 3, a signal with 128 + its number. What nobody foresaw
    keeps its traceback.
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


def _say(message: str, code: int) -> int:
    say_once(message)
    return code
