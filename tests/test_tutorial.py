"""docs/tutorial/tutorial.ipynb: it runs from top to bottom, and its numbers are as its text says."""

import base64
import importlib
import json
import re
import shutil
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATH = ROOT / "docs" / "tutorial" / "tutorial.ipynb"
STORED = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
# Asked of the notebook when all its cells have run. An untrained network adds nothing to what each noisy
# point says by itself. Of that the bound is exact: it is the cost of the line under the words' frequencies.
ASKED = """
import json

model = minimal.Denoiser(counts)
torch.manual_seed(0)
x_t, one_level = torch.randn(1, 9, D), level(-1.5)
said = model(x_t, *one_level, torch.zeros_like(x_t), torch.ones(1, 9, dtype=torch.bool))
words_alone = [bound(ids, mask)[0].mean().item(), -(model.log_unigram[ids] * mask).sum(1).mean().item()]
print(json.dumps({
    "variance": {f"{sampler} {count}": value for (sampler, count), value in variance.items()},
    "spread": {f"{loss}, {'equal' if equal else 'free'}": value for (loss, equal), value in spread.items()},
    "share": {f"{name} {passes}": value for (name, passes), value in share.items()},
    "left": [left[0].item(), left[-1].item(), *reached],
    "words alone": words_alone,
    "own logits": (said - own_logits(x_t, *one_level)).abs().max().item(),
    "above": mean,
    "error": error,
    "autoregressive": autoregressive_share,
    "needs": sorted({"sentencepiece", "safetensors", "jaxtyping", "tyro"} & set(sys.modules)),
}))
"""


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, budget: float) -> dict:
    """The figures of the notebook after a run in a folder of its own, with a share of the training."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("TUTORIAL_BUDGET", str(budget))
    shutil.copytree(ROOT / "examples", folder / "examples")
    notebook = nbformat.read(PATH, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASKED))
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=3600, resources=where).execute()  # raises what a cell raises
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    return json.loads("".join(output.text for output in notebook.cells[-1].outputs))


def holds_for_any_training(found: dict) -> None:
    variance, spread = found["variance"], found["spread"]
    for sampler in ("ddim", "ddpm", "renoise"):
        assert variance[f"{sampler} 1"] < 0.01  # one step gives the mean
    assert min(variance["ddim 256"], variance["ddpm 256"]) > 0.93
    assert variance["renoise 256"] == pytest.approx(0.5, abs=0.03)
    assert spread["squared error, free"] < 0.05
    assert spread["squared error, equal"] < 0.05  # equal length alone does not cure it, and the text says so
    assert spread["cross-entropy, free"] > 5
    assert 1.5 < spread["cross-entropy, equal"] < 2.5
    noisiest, cleanest, begins, half, ends = found["left"]
    assert noisiest > 0.95
    assert cleanest < 0.01
    assert begins < half < ends < begins + 5
    by_bound, exact = found["words alone"]
    assert by_bound == pytest.approx(exact, rel=0.02)
    assert found["own logits"] < 1e-3
    assert found["above"]["bound"] > 0
    assert found["above"]["autoregressive"] > -3 * found["error"]["autoregressive"]
    assert found["needs"] == []


def test_it_runs_with_a_hundredth_of_the_training(tmp_path, monkeypatch):
    holds_for_any_training(run(tmp_path, monkeypatch, budget=0.01))


@pytest.mark.slow
def test_the_whole_run_shows_what_the_text_says(tmp_path, monkeypatch):
    found = run(tmp_path, monkeypatch, budget=1)
    holds_for_any_training(found)
    share, above = found["share"], found["above"]
    ways = ("with self-conditioning", "without self-conditioning", "with it, cosine schedule")
    with_it, without, cosine = ([share[f"{way} {passes}"] for passes in (2, 8, 32)] for way in ways)
    assert with_it == sorted(with_it)
    assert with_it[-1] > 0.4
    assert with_it[-1] > without[-1] + 0.1
    assert with_it[1] > cosine[1]
    assert found["autoregressive"] > with_it[-1]
    assert above["autoregressive"] < above["bound"] < 2.5
    assert above["bound"] > 4 * found["error"]["bound"]


def test_its_outputs_are_stored_small_and_of_one_run():
    code = [cell for cell in STORED if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 7
    assert all(len(base64.b64decode(picture)) < 60_000 for picture in pictures)
    assert PATH.stat().st_size < 700_000


def test_each_step_names_what_it_became_in_the_package():
    texts = ["".join(cell["source"]) for cell in STORED if cell["cell_type"] == "markdown"]
    named = re.findall(r"(?ms)^\*\*In the package this became\*\*(.*?)\n\n", "\n\n".join([*texts, ""]))
    assert len(named) == 7
    for text in named:
        module = None
        for name in re.findall(r"`([\w/.]+)`", text):
            if name.startswith("core/"):
                path = name.removesuffix(".py").replace("/", ".")
                module = importlib.import_module(f"simple_diffusion_lm.{path}")
            elif module is not None and not name.endswith((".py", "/")):
                assert callable(reduce(getattr, name.split("."), module)) or name.isupper(), name
