"""The command line as a user meets it: in processes of its own."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from small_models import small

from simple_diffusion_lm.cli.demo import Demo
from simple_diffusion_lm.cli.training import glance
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.run import run_training

ROOT = Path(__file__).parents[2]
TINY = [
    "--model-dim",
    "32",
    "--layers",
    "1",
    "--heads",
    "2",
    "--embedding-dim",
    "16",
    "--batch-tokens",
    "512",
    "--samples",
    "1",
]
COMMANDS = ["demo", "prepare", "train", "distil", "generate", "infill", "vary", "blend", "score", "serve"]
COMMANDS += ["evaluate", "compare", "report"]


def sdlm(*arguments, module=("-m", "simple_diffusion_lm"), cwd=ROOT):
    command = [sys.executable, *module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def refused(*arguments, words, **options):
    done = sdlm(*arguments, **options)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_an_example_and_explains_all_flags(command):
    done = sdlm(command, "--help")
    assert done.returncode == 0
    _, about, flags = done.stdout.split("\n\n", 2)
    assert about == f"sdlm {command}" or about.startswith(f"sdlm {command} ")
    text = " ".join(flags.replace("│", "").split())
    assert not re.search(r"--[a-z-]+(?: [A-Z[{.]\S*)* \((?:default|required)", text), text


def test_from_a_text_file_to_text(toy_text, tmp_path):
    run = tmp_path / "run"
    train = ["train", toy_text, "--out", run, "--steps", "5", "--vocab-size", "300", *TINY]
    done = sdlm(*train)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "resuming" not in done.stderr
    again = sdlm(*train)
    assert "resuming at step 5" in again.stderr
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert sdlm("report", run).stdout.strip() == str(run / "report.html")
    generated = sdlm("generate", run, "--count", "3", "--steps", "4")
    assert len(generated.stdout.splitlines()) == 3
    watched = sdlm("generate", run, "--count", "3", "--steps", "4", "--watch")
    assert watched.stdout == generated.stdout
    assert "\x1b" not in watched.stdout + watched.stderr  # nobody watches: this is no terminal
    filled = sdlm("infill", run, "yesterday the ___ .", "--steps", "4")
    assert filled.stdout.startswith("yesterday the ")
    evaluate = ["evaluate", run, "--data", toy_text, "--samples", "20", "--steps", "4"]
    result = json.loads(sdlm(*evaluate, "--json").stdout)
    assert result["likelihood"]["texts"] == 400
    assert result["likelihood"]["nats_per_token"] > 1.58
    assert result["lines"]["held-out text"]["grammatical"] == 1.0
    printed = sdlm(*evaluate).stdout
    assert "<=" in printed
    assert "| its words shuffled |" in printed
    refused("evaluate", run, "--samples", "3", words="too few")


def test_there_is_a_page_about_a_run_while_it_is_trained(toy_data, tmp_path):
    pages = []

    def look(run):
        glance(run)
        pages.append((run / "report.html").read_text())

    run = tmp_path / "run"
    run_training(
        small(Config(), steps=4, samples=1, validate_every=2),
        toy_data,
        run,
        quiet=True,
        after_validation=look,
    )
    for page, step in zip(pages, (2, 4), strict=True):
        assert "under way" in page
        assert f"{step} steps" in page
    glance(tmp_path / "nothing")  # a fault is no reason to stop


def test_what_the_demo_lacks_is_said_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pictures need matplotlib"):
        Demo(out=tmp_path / "demo")()
    assert not (tmp_path / "demo").exists()


def test_what_can_be_asked_of_a_line(toy_run, tmp_path):
    fast = ["--steps", "3"]
    lines = sdlm("generate", toy_run, "--count", "3", "--length", "4-6", "--must", "goats", *fast)
    assert all("goats" in line.split() for line in lines.stdout.splitlines())
    templates = ["the ___ goats  .", "", "a plain line ."]
    file = tmp_path / "templates.txt"
    file.write_text("\n".join(templates) + "\n")
    filled = sdlm("infill", toy_run, "--file", file, "--candidates", "2", "--jsonl", *fast)
    records = [json.loads(line) for line in filled.stdout.splitlines()]
    assert [record["template"] for record in records] == templates
    for record, gaps in zip(records, (1, 1, 0), strict=True):
        assert len(record["fills"]) == len(record["widths"]) == gaps
        assert record["nats"] > 0
    assert records[0]["text"] == f"the {records[0]['fills'][0]} goats  ."
    assert records[2]["text"] == templates[2]
    varied = sdlm("vary", toy_run, "the goats sleep .", "--strength", "0.00001", *fast)
    assert varied.stdout == "the goats sleep .\n"
    both = ["infill", toy_run, "the ___ .", "___ goats", "--candidates", "1", *fast]
    several = sdlm(*both, "--count", "3").stdout.splitlines()
    assert [line.startswith("the ") for line in several[:3]] == [True] * 3
    assert [line.endswith(" goats") for line in several[3:]] == [True] * 3
    assert len(set(several)) > 2  # a model of a few steps may repeat itself once
    assert several[0] == sdlm(*both).stdout.splitlines()[0]
    varied = sdlm("vary", toy_run, "the goats sleep .", "--strength", "1", "--count", "3", *fast)
    assert len(set(varied.stdout.splitlines())) > 1
    blend = ["blend", toy_run, "the goats sleep .", "a door .", "--count", "3", *fast]
    assert len(blended := sdlm(*blend).stdout.splitlines()) == 3
    assert [json.loads(line)["text"] for line in sdlm(*blend, "--jsonl").stdout.splitlines()] == blended
    nats, text = sdlm("score", toy_run, "the goats sleep .").stdout.strip().split("\t")
    assert float(nats) > 0
    assert text == "the goats sleep ."
    once = sdlm("generate", toy_run, "--count", "2", "--seed", "random", *fast)
    assert sdlm("generate", toy_run, "--count", "2", *once.stderr.split(), *fast).stdout == once.stdout
    assert sdlm("--version").stdout.startswith("simple-diffusion-lm ")
    refused("generate", toy_run, "--count", "0", words="--count must be at least 1")
    refused("infill", toy_run, "the ___ .", "--count", "0", words="--count must be at least 1")
    refused("generate", toy_run, "--must", "Goats", words="'Goats': the tokenizer has no piece for 'G'")
    refused("infill", toy_run, words="give templates or --file")
    refused("infill", toy_run, "--never", "foo", "a ___", words="before --never, which takes all that")
    refused("score", toy_run, "--", "-x", words="no piece for '-'")
    refused("infill", toy_run, "a [[0]] b", words="character 3")
    refused("infill", toy_run, "--file", tmp_path / "none.txt", words="none.txt")
    refused("generate", toy_run, "--length", "7-5", words="'7-5' is no length")
    refused("vary", toy_run, "a door .", "--strength", "2", words="at most 1, not 2")
    refused("vary", toy_run, "goat " * 300, words="was trained on texts of 1 to")
    refused("generate", toy_run, "--batch-size", "0", words="at least 1, not 0")


def test_the_model_in_the_package_is_taken_by_its_name_by_every_command_that_takes_a_run(toy_text, tmp_path):
    def toy(*arguments):
        done = sdlm(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said = done.stderr.splitlines()
        assert re.fullmatch(
            r"toy: the language of a grammar with 260 words, trained in \d+ minutes by sdlm demo: "
            r"<= 1\.\d\d nats a held-out token",
            said[0],
        )
        return done.stdout, said[1:]

    words = {word for line in toy_text.read_text().splitlines() for word in line.split()}
    assert abs(len(words) - 260) < 20
    few = ["--steps", "4"]
    lines, said = toy("generate", "toy", "--count", "3", *few)
    assert len(lines.splitlines()) == 3
    assert said == []
    filled, said = toy("infill", "toy", "yesterday the ___ .", *few)
    assert filled.startswith("yesterday the ")
    assert said == []
    for command in (["vary", "toy", "the goats sleep ."], ["blend", "toy", "the goats sleep .", "a door ."]):
        assert toy(*command, *few)[0]
    assert toy("score", "toy", "the goats sleep .")[0].endswith("\tthe goats sleep .\n")
    evaluated = toy("evaluate", "toy", "--data", toy_text, "--samples", "0", "--examples", "20")
    assert "nats per token" in evaluated[0]
    assert toy("export", "toy", "--out", "mine")[0] == ""
    assert (tmp_path / "mine" / "model.safetensors").is_file()
    toy("train", toy_text, "--finetune-from", "toy", "--out", "run", "--steps", "2", "--samples", "0")
    assert (tmp_path / "run" / "checkpoints" / "step-2").is_dir()


@pytest.mark.parametrize("objective", ["masked", "autoregressive"])
def test_a_baseline_from_a_text_file_to_text(objective, toy_text, tmp_path):
    run = tmp_path / "run"
    train = ["train", toy_text, "--out", run, "--steps", "5", "--objective", objective, *TINY]
    assert "trained" in sdlm(*train).stderr
    assert "resuming at step 5" in sdlm(*train).stderr
    generated = sdlm("generate", run, "--count", "3", "--steps", "4")
    assert len(generated.stdout.splitlines()) == 3
    filled = sdlm("infill", run, "yesterday the ___ .", "--steps", "4")
    printed = sdlm("evaluate", run, "--data", toy_text, "--samples", "0").stdout
    if objective == "masked":
        assert filled.stdout.startswith("yesterday the ")
        assert "<=" in printed
    else:
        assert filled.returncode == 2
        assert "from left to right" in filled.stderr
        prompted = sdlm("infill", run, "yesterday the ___", "--candidates", "2")
        assert prompted.stdout.startswith("yesterday the ")
        assert "<=" not in printed  # its likelihood is exact
        refused("generate", run, "--length", "5", words="ends its lines itself")
    refused("vary", run, "a door .", words="only continuous diffusion")


def test_contenders_are_compared_and_resumed(tmp_path):
    out = tmp_path / "comparison"
    compare = ["compare", "--out", out, "--minutes", "0.05", "--lines", "20", "--examples", "50"]
    compare += ["--contenders", "modern", "autoregressive", *TINY]
    done = sdlm(*compare)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["runs"]) == {"modern-0", "autoregressive-0"}
    assert set(results["lines"]) == {"held-out text", "its words shuffled"}
    steps = {point["steps"] for point in results["runs"]["modern-0"]["points"]}
    assert steps == {1, 2, 4, 8, 16, 32, 64}
    assert "| autoregressive |" in done.stdout
    assert (out / "results.png").stat().st_size > 10_000
    assert (out / "results.md").read_text().strip() == done.stdout.strip()
    for run in set(results["runs"]):  # what is measured is not trained anew, its run being gone
        shutil.rmtree(out / run)
    again = sdlm(*compare)
    assert again.stdout == done.stdout
    assert "training" not in again.stderr
    assert "measuring" not in again.stderr
    refused(*compare, "--stream", words="the toy language takes no --stream")


def test_running_text_in_and_out(toy_text, tmp_path):
    """A stream: windows of running text, line breaks and blank lines among its tokens."""
    book = tmp_path / "book.txt"
    book.write_text(toy_text.read_text().replace("?\n", "?\n\n"))
    run = tmp_path / "run"
    done = sdlm("train", book, "--stream", "--out", run, "--steps", "4", *TINY, "--window=32")
    assert done.returncode == 0, done.stderr
    generate = ["generate", run, "--count", "3", "--steps", "3", "--length", "20"]
    texts = [json.loads(line)["text"] for line in sdlm(*generate, "--jsonl").stdout.splitlines()]
    assert len(texts) == 3
    assert any("\n" in text for text in texts)
    assert sdlm(*generate).stdout == "\n-----\n".join(texts) + "\n"  # they can be told from each other
    evaluate = ["evaluate", run, "--data", book, "--json", "--samples", "20", "--steps", "4"]
    result = json.loads(sdlm(*evaluate).stdout)
    assert result["likelihood"]["length"] == 0
    assert result["lines"]["samples"]["lines"] == 20


def test_the_original_command_line(toy_text, toy_run, tmp_path):
    run = tmp_path / "checkpoint"
    flags = [f"-d={toy_text}", f"-spm={toy_run / 'tokenizer.model'}", f"-ckpt={run}"]
    flags += ["-ep=1", "-b=64", "-lr=1e-3", "-wup=2", "-decs=100", "-wd=0.01", "-acc=2"]
    flags += ["-edim=16", "-mdim=32", "-numl=1", "-do=0.1", "-ld=0", "-cl=24", "-ngen=2"]
    done = sdlm(*flags, module=["train.py"])
    assert done.returncode == 0, done.stderr
    config = json.loads((run / "config.json").read_text())["config"]
    expected = {
        "epochs": 1, "batch_size": 64, "learning_rate": 1e-3, "warmup_steps": 2, "decay_steps": 100,
        "weight_decay": 0.01, "accumulate": 2, "embedding_dim": 16, "model_dim": 32, "layers": 1,
        "dropout": 0.1, "crop": 24, "samples": 2, "regress": True, "posterior": False,
        "schedule": "cosine", "optimizer": "adamw", "heads": 8, "batch_tokens": 64 * 24,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    assert len(sdlm("generate", run, "--count", "2", "--steps", "3").stdout.splitlines()) == 2
    refused(*flags, "-ld=0.1", words="-ld must be 0", module=["train.py"])
    (tmp_path / "ckpt.pt").write_bytes(b"PK")
    words = "ckpt.pt: a checkpoint of the original script cannot be read"
    refused(*flags, f"-ckpt={tmp_path / 'ckpt.pt'}", words=words, module=["train.py"])


def test_faults_are_one_line_and_exit_code_2(toy_text, tmp_path):
    out = tmp_path / "out"
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text("\n\n")
    latin.write_bytes(b"fine\ncaf\xe9\n")
    train = ["--out", out, "--steps", "2"]
    refused("train", tmp_path / "missing.txt", *train, words="missing.txt")
    refused("train", empty, *train, words="empty.txt")
    refused("train", latin, *train, words="latin.txt:2")
    refused("train", toy_text, *train, "--vocab-size", "100000", words="100000")
    refused(
        "train",
        toy_text,
        *train,
        "--tokenizer",
        "char",
        words="char: no tokenizer (bpe, chars, bytes, a file)",
    )
    refused("train", toy_text, *train, "--tokenizer", "chars", "--vocab-size", "9", words="BPE tokenizer")
    refused("train", toy_text, *train, "--model-dim", "130", words="model_dim must be a multiple")
    refused("train", toy_text, *train, "--optimizer", "sgd", words="optimizer must be one of adamw, muon")
    refused("train", toy_text, "--out", toy_text, "--steps", "2", words="toy.txt")
    refused("train", toy_text, *train, "--cond-dim", "2", words="cond_dim must be 0")
    no_steps = sdlm("train", toy_text, "--out", out, "--steps", "0")
    assert no_steps.stderr.splitlines()[-1] == "sdlm: steps must be at least 1, not 0"  # and no other fault
    refused("compare", "--out", out, "--seeds", "0", words="the number of runs must be at least 1")
    refused("report", "--out", tmp_path / "x.html", words="give one run")
    refused("evaluate", "toy", "--data", toy_text, "--samples", "-1", words="exported")
    for word in ("[]", "3"):
        (tmp_path / "config.json").write_text(word)
        refused("generate", tmp_path, words="config.json is damaged")
    (tmp_path / "config.json").unlink()
    refused("generate", tmp_path, words="no run here")
    assert not out.exists() or not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "choice"),
    [
        (["generate", "run", "--sampler", "typo"], "ddpm"),
        (["train", "text", "--out", "run", "--objective", "typo"], "autoregressive"),
        (["train", "text", "--out", "run", "--recipe", "typo"], "original"),
        (["compare", "--out", "run", "--size", "typo"], "base"),
        (["compare", "--out", "run", "--contenders", "modern", "typo"], "masked"),
    ],
)  # fmt: skip
def test_a_bad_choice_is_refused_by_the_parser_with_those_there_are(arguments, choice):
    done = sdlm(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert choice in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_refused(toy_text, tmp_path):
    tmp_path.chmod(0o500)
    refused("train", toy_text, "--out", tmp_path / "run", "--steps", "2", words="run")


def test_a_pipe_that_closes_early_is_no_error(toy_run):
    command = f"{sys.executable} -m simple_diffusion_lm generate {toy_run} --steps 2 --count 2 | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr


def test_a_server_starts_answers_and_ends_well(toy_run):
    command = [sys.executable, "-m", "simple_diffusion_lm", "serve", str(toy_run), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    line = process.stderr.readline()
    address = re.search(r"http://127.0.0.1:[0-9]+", line)[0]
    asked = httpx.post(f"{address}/v1/generate", json={"steps": 2}, timeout=60)
    assert asked.status_code == 200
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said == ""
    refused("serve", toy_run, "--host", "0.0.0.0", words="token")
    refused("serve", toy_run, "--port", "99999", words="port")


def test_a_run_is_finetuned_on_another_corpus(toy_run, toy_text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n".join(toy_text.read_text().splitlines()[:200]) + "\n")
    train = ["train", other, "--out", tmp_path / "tuned", "--steps", "2"]
    done = sdlm(*train, "--finetune-from", toy_run)
    assert done.returncode == 0, done.stderr
    tuned, first = (json.loads((r / "config.json").read_text()) for r in (tmp_path / "tuned", toy_run))
    assert tuned["tokenizer"] == first["tokenizer"]
    assert tuned["config"]["model_dim"] == first["config"]["model_dim"]
    refused(*train, "--finetune-from", toy_run, "--size", "small", words="takes recipe")
    refused(*train, "--finetune-from", toy_run, "--vocab-size", "99", words="vocab_size from its run")
    refused(*train, "--finetune-from", tmp_path / "none", words="no run here")


def test_on_a_terminal_lines_are_watched_and_stay(toy_run):
    """What is drawn is taken away again, and what was written is there at the end."""
    few = ["generate", str(toy_run), "--count", "2", "--steps", "3"]
    plain = sdlm(*few).stdout.splitlines()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "simple_diffusion_lm", *few, "--watch"]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    drawn, _, rest = seen.decode().rpartition("\x1b[J")
    assert drawn.count("\x1b[K") >= 3
    assert [line for line in re.sub(r"\x1b\[(\?7h|0m)", "", rest).splitlines() if line] == plain
