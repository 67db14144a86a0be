"""The rooms of the house: who may import whom, and how much there may be of everything (docs/design.md)."""

import ast
import inspect
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "simple_diffusion_lm"
# A ring may import itself and what stands before it here, where it is named.
MAY_IMPORT = {
    "core": (),
    "baselines": ("core",),
    "tasks": (),
    "corpus": ("core",),
    "devices": ("core",),
    "runs": ("core", "baselines", "corpus", "devices"),
    "writing": ("core", "corpus", "devices", "runs"),
    "evaluation": ("core", "baselines", "tasks", "corpus", "devices", "runs", "writing"),
    "serving": ("core", "corpus", "runs", "writing"),
    "cli": ("core", "baselines", "tasks", "corpus", "devices", "runs", "writing", "evaluation", "serving"),
}
CORE_IMPORTS = {"torch", "numpy", "sentencepiece", "safetensors", "jaxtyping"}  # and the standard library
READING_ORDER = [
    "noise",
    "embedding",
    "transformer",
    "denoiser",
    "loss",
    "sampler",
    "bound",
    "data",
    "generate",
    "train",
]
MODULES = sorted(PACKAGE.glob("*/*.py"))


def lines_of(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    """(how many folders up, what) of everything a module imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(node.level, name) for name in names if name]
        elif isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(p.parts[-2:]))
def test_a_ring_imports_only_what_lies_inside_it(path: Path) -> None:
    ring = path.parent.name
    for level, name in imports(path):
        assert not name.startswith("simple_diffusion_lm"), "imports inside the package are relative"
        assert name.split(".")[0] != "multiprocessing", "spawned, it runs a user's script again"
        if level > 1:
            allowed = {ring, *MAY_IMPORT[ring]} | (set() if ring == "core" else {"errors"})
            assert name.split(".")[0] in allowed


def test_every_room_is_in_the_table_and_nothing_stands_outside() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms == set(MAY_IMPORT)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_the_core_is_read_in_one_sitting_and_without_a_reference_forward() -> None:
    core = PACKAGE / "core"
    assert {p.stem for p in core.glob("*.py")} == {"__init__", *READING_ORDER}
    assert lines_of(core) <= 1500
    for number, stem in enumerate(READING_ORDER):
        for level, name in imports(core / f"{stem}.py"):
            if level == 1:
                assert name in ("Config", *READING_ORDER[:number])
            elif level == 0:
                assert name.split(".")[0] in CORE_IMPORTS | set(sys.stdlib_module_names)


def test_the_house_stays_small() -> None:
    assert lines_of(PACKAGE) <= 8000
    assert lines_of(ROOT / "benchmarks") <= 2500


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: "/".join(p.parts[-2:]))
def test_files_and_functions_can_be_taken_in(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # From the first statement on: a command's flags and their help are a table, not code.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 60, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(p.parts[-2:]))
def test_all_that_is_public_has_a_docstring(path: Path) -> None:
    module = import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    found = {"the module": module.__doc__}
    for name, item in vars(module).items():
        if getattr(item, "__module__", "") != module.__name__:
            continue
        if inspect.isroutine(item) or inspect.isclass(item):
            found[name] = item.__doc__
        for own in vars(item) if inspect.isclass(item) else ():
            if inspect.isroutine(method := getattr(item, own)):  # it may inherit its docstring
                found[f"{name}.{own}"] = own.startswith("_") or inspect.getdoc(method)
    # Dataclasses and named tuples are given one that is their signature.
    said = {name for name, text in found.items() if text and not str(text).startswith(f"{name}(")}
    assert [name for name in found if name not in said and not name.startswith("_")] == []
