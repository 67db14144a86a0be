"""The Python that README shows, in a notebook, as people who teach and explore use it."""

import re
from ast import literal_eval
from pathlib import Path

import pytest
from small_models import SMALL

README = (Path(__file__).parent.parent / "README.md").read_text()
CORPUS = ["a man in a red shirt .", "two dogs run on the beach .", "a woman in a blue hat sings ."]


def test_what_the_readme_shows_runs_in_a_notebook(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "corpus.txt").write_text("\n".join(40 * CORPUS) + "\n")
    (shown,) = re.findall(r"## In Python\n\n```python\n(.*?)```", README, re.DOTALL)
    budget = ", ".join(f"{name}={value}" for name, value in {**SMALL, "steps": 4}.items())
    assert "minutes=20" in shown
    lines = filter(None, shown.replace("minutes=20", budget).splitlines())
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, lines)))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=where).execute()  # raises what a cell raises

    _, trained, generated, infilled, unfolded = (cell.outputs for cell in notebook.cells)
    said = "".join(output.text for output in trained if output.output_type == "stream")
    assert "step 4:" in said
    assert "Warning" not in said
    texts = literal_eval(generated[0].data["text/plain"])
    assert len(texts) == 8
    assert all(texts)
    assert literal_eval(infilled[0].data["text/plain"])[0].startswith("a man in a ")
    table = unfolded[0].data["text/html"]
    assert table.startswith("<table><tr><td>1</td>")
    assert re.sub(r"<[^>]*>", "", table.split("<tr>")[-1]).startswith("64 a man in a ")
