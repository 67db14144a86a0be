"""A run directory (docs/design.md has its files), from nothing or where it was left, to the end."""

import errno
import json
import math
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..core import Config
from ..core.data import Batches, Corpus
from ..core.generate import TextModel
from ..core.loss import Loss
from ..core.train import Progress, State, train
from ..corpus.cooccurrence import cooccurrence_vectors
from ..corpus.prepare import Prepared
from ..corpus.sealing import sealed
from ..corpus.tokenizer import Tokenizer
from ..devices.distributed import OwnRows, divided_loss
from ..devices.processes import largest, on_rank_0, pick_device, rank, world
from ..errors import UserError, writing_to
from . import checkpoint
from .compiling import compile_layers
from .config import MAY_CHANGE, check
from .log import Log, tracking
from .signals import Signals, Stop

FORMAT = 5  # of config.json and the checkpoints
ROOM = 64  # ids that a text may have where no line of the corpus is longer
BYTES_SAVED = 12  # of a parameter: itself, and what the optimiser knows of it


def make_batches(config: Config, data: Prepared, corpus: Corpus) -> Batches:
    """The batches of one part. Raises UserError when an example does not fit into a batch."""
    batches = Batches(config, corpus, data.tokenizer.pad_id, data.stream)
    if (longest := batches.lengths().max(initial=0)) > config.batch_tokens:
        name, most = "window" if data.stream else "crop", config.batch_tokens
        advice = f"set batch_tokens to {longest} or more, or {name} to {most} or less"
        raise UserError(f"an example of {longest} ids does not fit into batch_tokens={most}: {advice}")
    return batches


def room_of(config: Config, data: Prepared) -> int:
    """How many ids a text of this model may have: those of the longest line, or ROOM, within the crop."""
    if data.stream:
        return config.window
    longest = max(int(np.diff(part.offsets).max(initial=ROOM)) for part in (data.train, data.valid))
    return min(config.crop, longest)


def say_what_is_cut(config: Config, data: Prepared) -> None:
    """Says on stderr how much of the corpus is beyond the crop, and will not be trained on."""
    lengths = np.diff(data.train.offsets)
    beyond = np.maximum(lengths - config.crop, 0)
    if data.stream or not beyond.any():
        return
    share, lost = (beyond > 0).mean(), beyond.sum() / lengths.sum()
    longer = f"{(beyond > 0).sum():,} lines ({share:.1%}) are longer than {config.crop} tokens"
    cut = f"what is beyond, {lost:.1%} of all tokens, is not trained on"
    ways = f"--crop {lengths.max()} takes them whole, in more memory; --stream reads all as running text"
    print(f"{longer}: {cut}. {ways}", file=sys.stderr)


def describe(config: Config, data: Prepared, batches: Batches) -> dict[str, Any]:
    """config.json: enough to build the model, to check a corpus, and to draw lengths."""
    return {
        "format": FORMAT,
        "config": asdict(config),
        "vocab_size": len(data.tokenizer),
        "tokenizer": data.tokenizer.fingerprint,
        "corpus": data.meta["key"],
        "prepared": str(data.directory.resolve()),
        "stream": data.stream,
        "lengths": np.bincount(batches.lengths(), minlength=room_of(config, data) + 1).tolist(),
        "machine": machine(),
        "command": shlex.join(sys.argv),
    }


def machine() -> dict[str, Any]:
    """What something is trained or measured on, by what, and when."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": capabilities.get("cpu_name", platform.processor()),
        "cores": capabilities.get("num_physical_cores"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "version": version("simple-diffusion-lm"),
        "commit": commit_of(Path(__file__).parents[1]),
        "date": date.today().isoformat(),
    }


def commit_of(folder: Path) -> str | None:
    """The last commit that changed a folder; None where no repository holds it.
    An installed package may lie inside another project's repository, and has none of that."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h", "--", "."]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git
        return None


