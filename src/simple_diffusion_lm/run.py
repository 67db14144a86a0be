"""A run directory, from nothing or from where it was left, to the end of its budget.

RUN/
    config.json       the configuration, and what else generation needs to know
    tokenizer.model   the tokenizer, by copy
    metrics.jsonl     one line every few steps and at each validation
    samples.txt       lines generated at each validation
    checkpoints/      see training/checkpoint.py
    .lock             held by the process that trains here
"""

import dataclasses
import json
import math
import shutil
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import UserError
from .run_log import Log
from .sealing import sealed
from .text.batches import Batches, Masks
from .text.corpus import Corpus, Prepared
from .training import checkpoint
from .training.compiling import compile_layers
from .training.config import MAY_CHANGE, Config
from .training.distributed import check_divisible
from .training.lock import locked
from .training.loop import train
from .training.processes import on_rank_0, pick_device, rank
from .training.signals import Signals, Stop
from .training.state import State

BYTES_SAVED = 16  # of a parameter: itself, its average, and what the optimiser knows of it


def make_batches(config: Config, data: Prepared, corpus: Corpus, *, masks: bool) -> Batches:
    """The batches of one part, with the configuration's masks or with none."""
    rates = Masks(config.prefix_rate, config.span_rate, config.random_rate)
    return Batches(
        corpus,
        data.tokenizer,
        batch_tokens=config.batch_tokens,
        batch_size=config.batch_size,
        crop=config.crop,
        stream=data.stream,
        masks=rates if masks else Masks(0, 0, 0),
        subword_alpha=config.subword_alpha if masks else 0.0,
        seed=config.seed,
    )


def describe(config: Config, data: Prepared, batches: Batches) -> dict[str, Any]:
    """config.json: enough to build the model, to check a corpus, and to draw lengths."""
    return {
        "format": 1,
        "config": dataclasses.asdict(config),
        "vocab_size": len(data.tokenizer),
        "tokenizer": data.tokenizer.fingerprint,
        "corpus": data.meta["key"],
        "prepared": str(data.directory.resolve()),
        "stream": data.stream,
        "lengths": np.bincount(batches.lengths, minlength=config.crop + 1).tolist(),
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
    }


def open_run(run: Path, about: dict[str, Any], data: Prepared) -> None:
    """Makes the directory, or checks that the run in it is this one.

    Raises UserError when it holds another run, or cannot be written.
    """
    path = run / "config.json"
    try:
        run.mkdir(parents=True, exist_ok=True)
        if path.exists():
            old = json.loads(path.read_text())
            if old != sealed(old):
                raise ValueError("not what was written")
            _check_same(run, old, about)
        check_free(run)
        checkpoint.write_atomically(path, json.dumps(sealed(about), indent=1).encode())
        checkpoint.write_atomically(run / "tokenizer.model", data.tokenizer.model)
    except OSError as error:
        raise UserError(
            f"{run}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    except ValueError:
        raise UserError(f"{path} is damaged: choose another --out, or delete {run}") from None


def check_free(run: Path) -> None:
    """Raises UserError when there is something at this path that is neither a run nor a corpus."""
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file: choose another --out")
    if run.exists() and not (run / "config.json").exists():
        others = [p.name for p in run.iterdir() if p.name != "corpus"]
        if others:
            raise UserError(f"{run} holds something else ({others[0]}): choose another --out")


def _check_same(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, what in (("tokenizer", "tokenizer"), ("corpus", "corpus")):
        if old.get(name) != new[name]:
            raise UserError(
                f"{run} was trained with another {what}: choose another --out (and --finetune-from "
                f"{run}, to begin with its weights)"
            )
    before, after = old["config"], new["config"]
    changed = [k for k in after if k not in MAY_CHANGE and before.get(k) != after[k]]
    if changed:
        differences = ", ".join(f"{k} was {before.get(k)}, now {after[k]}" for k in changed)
        raise UserError(f"{run} holds a run that differs ({differences}): choose another --out")


def run_training(
    config: Config,
    data: Prepared,
    run: Path,
    *,
    quiet: bool = False,
    pause_at: float = math.inf,
    shard: bool = False,
    start_from: Path | None = None,
) -> None:
    """Trains in `run`, resuming what is there. Ends with a checkpoint, whatever the save interval.

    pause_at: seconds of training after which to end before the budget is spent.
    shard: divide parameters, optimiser and average among the processes (training/distributed.py).
    start_from: a run whose weights a new one begins with.

    Raises:
        UserError: the configuration, the corpus or the directory will not do, or another process
            trains there; before any training.
        NonFinite: the loss or gradient broke; the last checkpoint is untouched.
        Stop: after a signal (see Signals), with a checkpoint of the step that was under way.
    """
    config.check()
    batches = make_batches(config, data, data.train, masks=True)
    if not len(batches.lengths):
        raise UserError("the corpus has no line to train on")
    if shard:
        check_divisible(may_skip=config.layer_drop > 0)
    on_rank_0(data.check)
    on_rank_0(lambda: open_run(run, describe(config, data, batches), data))
    with ExitStack() as held:
        on_rank_0(lambda: held.enter_context(locked(run)))
        _train_in(run, config, data, batches, quiet or rank() > 0, pause_at, shard, start_from)


def _train_in(
    run: Path,
    config: Config,
    data: Prepared,
    batches: Batches,
    quiet: bool,
    pause_at: float,
    shard: bool,
    start_from: Path | None,
) -> None:
    held_out = make_batches(config, data, data.valid, masks=False) if len(data.valid) else None
    device = pick_device()
    state = State(config, len(data.tokenizer), data.train, device, shard=shard)
    log = Log(run, config, state, len(batches.order(0)), quiet=quiet)
    resumed = log.resume()
    if not resumed and start_from is not None:
        state.start_from(start_from)
    on_rank_0(partial(check_room, run, state, resumed=resumed))
    validate = partial(log.validate, held_out, data, device)
    saved = state.progress.step
    with Signals() as signals, log:
        signals.leaving_at_once(lambda: log.begin(compile_layers(config, state.model, device)))
        if stop := signals.agreed():
            raise Stop(stop)
        for step in train(config, state, batches, device):
            number = state.progress.step
            log.step(step)
            if number % config.validate_every == 0:
                signals.leaving_at_once(validate)
            stop = signals.agreed()
            if number % config.save_every == 0 or stop:
                log.save()
                saved = number
            if stop:
                raise Stop(stop)
            if state.progress.seconds >= pause_at:
                break
        if state.progress.step != saved:
            if state.progress.step % config.validate_every:
                signals.leaving_at_once(validate)
            log.save()
        if stop := signals.agreed():
            raise Stop(stop)


def check_room(run: Path, state: State, *, resumed: bool) -> None:
    """Raises UserError where the disk has no room for the checkpoints of a run.

    While one is written, those that are kept are there too.
    """
    one = BYTES_SAVED * sum(parameter.numel() for parameter in state.model.parameters())
    free = shutil.disk_usage(run).free
    if free < (more := one * (1 if resumed else checkpoint.KEPT + 2)):
        raise UserError(
            f"{run}: checkpoints need {more:,} bytes there, and {free:,} are free: make room, or "
            "choose another --out"
        )
