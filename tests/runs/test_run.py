import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch
from small_models import small, tensors

import simple_diffusion_lm
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.denoiser import Denoiser
from simple_diffusion_lm.core.train import Diffusion, NonFinite
from simple_diffusion_lm.corpus.cooccurrence import cooccurrence_vectors
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.corpus.sealing import sealed
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs import checkpoint
from simple_diffusion_lm.runs.config import RECIPES
from simple_diffusion_lm.runs.log import Log
from simple_diffusion_lm.runs.run import about_run, begin, commit_of, load_run, machine, run_training


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("budget", [{"steps": 9}, {"epochs": 2}], ids=["steps", "epochs"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(recipe, budget, toy_data, tmp_path):
    """As a recipe ships: self-conditioning, its schedule and Muon; a new epoch and dropout too."""
    config = small(RECIPES[recipe], **budget, dropout=0.1, dropout_from=1, samples=1, batch_tokens=4096)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_training(config, toy_data, whole, quiet=True)
    run_training(replace(config, save_every=4), toy_data, halves, quiet=True)
    (last,) = (whole / "checkpoints").iterdir()
    assert checkpoint.newest(halves).manifest["progress"]["epoch"] > 0
    shutil.rmtree(halves / "checkpoints" / last.name)
    run_training(config, toy_data, halves, quiet=True)
    first, second = tensors(whole), tensors(halves)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_same_seed_is_the_same_run_and_another_is_not(toy_data, toy_run, tmp_path):
    config = small(Config(), steps=6, samples=1)
    run_training(config, toy_data, tmp_path / "same", quiet=True)
    run_training(replace(config, seed=1), toy_data, tmp_path / "other", quiet=True)
    same, other, first = tensors(tmp_path / "same"), tensors(tmp_path / "other"), tensors(toy_run)
    assert all(torch.equal(same[k], first[k]) for k in first)
    name = "model head.weight"
    assert not torch.equal(other[name], first[name])


def test_a_paused_run_goes_on_to_the_same_end(toy_data, toy_run, tmp_path):
    config = small(Config(), steps=6, samples=1)
    run_training(config, toy_data, tmp_path, quiet=True, pause_at=1e-9)
    assert checkpoint.newest(tmp_path).manifest["step"] == 1
    run_training(config, toy_data, tmp_path, quiet=True)
    paused, first = tensors(tmp_path), tensors(toy_run)
    assert all(torch.equal(paused[k], first[k]) for k in first)


def test_a_run_holds_what_it_says(toy_run):
    names = set(os.listdir(toy_run))
    files = {"config.json", "tokenizer.model", "metrics.jsonl", "samples.txt", ".lock", ".holder"}
    assert names == {*files, "checkpoints"}
    kinds = {m["kind"] for m in metrics(toy_run)}
    assert kinds == {"train", "valid"}
    valid = [m for m in metrics(toy_run) if m["kind"] == "valid"]
    assert {"bound", "bound_error"} <= valid[-1].keys()
    assert (toy_run / "samples.txt").read_text().startswith("step 6\t")


def test_a_finished_run_stays_as_it_is(toy_data, toy_run):
    before = tensors(toy_run)
    run_training(small(Config(), steps=6, samples=1), toy_data, toy_run, quiet=True)
    assert all(torch.equal(before[k], v) for k, v in tensors(toy_run).items())


def test_metrics_after_the_checkpoint_are_forgotten(toy_data, tmp_path):
    config = small(Config(), steps=4, samples=1)
    run_training(config, toy_data, tmp_path, quiet=True)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 99}) + "\n")
        file.write('{"kind": "tra')  # cut short by a kill
    run_training(config, toy_data, tmp_path, quiet=True)
    assert max(m["step"] for m in metrics(tmp_path)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [({"layers": 1}, "layers was 2, now 1"), ({"learning_rate": 1e-3}, "learning_rate was")],
)
def test_another_configuration_is_refused(change, words, toy_data, toy_run):
    with pytest.raises(UserError, match=words):
        run_training(small(Config(), steps=6, samples=1, **change), toy_data, toy_run, quiet=True)