def about_run(run: str | Path) -> dict[str, Any]:
    """What config.json says of a run, or of the run that a checkpoint is in (see describe).
    Raises UserError when there is none, it is of another version, or it is not what was written."""
    run = checkpoint.run_of(Path(run))
    try:
        about: dict[str, Any] = json.loads((run / "config.json").read_text())
        if about != sealed(about):
            raise ValueError("not what was written")
        if about["format"] != FORMAT:
            raise UserError(f"{run} was made by another version: train anew (another --out)")
        Config(**about["config"])
        checkpoint.identity(about)
    except FileNotFoundError:
        raise UserError(f"{run}: no run here (config.json is missing)") from None
    except OSError as error:
        raise UserError(f"{run}: cannot read config.json ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{run}/config.json is damaged: choose another --out, or delete {run}") from None
    return about


class Loaded(NamedTuple):
    """A trained model, ready to use, and what is known of its run."""

    model: TextModel
    tokenizer: Tokenizer
    about: dict[str, Any]  # see describe
    progress: Progress
    bound: float | None  # nats a token of held-out text, where that was measured


def load_run(run: str | Path) -> Loaded:
    """Reads a run (its newest whole checkpoint, or an earlier one that was better on held-out text), or the
    directory of one of its checkpoints. Raises UserError when there is none, or its files do not belong
    together."""
    about = about_run(run)
    found = checkpoint.to_use(Path(run))
    run = checkpoint.run_of(Path(run))
    tokenizer = Tokenizer.load(run)
    if tokenizer.fingerprint != about["tokenizer"]:
        raise UserError(f"{run}/{tokenizer.name} is not the one this run was trained with: put that back")
    if found is None:
        way = "export it again" if checkpoint.is_exported(run) else "train it first (sdlm train)"
        raise UserError(f"{run}: no whole checkpoint; {way}")
    if found.manifest.get("run") != checkpoint.identity(about):
        raise UserError(f"{run}/config.json is not that of {found.path.name}: put that back")
    model, progress = checkpoint.model_of(about), Progress(**found.manifest["progress"])
    found.load_into(model)
    return Loaded(model, tokenizer, about, progress, found.manifest.get("bound"))


def check_free(run: Path) -> None:
    """Raises UserError when there is something at this path that is neither a run nor a corpus."""
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file: choose another --out")
    others = [p.name for p in run.glob("[!.]*") if p.name != "corpus"]  # hidden ones a kill may have left
    if others and "config.json" not in others:
        raise UserError(f"{run} holds something else ({others[0]}): choose another --out")


def open_run(run: Path, about: dict[str, Any], data: Prepared) -> AbstractContextManager[object]:
    """Makes the directory, or checks that the run in it is this one, and holds its lock. Raises UserError
    when it holds another run, when another process trains in it, or when it cannot be written."""
    with writing_to(run):
        check_free(run)
        run.mkdir(parents=True, exist_ok=True)
        if checkpoint.is_exported(run):
            raise UserError(f"{run} is an exported model: choose another --out, and --finetune-from {run}")
        if (run / "config.json").exists():
            check_same(run, about_run(run), about)
        held = locked(run)
        checkpoint.write_atomically(run / "config.json", json.dumps(sealed(about), indent=1).encode())
        checkpoint.write_atomically(run / data.tokenizer.name, data.tokenizer.model)
    return held


