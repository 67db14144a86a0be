"""What the site has besides the Markdown in docs/: pages made of the code, a notebook, links out of docs/."""

import json
import os
import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from mkdocs.structure.files import File
from tyro.extras import subcommand_cli_from_dict

from simple_diffusion_lm import PUBLIC, core
from simple_diffusion_lm.cli.main import COMMANDS

DOCS = Path(__file__).parent
NOTEBOOK = DOCS / "tutorial/tutorial.ipynb"
OPTIONAL = (NOTEBOOK, DOCS / "results.md")  # where one is not there, a link to it is plain text


def parts_of(notebook):
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            data = {kind: "".join(text) for kind, text in output.get("data", output).items()}
            if "image/png" in data:
                data["text/html"] = f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
            text = data.get("text/markdown") or f"```text\n{data.get('text/plain') or data.get('text')}\n```"
            yield f'<div class="output">{data["text/html"]}</div>' if "text/html" in data else text


def on_files(files, config):  # mkdocs calls it by this name, as the one below
    order = [f"core.{n}" for n in re.findall(r"\w+", re.search("in this order: ([^.]*)", core.__doc__)[1])]
    pages = {"core.md": ["# The core", *(f"::: simple_diffusion_lm.{name}" for name in ["core", *order])]}
    pages["api.md"] = ["# Python API", *(f"::: simple_diffusion_lm.{m}.{n}" for n, m in PUBLIC.items())]
    pages["commands.md"], named = ["# Command line"], {c.__name__.lower(): c for c in COMMANDS}
    os.environ["COLUMNS"] = "84"
    for name in named:
        with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
            subcommand_cli_from_dict(named, prog="sdlm", args=[name, "--help"])
        pages["commands.md"].append(f"## sdlm {name}\n\n```text\n{printed.getvalue().strip()}\n```")
    if NOTEBOOK.exists():
        pages["tutorial/tutorial.md"] = parts_of(json.loads(NOTEBOOK.read_text("utf-8")))
    for name, parts in pages.items():
        files.append(File.generated(config, name, content="\n\n".join(parts)))
    config.nav = [entry for entry in config.nav if all(map(files.get_file_from_path, entry.values()))]


def on_page_markdown(markdown, page, config, files):
    def link(found):
        text, path = found[1], (DOCS / page.file.src_uri).parent.joinpath(found[2]).resolve()
        if not path.exists() and path in OPTIONAL:
            return text
        if not path.exists() or path.is_relative_to(DOCS):  # a strict build names what is not there
            return found[0].replace(".ipynb)", ".md)")
        inside = path.relative_to(DOCS.parent).as_posix()
        return f"[{text}]({config.repo_url}/blob/main/{inside})" if config.repo_url else text

    return re.sub(r"\[([^]]+)\]\(([^):#]+)\)", link, markdown)