def test_a_directory_that_holds_something_else_is_refused(toy_data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        run_training(small(Config(), steps=1), toy_data, tmp_path, quiet=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_broken_number_stops_before_the_update(toy_data, tmp_path):
    config = small(Config(), steps=4, samples=1, save_every=2)
    run_training(config, toy_data, tmp_path, quiet=True)
    before = tensors(tmp_path)
    state = checkpoint.newest(tmp_path)
    assert state is not None
    poisoned = state.read(checkpoint.MODEL)
    poisoned["head.weight"].fill_(torch.nan)
    checkpoint.save(
        tmp_path, 4, poisoned, state.read(checkpoint.STATE), {"progress": state.manifest["progress"]}
    )
    with pytest.raises(NonFinite, match="step 5: loss nan"):
        run_training(replace(config, steps=8), toy_data, tmp_path, quiet=True)
    after = tensors(tmp_path)
    assert all(torch.equal(tensor, after[k]) for k, tensor in before.items() if k != "model head.weight")
    assert not (tmp_path / "checkpoints" / "step-5").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint(number, code, toy_text, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "simple_diffusion_lm", "train", str(toy_text), "--out", str(run)]
    command += ["--model-dim=32", "--layers=1", "--heads=2", "--embedding-dim=16", "--batch-tokens=256"]
    command += ["--steps", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "the same command resumes" in said
    assert checkpoint.newest(run) is not None


def test_a_run_begins_with_the_weights_of_another(toy_data, toy_run, tmp_path):
    config = small(Config(), steps=1, samples=1, learning_rate=1e-12)
    run_training(config, toy_data, tmp_path / "tuned", quiet=True, start_from=toy_run)
    tuned, first = tensors(tmp_path / "tuned"), tensors(toy_run)
    name = "model head.weight"
    torch.testing.assert_close(tuned[name], first[name])
    other = replace(config, model_dim=64)
    with pytest.raises(UserError, match="holds another network than this: keep its"):
        run_training(other, toy_data, tmp_path / "other", quiet=True, start_from=toy_run)


def test_training_ends_when_patience_does(toy_data, tmp_path):
    """With a rate that moves nothing no validation is better than the first; resumed, it knows that."""
    still = {"learning_rate": 1e-12, "validate_every": 2, "save_every": 4, "samples": 0}
    config = small(Config(steps=40), patience=3, **still)
    run_training(config, toy_data, tmp_path, quiet=True)
    first = load_run(tmp_path).progress.step
    assert 8 <= first < 40
    run_training(config, toy_data, tmp_path, quiet=True)
    assert load_run(tmp_path).progress.step <= first + 2
    run_training(replace(config, patience=None), toy_data, tmp_path, quiet=True)
    assert load_run(tmp_path).progress.step == 40


def test_a_disk_without_room_is_seen_before_training(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"checkpoints need [0-9,]+ bytes there, and 1 are free"):
        run_training(small(Config(), steps=2), toy_data, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_machine_is_told_of(toy_data, toy_run, tmp_path, capsys):
    shutil.copytree(toy_run, tmp_path / "run")
    torch.set_num_threads(2)
    try:
        run_training(small(Config(), steps=7, samples=1), toy_data, tmp_path / "run")
    finally:
        torch.set_num_threads(1)
    assert "not to the last bit" in capsys.readouterr().err


def test_a_damaged_corpus_is_not_trained_on(toy_text, tmp_path):
    data = prepare([toy_text], tmp_path / "prepared", vocab_size=300, quiet=True)
    path = tmp_path / "prepared" / "train.ids.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.ids\.bin is damaged"):
        run_training(small(Config(), steps=1), data, tmp_path / "run", quiet=True)


def test_a_changed_configuration_does_not_load(toy_run, toy_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    about = json.loads((run / "config.json").read_text())
    about["config"]["heads"] = 1  # the same shapes, another model
    (run / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_run(run)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        run_training(small(Config(), steps=7, samples=1), toy_data, run, quiet=True)
    (run / "config.json").write_text(json.dumps(sealed(about)))
    with pytest.raises(UserError, match=r"config\.json is not that of step-6"):
        load_run(run)
    about["config"]["heads"], about["config"]["minutes"] = 2, 30.0  # a budget may change
    (run / "config.json").write_text(json.dumps(sealed(about)))
    load_run(run)
    load_run(run / "checkpoints" / "step-6")


def test_a_run_of_a_version_with_another_network_is_told(toy_run, toy_data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    build = Denoiser.__init__

    def with_more(self, *args, **how):
        build(self, *args, **how)
        self.more = torch.nn.Linear(2, 2)

    monkeypatch.setattr(Denoiser, "__init__", with_more)
    with pytest.raises(UserError, match="holds another network than this: use the version"):
        load_run(run)
    with pytest.raises(UserError, match="holds another network than this: use the version"):
        run_training(small(Config(), steps=7, samples=1), toy_data, run, quiet=True)


def test_a_run_of_the_first_version_is_refused_in_one_line(toy_run, toy_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    about = json.loads((run / "config.json").read_text())
    about |= {"format": 1, "config": {**about["config"], "layer_drop": 0.0}}
    (run / "config.json").write_text(json.dumps(sealed(about)))
    for read in (load_run, lambda run: run_training(small(Config(), steps=7), toy_data, run, quiet=True)):
        with pytest.raises(UserError, match=r"^[^\n]* was made by another version: train anew[^\n]*$"):
            read(run)


def test_the_logged_error_is_the_mean_over_predicted_positions(toy_data, tmp_path, monkeypatch):
    """Of x0_hat at one step, per coordinate."""
    found = []
    loss = Diffusion.loss
    monkeypatch.setattr(Diffusion, "loss", lambda *given: found.append(loss(*given)) or found[-1])
    config = small(Config(), steps=3, samples=0, mse_weight=0.1)
    run_training(config, toy_data, tmp_path, quiet=True)
    told = [record["mse"] for record in metrics(tmp_path) if record["kind"] == "train"]
    error = found[0].squared_error
    assert len(error) == found[0].tokens
    assert told[0] == pytest.approx(error.sum().item() / len(error) / config.embedding_dim)
    assert 0.1 < told[0] < 2  # untrained: near the table's own variance


def test_a_whole_number_in_place_of_a_fraction_trains(toy_text, tmp_path):
    """In a process of its own: what checks types in tests takes no int for a float."""
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from simple_diffusion_lm import Config, prepare, run_training
from simple_diffusion_lm.runs.run import load_run
text, out = map(Path, sys.argv[1:])
data = prepare([text], out / "corpus", vocab_size=300, quiet=True)
config = Config(mse_weight=0, steps=2, layers=1, model_dim=32, batch_tokens=512, samples=1)
run_training(config, data, out / "run", quiet=True)
run_training(replace(config, mse_weight=0.0), data, out / "run", quiet=True)
assert load_run(out / "run").progress.step == 2
"""
    subprocess.run([sys.executable, "-c", code, str(toy_text), str(tmp_path)], check=True)


def test_an_example_that_no_batch_holds_is_refused_before_training(toy_data, tmp_path):
    with pytest.raises(UserError, match=r"does not fit into batch_tokens=8: set batch_tokens to \d+ or more"):
        run_training(small(Config(), steps=1, batch_tokens=8), toy_data, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_what_is_cut_from_long_lines_is_said_before_training(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a dog runs .\n" * 99 + "the cat sleeps near the river . " * 5 + "\n")
    data = prepare([text], tmp_path / "prepared", quiet=True, valid=[text])
    config = small(Config(), steps=2, samples=0, crop=12)
    run_training(config, data, tmp_path / "run")
    longest = max(len(line) for line in (data.train[i] for i in range(100)))
    said, lost = capsys.readouterr().err, (longest - 12) / len(data.train.ids)
    assert f"1 lines (1.0%) are longer than 12 tokens: what is beyond, {lost:.1%} of all" in said
    assert f"--crop {longest}" in said
    assert len(load_run(tmp_path / "run").about["lengths"]) == 13
    run_training(small(Config(), steps=2, samples=0, crop=512), data, tmp_path / "whole")
    assert "are longer" not in capsys.readouterr().err
    assert load_run(tmp_path / "whole").about["lengths"][longest] == 1


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_the_packages_own(tmp_path):
    """Installed in an environment inside another repository it has none."""
    installed = tmp_path / ".venv/lib/simple_diffusion_lm"
    installed.mkdir(parents=True)
    (installed / "run.py").touch()
    (tmp_path / "analysis.py").touch()
    git(tmp_path, "init", "--quiet")
    assert commit_of(installed) is None
    git(tmp_path, "add", "analysis.py")
    git(tmp_path, "commit", "--quiet", "-m", "another project")
    assert commit_of(installed) is None
    git(tmp_path, "add", "-f", installed)
    git(tmp_path, "commit", "--quiet", "-m", "the package")
    assert commit_of(installed) == git(tmp_path, "rev-parse", "--short", "HEAD")
    package = Path(simple_diffusion_lm.__file__).parent
    assert machine()["commit"] == commit_of(package)


def test_a_run_says_what_made_it_and_when(toy_run):
    made = about_run(toy_run)["machine"]
    assert made["version"] == simple_diffusion_lm.__version__
    assert made["date"] <= date.today().isoformat()
    assert {"commit", "torch", "processor", "gpu"} <= made.keys()


def test_the_command_of_a_run_can_be_typed_again(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", typed := ["sdlm", "train", "my text.txt", "--out", "a run"])
    run_training(small(Config(), steps=1, samples=0), toy_data, tmp_path / "run", quiet=True)
    assert shlex.split(about_run(tmp_path / "run")["command"]) == typed


def test_a_run_is_looked_at_after_every_validation(toy_data, tmp_path):
    seen = []

    def look(run):
        seen.append([record["step"] for record in metrics(run) if record["kind"] == "valid"])

    config = small(Config(), steps=5, samples=1, validate_every=2)
    run_training(config, toy_data, tmp_path / "run", quiet=True, after_validation=look)
    assert seen == [[2], [2, 4], [2, 4, 5]]


def test_a_file_gets_no_bar_but_a_line_a_minute(toy_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("simple_diffusion_lm.runs.log.LOG_EVERY", 1)
    config = small(Config(), steps=2, samples=0)
    run_training(config, toy_data, tmp_path, quiet=True)
    found = checkpoint.newest(tmp_path)
    about = {**found.manifest, "progress": {**found.manifest["progress"], "seconds": 59.999}}
    checkpoint.save(tmp_path, 2, found.read(checkpoint.MODEL), found.read(checkpoint.STATE), about)
    capsys.readouterr()
    run_training(replace(config, steps=8), toy_data, tmp_path)
    said = capsys.readouterr().err
    assert "\r" not in said
    (line,) = (line for line in said.splitlines() if "tok/s" in line)
    assert line.startswith("38% step 3 loss ")


def test_training_that_slows_down_says_so(toy_data, tmp_path, monkeypatch, capsys):
    """Once when it begins, and again when it was fast in between."""
    monkeypatch.setattr("simple_diffusion_lm.runs.log.LOG_EVERY", 1)
    clock, log_step = iter([1, 2, 3, 4, 104, 204, 205, 206, 306]), Log.step

    def step(log, seen):
        log.state.progress.seconds = next(clock)
        log_step(log, seen)

    monkeypatch.setattr(Log, "step", step)
    run_training(small(Config(), steps=9, samples=0), toy_data, tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "third" in line]
    assert said == ["training is at a third of its best speed: is this machine busy? (docs/trouble.md)"] * 2


@pytest.mark.parametrize("name", ["objective", "schedule", "normaliser"])
def test_what_an_example_added_is_not_known_to_the_command_line(name, toy_run):
    about = about_run(toy_run)
    about["config"][name] = "straight"
    with pytest.raises(UserError, match=f"{name} 'straight' is not known here"):
        checkpoint.model_of(about)


def test_a_checkpoint_is_chosen_by_texts_of_which_nothing_is_given(toy_data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Log, "validate", lambda log, held_out, *others: seen.append(held_out))
    run_training(small(Config(), steps=1), toy_data, tmp_path / "run", quiet=True)
    assert Config().cond_rate > 0 == seen[0].config.cond_rate
    assert seen[0].corpus is toy_data.valid


def test_a_run_begins_with_embeddings_from_cooccurrence(toy_data):
    vectors = cooccurrence_vectors(toy_data.train.ids, len(toy_data.tokenizer), 16, seed=0)
    state = begin(small(Config(), steps=1), toy_data)
    assert torch.equal(state.model.embedding.weight, 4 * vectors)  # the root of 16
    state = begin(small(Config(), steps=1, cooccurrence=False), toy_data)
    assert not torch.allclose(state.model.embedding.weight, 4 * vectors)
