"""The one exception that means: the user can mend this."""

from importlib import import_module
from typing import Any


class UserError(Exception):
    """A fault in what was asked or given, told in one line: what, where, and what to do.
    The command line prints the message and exits with code 2; anything else is a bug in this package."""


def first_line(error: Exception) -> str:
    """What an error is and says, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def installed(module: str, use: str, package: str) -> Any:
    """A module that not everybody has. Raises UserError, with what it is of use for, where it is missing."""
    try:
        return import_module(module)
    except ImportError:
        raise UserError(f"{use}: pip install '{package}'") from None
