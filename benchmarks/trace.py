"""How many functions a reader passes, from a command to its result.

    python benchmarks/trace.py

Counts the named functions of the package that are called, and the files they stand in: (a) in
`python -m simple_diffusion_lm.core.train CORPUS` and (b) in `sdlm train CORPUS`, from the start to the
first backward pass; (c) in core.generate.generate, noise to a line, and (d) in `sdlm generate RUN
--count 1`, from its start to the end. Lambdas, comprehensions and generator expressions are not counted,
nor is what runs when a module is imported.
"""

import inspect
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
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


def passed(call: Callable[..., object], *arguments: object) -> list[tuple[str, str]]:
    """The (file, function) pairs that a call passes, in the order of their first call, but for those before
    a command's own main. Ends at the first backward pass if the command is one that trains."""
    source = os.path.dirname(str(find_spec(PACKAGE).origin))  # type: ignore[union-attr]
    found: dict[tuple[str, str], None] = {}
    to_backward = "train" in str(arguments)

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call":
            return
        if code is torch.autograd.backward.__code__ and to_backward:
            sys.setprofile(None)
            raise Reached
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        if is_function and code.co_filename.startswith(source):
            if code.co_name == "main":
                found.clear()
            found[os.path.relpath(code.co_filename, source), code.co_qualname] = None

    with suppress(Reached, SystemExit), redirect_stdout(sys.stderr):
        sys.setprofile(note)
        call(*arguments)
    sys.setprofile(None)
    return list(found)


def run(module: str, *arguments: str) -> None:
    """A module as a program."""
    sys.argv = ["sdlm", *arguments]
    runpy.run_module(module, run_name="__main__")


def core_line(corpus: str) -> list[tuple[str, str]]:
    """What a line from the core alone passes; the model has not been trained."""
    from simple_diffusion_lm.core import Config
    from simple_diffusion_lm.core.data import Tokenizer, read_lines
    from simple_diffusion_lm.core.generate import generate
    from simple_diffusion_lm.core.train import State

    tokenizer = Tokenizer.train(read_lines(corpus), 100, hard_vocab_limit=False)
    model = State.of(Config(), torch.ones(len(tokenizer), dtype=torch.int64)).model
    return passed(generate, model, tokenizer, [8])


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        corpus, made, other = (Path(directory) / name for name in ("corpus.txt", "made", "other"))
        corpus.write_text("\n".join(LINES) + "\n")
        train = ["train", str(corpus), "--steps", "1", "--samples", "1", "--out"]
        for title, *task in (
            (None, run, PACKAGE, *train, str(made)),
            ("the core alone, to the first backward pass", passed, run, f"{PACKAGE}.core.train", str(corpus)),
            ("the core alone, noise to a line", core_line, str(corpus)),
            ("sdlm train CORPUS, to the first backward pass", passed, run, PACKAGE, *train, str(other)),
            ("sdlm generate RUN --count 1", passed, run, PACKAGE, "generate", str(made), "--count", "1"),
        ):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                functions = fresh.submit(*task).result()
            if title is None:
                continue
            files: dict[str, list[str]] = {}
            for file, function in functions:
                files.setdefault(file, []).append(function)
            print(f"{title}: {len(functions)} functions in {len(files)} files")
            print("\n".join(f"    {file}: {', '.join(names)}" for file, names in files.items()))


if __name__ == "__main__":
    main()
