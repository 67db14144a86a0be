"""The rooms and who may import whom: the table of docs/design.md, as a test."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "simple_diffusion_lm"
ANYONE = {"errors", "sealing"}
MAY_IMPORT = {
    "diffusion": {"diffusion"},
    "model": {"model", "diffusion"},
    "text": {"text"},
    "twins": {"twins", "model", "diffusion"},
    "training": {"training", "twins", "diffusion", "model", "text"},
    "evaluation": {
        "evaluation",
        "training",
        "diffusion",
        "model",
        "text",
        "generation",
        "run",
        "run_log",
        "watching",
    },
    "serving": {
        "serving",
        "model",
        "text",
        "training",
        "generation",
        "watching",
        "writer",
        "filling",
        "run_log",
    },
}
MODULES = sorted(p for room in MAY_IMPORT for p in (PACKAGE / room).glob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """The first name under the package of everything a module imports from it."""
    rooms = set()
    here = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1]
                parts = (*base, *(node.module or "").split("."))
                names = [parts[0]] if parts[0] else [alias.name for alias in node.names]
                rooms.update(names)
            elif (node.module or "").startswith("simple_diffusion_lm"):
                rooms.add(f"absolute import of {node.module}")
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(p.parts[-2:]))
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    allowed = MAY_IMPORT[path.relative_to(PACKAGE).parts[0]] | ANYONE
    assert imported_rooms(path) <= allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 260
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # From the first statement on: a command's flags and their help are a table, not code.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 60, node.name
