"""The documentation as a site: it builds without a warning, and what it shows is so."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import tyro

from simple_diffusion_lm import PUBLIC
from simple_diffusion_lm.cli.main import COMMANDS

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = {command.__name__.lower(): command for command in COMMANDS}
ADDRESS = "https://example.org/project"
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# A tutorial\n", "\n", "[The idea](../idea.md)"]},
        {
            "cell_type": "code",
            "source": "print('<x>')",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["<x>\n"]},
                {"output_type": "display_data", "data": {"text/html": ["<b>bold</b>"], "text/plain": "B"}},
                {"output_type": "display_data", "data": {"text/markdown": "a *word*", "text/plain": "M"}},
                {"output_type": "display_data", "data": {"image/png": "aGk=\n", "text/plain": "P"}},
            ],
        },
    ]
}


def build(project: Path, site: Path) -> dict[str, str]:
    """The pages of a project's site, by their path. (With --quiet nothing would be strict.)"""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {p.relative_to(site).as_posix(): p.read_text("utf-8") for p in site.rglob("*.html")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    return build(ROOT, tmp_path_factory.mktemp("site"))


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", page))


def words_of(printed: str) -> str:
    """Without frames and line breaks, which are those of a terminal."""
    return " ".join(re.sub(r"[│╭╮╰╯─]|--{2,}", " ", printed).split())


def test_what_the_commands_say_is_on_a_page(pages):
    text = text_of(pages["commands.html"])
    assert re.findall(r"(?m)^usage: sdlm (\w+)", text) == list(NAMED)
    command = [sys.executable, "-m", "simple_diffusion_lm", "evaluate", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert words_of(printed) in words_of(text)


def test_the_reference_has_all_public_names_and_the_core_in_reading_order(pages):
    for name, module in PUBLIC.items():
        assert f'id="simple_diffusion_lm.{module}.{name}"' in pages["api.html"]
    modules = re.findall(r'<h2 id="simple_diffusion_lm\.core\.?(\w*)"', pages["core.html"])
    assert modules == ["", *(re.findall(r"`(\w+)\.py`", _core_table()))]


def _core_table() -> str:
    """The order in which docs/design.md reads the core."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    return text.split("## The core")[1].split("| `__init__.py`")[1].split("**How much")[0]


def test_no_page_asks_another_server_for_anything(pages):
    for page in pages.values():
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?([^\"' >]+)", page)
        assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    for name in ("fonts.g", "unpkg", "jsdelivr", "cdnjs"):
        assert all(name not in page for page in pages.values())


def test_links_lead_somewhere_on_the_site_and_out_of_it(pages, tmp_path):
    assert "examples/minimal.py" in text_of(pages["idea.html"])  # and no link
    assert "examples/minimal.py" not in " ".join(re.findall('href="([^"]*)"', pages["idea.html"]))
    project = tmp_path / "project"  # what is to come: an address, a notebook, results
    for folder in ("docs", "src", "examples", "benchmarks"):
        shutil.copytree(ROOT / folder, project / folder)
    shutil.copy(ROOT / "mkdocs.yml", project)
    with (project / "mkdocs.yml").open("a", encoding="utf-8") as file:
        file.write(f"\nrepo_url: {ADDRESS}\n")
    (project / "docs" / "tutorial").mkdir(exist_ok=True)
    (project / "docs" / "tutorial" / "tutorial.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    (project / "docs" / "results.md").write_text("# Results\n\n[So](measuring.md)\n", encoding="utf-8")
    pages = build(project, tmp_path / "site")
    assert f'href="{ADDRESS}/blob/main/examples/minimal.py"' in pages["idea.html"]
    assert 'href="tutorial/tutorial.html">tutorial</a>' in pages["index.html"]
    assert 'href="results.html"' in pages["measuring.html"]
    tutorial = pages["tutorial/tutorial.html"]
    assert 'href="../idea.html"' in tutorial
    assert "&lt;x&gt;" in tutorial
    assert "<b>bold</b>" in tutorial
    assert "<p>a <em>word</em></p>" in tutorial
    assert 'src="data:image/png;base64,aGk="' in tutorial


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_a_document_shows_can_be_given(document, capsys):
    start = r"(?m)^ {4}(?:\w+=\S+ )?(?:sdlm|torchrun .* -m simple_diffusion_lm) (.*)$"
    for line in re.findall(start, document.read_text("utf-8")):
        line = line.split(" > ")[0].replace("somebody/", "")  # whose models the hub would be asked for
        arguments = shlex.split(line, comments=True)
        try:
            tyro.extras.subcommand_cli_from_dict(NAMED, prog="sdlm", args=arguments)
        except SystemExit:
            pytest.fail(f"sdlm {line}: {capsys.readouterr().err}")