def check_same(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises UserError where the run that is there (old: see describe) is not the one that is asked for."""
    for what in ("tokenizer", "corpus", "teacher"):
        if old.get(what) != new[what]:
            advice = f"choose another --out (and --finetune-from {run}, to begin with its weights)"
            raise UserError(f"{run} was trained with another {what}: {advice}")
    before, after = old["config"], new["config"]
    if changed := [k for k in after if k not in MAY_CHANGE and before.get(k) != after[k]]:
        differences = ", ".join(f"{k} was {before.get(k)}, now {after[k]}" for k in changed)
        raise UserError(f"{run} holds a run that differs ({differences}): choose another --out")


def locked(run: Path) -> AbstractContextManager[object]:
    """Holds RUN/.lock. The kernel lets go of it when the process ends, however it ends.
    Raises UserError, with the process and the machine, when another holds it."""
    holder = run / ".holder"  # Windows lets nobody read or write a file that is locked
    try:
        held = FileLock(run / ".lock").acquire(blocking=False)
    except Timeout:
        who = holder.read_text() if holder.exists() else "it just began"
        fault = f"{run}: another process trains here ({who})"
        raise UserError(f"{fault}: wait for it, or choose another --out") from None
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOLCK) not in (errno.ENOLCK, errno.ENOTSUP):
            raise
        print(f"{run}: no locks on this disk: see to it that nothing else trains here", file=sys.stderr)
        return nullcontext()
    holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    return held


def check_room(run: Path, state: State) -> None:
    """Raises UserError where the disk has no room for the checkpoints that a run keeps, and one more."""
    one = BYTES_SAVED * sum(parameter.numel() for parameter in state.model.parameters())
    need = one if state.progress.step else one * (checkpoint.KEPT + 2)
    free = shutil.disk_usage(run).free
    if free < need:
        fault = f"checkpoints need {need:,} bytes there, and {free:,} are free"
        raise UserError(f"{run}: {fault}: make room, or choose another --out")


def run_training(
    config: Config,
    data: Prepared,
    run: str | Path,
    *,
    quiet: bool = False,
    pause_at: float = math.inf,
    start_from: Path | None = None,
    loss_of: Callable[[State], Loss] | None = None,
    teacher: str | None = None,
    after_validation: Callable[[Path], object] = lambda run: None,
    tracker: str | None = None,
) -> None:
    """Trains in `run`, resuming what is there. Ends with a checkpoint, whatever the save interval.

    Args:
        pause_at: seconds of training after which to end before the budget is spent.
        start_from: a run whose weights a new one begins with.
        loss_of: makes a student's loss of its state, which is new (distil.py).
        teacher: what it learns from, which stays the same when it is resumed.
        after_validation: is called with the run after each validation, by one process.
        tracker: a name in log.TRACKERS, where metrics go too.

    Raises:
        UserError: configuration, corpus or directory will not do, or are in use; before any training.
        NonFinite: the loss or gradient broke; the last checkpoint is untouched.
        Stop: after a signal (see Signals), with a checkpoint of the step that was under way.
    """
    run = Path(run)
    check(config, has_teacher=loss_of is not None)
    batches = make_batches(config, data, data.train)
    about = {**describe(config, data, batches), "teacher": teacher}
    if not quiet and rank() == 0:
        say_what_is_cut(config, data)
    on_rank_0(data.check)
    with ExitStack() as held:
        on_rank_0(lambda: held.enter_context(open_run(run, about, data)))
        state = begin(config, data)
        loss = state.model.loss if loss_of is None else loss_of(state)
        log = Log(run, about, state, batches, quiet or rank() > 0)
        held.enter_context(log.bar)
        log.resume(start_from)
        on_rank_0(lambda: check_room(run, state))
        # A student's bound is not what it learns to lower: its newest checkpoint is its best.
        measured = len(data.valid) > 0 and config.passes is None
        held_out = make_batches(replace(config, cond_rate=0.0), data, data.valid) if measured else None
        validate, progress = partial(log.validate, held_out, data, after_validation), state.progress
        if tracker is not None:
            logged = tracking(tracker, run, about["config"], progress.step)
            on_rank_0(lambda: log.tracks.append(held.enter_context(logged)))
        signals = held.enter_context(Signals())
        signals.leaving_at_once(lambda: log.begin(compile_layers(config, state.model)))
        if world() > 1:
            loss, batches = divided_loss(state.model, loss), OwnRows(**vars(batches))
        for step in train(config, state, batches, loss):
            progress.seconds = largest(progress.seconds)
            log.step(step)
            if progress.step % config.validate_every == 0:
                signals.leaving_at_once(validate)
                if log.is_over():
                    break
            if signals.agreed() or progress.seconds >= pause_at:
                break
            if progress.step % config.save_every == 0:
                log.save()
        if log.saved != progress.step:
            if progress.step % config.validate_every and not signals.agreed():
                signals.leaving_at_once(validate)
            log.save()
        if stop := signals.agreed():
            raise Stop(stop)


def begin(config: Config, data: Prepared) -> State:
    """A new run on a corpus."""
    counts, table = torch.from_numpy(data.train.counts(len(data.tokenizer))), None
    if config.cooccurrence:
        dim = config.embedding_dim
        vectors = cooccurrence_vectors(data.train.ids, len(counts), dim, seed=config.seed)
        table = vectors * dim**0.5  # of norm 1, and the rows of a table have norm sqrt(D)
    return State.of(config, counts, pick_device(), table)
