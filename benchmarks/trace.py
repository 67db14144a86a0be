"""How many functions a reader passes, from a command to its result.

    python benchmarks/trace.py [NAME=VALUE ...]

Counts the named functions of the package that are called, and the files they stand in: (a) in
`python -m simple_diffusion_lm.core.train CORPUS` and (b) in `sdlm train CORPUS`, from the start to the
first backward pass; (c) in `sdlm generate RUN --count 1`, from its start to the end. Lambdas,
comprehensions and generator expressions are not counted, nor is what runs when a module is imported.
NAME=VALUE: of the training, as for --set. Of another version:

    PYTHONPATH=OTHER/src python benchmarks/trace.py
"""

import inspect
import os
import runpy
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

import torch

PACKAGE = "simple_diffusion_lm"
LINES = [f"the {a} {b} {c} ." for a in ("red", "old", "wet") for b in ("cat", "dog") for c in range(100)]


class Reached(BaseException):
    """The command has come to where counting ends. No Exception: no command catches it."""


def passed(module: str, arguments: list[str], to_backward: bool) -> list[tuple[str, str]]:
    """The (file, function) pairs that a module run as a program calls, in the order of their first call."""
    source = os.path.dirname(str(find_spec(PACKAGE).origin))  # type: ignore[union-attr]
    found: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code is torch.autograd.backward.__code__ and to_backward:
            sys.setprofile(None)
            raise Reached
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        if is_function and code.co_filename.startswith(source) and (found or code.co_name == "main"):
            found[os.path.relpath(code.co_filename, source), code.co_qualname] = None

    sys.argv = ["sdlm", *arguments]
    with suppress(Reached, SystemExit), redirect_stdout(sys.stderr):
        sys.setprofile(note)
        runpy.run_module(module, run_name="__main__")
    sys.setprofile(None)
    return list(found)


def main(*settings: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        corpus, run, other = (Path(directory) / name for name in ("corpus.txt", "run", "other"))
        corpus.write_text("\n".join(LINES) + "\n")
        train = ["train", str(corpus), "--steps", "1", "--set", "samples=1", *settings, "--out"]
        for title, *task in (
            (None, PACKAGE, [*train, str(run)], False),
            ("the core alone, to the first backward pass", f"{PACKAGE}.core.train", [str(corpus)], True),
            ("sdlm train CORPUS, to the first backward pass", PACKAGE, [*train, str(other)], True),
            ("sdlm generate RUN --count 1", PACKAGE, ["generate", str(run), "--count", "1"], False),
        ):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                functions = fresh.submit(passed, *task).result()
            files: dict[str, list[str]] = {}
            for file, function in functions:
                files.setdefault(file, []).append(function)
            if title:
                print(f"{title}: {len(functions)} functions in {len(files)} files")
                print("\n".join(f"    {file}: {', '.join(names)}" for file, names in files.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
