"""The one exception that means: the user can mend this."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A fault in what was asked or given, told in one line: what, where, and what to do.
    The command line prints the message and exits with code 2; anything else is a bug in this package."""


def check_count(what: str, number: int) -> None:
    """Raises UserError for a number below 1."""
    if number < 1:
        raise UserError(f"{what} must be at least 1, not {number}")


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Raises UserError where the system refuses to write there."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}): choose another --out") from None


def first_line(error: Exception) -> str:
    """What an error is and says, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def installed(module: str, use: str, package: str) -> Any:
    """A module that not everybody has. Raises UserError, with what it is of use for, where it is missing."""
    try:
        return import_module(module)
    except ImportError:
        raise UserError(f"{use}: pip install '{package}'") from None
