"""An exported model is the run's, whole, by itself; the hub is a local server that speaks its API."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs import export
from simple_diffusion_lm.runs.export import TOY, find_run, push
from simple_diffusion_lm.runs.run import about_run, run_training
from simple_diffusion_lm.tasks.toy import ToyLanguage
from simple_diffusion_lm.writing.model import DiffusionLM

FILES = {"README.md", "config.json", "manifest.json", "model.safetensors", "tokenizer.model"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def exported(toy_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "toy"
    DiffusionLM.from_pretrained(toy_run).save_pretrained(out, license="mit")
    return out


def test_an_exported_model_writes_what_the_run_writes(toy_run, exported):
    one, other = map(DiffusionLM.from_pretrained, (toy_run, exported))
    assert other.generate(3, steps=4) == one.generate(3, steps=4)
    assert other.score(["the queen sleeps ."]) == one.score(["the queen sleeps ."])
    assert vars(other.progress) == vars(one.progress)


def test_it_holds_nothing_of_the_machine_and_no_optimiser(toy_run, exported):
    assert {path.name for path in exported.iterdir()} == FILES
    assert [path.name for path in exported.parent.iterdir()] == ["toy"]
    processor = about_run(toy_run)["machine"]["processor"]
    local = {str(toy_run.parent.parent), str(Path.home()), processor, *sys.argv}
    for name in FILES - {"model.safetensors", "tokenizer.model"}:
        said = (exported / name).read_text()
        assert not any(word in said for word in local if len(word) > 4), name


def test_the_card_says_what_it_is(toy_run, exported):
    card, model = (exported / "README.md").read_text(), DiffusionLM.from_pretrained(toy_run)
    assert card.startswith("---\nlicense: mit\n")
    about = json.loads((exported / "config.json").read_text())
    assert f"`{about['corpus']}`" in card
    assert f"| parameters | {sum(p.numel() for p in model.model.parameters()):,} |" in card
    assert "nats a token |" in card
    assert "`layers=" in card
    assert "`steps=" not in card
    assert all(f"    {line}" in card for line in model.generate(8))


def test_half_precision_takes_half_the_room(toy_run, exported, tmp_path):
    model = DiffusionLM.from_pretrained(toy_run)
    model.save_pretrained(tmp_path / "half", half=True)
    whole, half = ((path / "model.safetensors").stat().st_size for path in (exported, tmp_path / "half"))
    assert half < 0.6 * whole
    for name, tensor in DiffusionLM.from_pretrained(tmp_path / "half").model.state_dict().items():
        assert (tensor - model.model.state_dict()[name]).abs().max() <= 0.01 * tensor.abs().max()
    for name, buffer in DiffusionLM.from_pretrained(tmp_path / "half").model.named_buffers():
        assert buffer.equal(dict(model.model.named_buffers())[name])  # a table of frequencies, say


def test_what_is_there_stays(toy_run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    model = DiffusionLM.from_pretrained(toy_run)
    with pytest.raises(UserError, match="is there already: choose another --out"):
        model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_that_cannot_be_written_leaves_nothing(toy_run, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simple_diffusion_lm.runs.checkpoint.write_synced", full)
    with pytest.raises(UserError, match="No space left on device"):
        DiffusionLM.from_pretrained(toy_run).save_pretrained(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_damaged_export_is_refused(name, exported, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(UserError):
        DiffusionLM.from_pretrained(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{copy}: no"):
        DiffusionLM.from_pretrained(copy)


def test_a_run_does_not_go_on_in_it_but_may_begin_with_it(toy_data, exported, tmp_path):
    config = small(Config(steps=8), samples=1)
    with pytest.raises(UserError, match="is an exported model"):
        run_training(config, toy_data, exported, quiet=True)
    assert {path.name for path in exported.iterdir()} <= FILES | {".lock"}
    run_training(config, toy_data, tmp_path, quiet=True, start_from=exported)
    with pytest.raises(UserError, match="which has no corpus: take the run"):
        DiffusionLM.trained_on(exported)


def test_a_name_of_the_hub_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    hub = SimpleNamespace(snapshot_download=lambda name: tmp_path / "from the hub" / name)
    monkeypatch.setattr(export, "installed", lambda *what: hub)
    assert find_run("somebody/captions") == tmp_path / "from the hub" / "somebody" / "captions"
    for name in ("runs/captions", "captions", "a/b/c", tmp_path / "run", "../run", "./a"):
        assert find_run(name) == Path(name)


def test_the_model_in_the_package_has_its_name_where_no_directory_has(toy_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run("toy") == TOY
    shutil.copytree(toy_run, "toy")
    assert find_run("toy") == Path("toy")
    assert DiffusionLM.from_pretrained("toy").progress.step == 6


def test_the_model_in_the_package_is_small_and_knows_its_language(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {path.name for path in TOY.iterdir()} == FILES
    assert sum(path.stat().st_size for path in TOY.iterdir()) < 2_000_000
    model, language = DiffusionLM.from_pretrained("toy"), ToyLanguage()
    lines = model.generate(100, seed=3)
    assert sum(map(language.is_grammatical, lines)) >= 80
    assert len(set(lines)) >= 95
    card = (TOY / "README.md").read_text()
    assert "license: mit" in card
    assert f"at most {model.bound:.3f} nats a token" in card


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub's API as uploading and fetching a model takes."""

    files: dict[str, bytes]  # of all that was uploaded, by path

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/api/repos/create":
            self.answer({"url": f"http://{self.headers['host']}/{json.loads(sent)['organization']}/toy"})
        elif self.path.endswith("/preupload/main"):
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file["path"], **modes} for file in json.loads(sent)["files"]]})
        elif self.path == "/api/validate-yaml":  # of the card
            self.answer({"errors": [], "warnings": []})
        else:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"http://{self.headers['host']}/u/toy/commit/1", "commitOid": COMMIT})

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path == "/api/models/u/toy/revision/main" and self.files:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "u/toy", "sha": COMMIT, "siblings": siblings})
        elif self.path.startswith(f"/api/models/u/toy/tree/{COMMIT}"):
            kinds = {"type": "file", "oid": COMMIT}
            self.answer([{"path": path, "size": len(file), **kinds} for path, file in self.files.items()])
        elif self.path == f"/u/toy/resolve/{COMMIT}/{name}":
            self.answer(self.files[name])
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, what: object) -> None:
        content = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(200)
        headers = {"Content-Length": len(content), "ETag": f'"{hash(content):x}"', "X-Repo-Commit": COMMIT}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path) -> Iterator[dict[str, str]]:
    """The environment of a process that finds the hub here."""
    pytest.importorskip("huggingface_hub")
    Hub.files = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever).start()
        place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
        yield {**os.environ, **place, "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        server.shutdown()


def sdlm(*arguments: object, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "simple_diffusion_lm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_a_model_goes_to_the_hub_and_comes_back(toy_run, hub, tmp_path):
    missing = sdlm("generate", "u/toy", env=hub)
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1].startswith("sdlm: u/toy: no such directory, and the hub refuses")
    assert sdlm("export", toy_run, "--out", tmp_path / "toy", env=hub).returncode == 0
    done = sdlm("push", tmp_path / "toy", "u/toy", env=hub)
    assert done.returncode == 0, done.stderr
    assert set(Hub.files) == FILES
    written = sdlm("generate", "u/toy", "--count", "2", "--steps", "4", env=hub)
    assert written.returncode == 0, written.stderr
    assert written.stdout == sdlm("generate", toy_run, "--count", "2", "--steps", "4", env=hub).stdout


def test_a_hub_that_answers_rubbish_is_told_in_one_line(toy_run, exported, hub):
    Hub.files = {"config.json": b"<html>", "manifest.json": b"{", "model.safetensors": b""}
    done = sdlm("generate", "u/toy", env=hub)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    with pytest.raises(UserError, match="is no exported model"):
        push(toy_run, "u/toy")
    refused = sdlm("push", exported, "not a name", env=hub)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
