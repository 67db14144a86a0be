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
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from .errors import UserError
from .run_log import Log
from .text.batches import Batches, Masks
from .text.corpus import Corpus, Prepared
from .training import checkpoint
from .training.compiling import compile_layers
from .training.config import Config
from .training.distributed import check_divisible
from .training.lock import locked
from .training.loop import autocast_dtype, train
from .training.processes import largest, on_rank_0, rank, world
from .training.state import State

MAY_CHANGE = ("steps", "epochs", "minutes", "samples", "validate_every", "save_every", "compile")


def pick_device() -> torch.device:
    """CUDA (each process of a machine its own device), else Apple's MPS, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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
            _check_same(run, json.loads(path.read_text()), about)
        check_free(run)
        checkpoint.write_atomically(path, json.dumps(about, indent=1).encode())
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
            raise UserError(f"{run} was trained with another {what}: choose another --out")
    before, after = old["config"], new["config"]
    changed = [k for k in after if k not in MAY_CHANGE and before.get(k) != after[k]]
    if changed:
        differences = ", ".join(f"{k} was {before.get(k)}, now {after[k]}" for k in changed)
        raise UserError(f"{run} holds a run that differs ({differences}): choose another --out")


class Stop(Exception):
    """A signal asked the run to end; it ended with a checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def noticing_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are added to, so that a step is finished before stopping."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run_training(
    config: Config,
    data: Prepared,
    run: Path,
    *,
    quiet: bool = False,
    pause_at: float = math.inf,
    shard: bool = False,
) -> None:
    """Trains in `run`, resuming what is there. Ends with a checkpoint, whatever the save interval.

    pause_at: seconds of training after which to end before the budget is spent.
    shard: divide parameters, optimiser and average among the processes (training/distributed.py).

    Raises:
        UserError: the configuration, the corpus or the directory will not do, or another process
            trains there; before any training.
        NonFinite: the loss or gradient broke; the last checkpoint is untouched.
        Stop: after SIGINT or SIGTERM, with a checkpoint of the step that was under way.
    """
    config.check()
    batches = make_batches(config, data, data.train, masks=True)
    if not len(batches.lengths):
        raise UserError("the corpus has no line to train on")
    if shard:
        check_divisible(may_skip=config.layer_drop > 0)
    on_rank_0(lambda: open_run(run, describe(config, data, batches), data))
    with ExitStack() as held:
        on_rank_0(lambda: held.enter_context(locked(run)))
        _train_in(run, config, data, batches, quiet or rank() > 0, pause_at, shard)


def _train_in(
    run: Path,
    config: Config,
    data: Prepared,
    batches: Batches,
    quiet: bool,
    pause_at: float,
    shard: bool,
) -> None:
    held_out = make_batches(config, data, data.valid, masks=False) if len(data.valid) else None
    device = pick_device()
    state = State(config, len(data.tokenizer), data.train, device, shard=shard)
    log = Log(run, config, state, len(batches.order(0)), quiet=quiet)
    log.resume()
    compiled = compile_layers(config, state.model, device)
    log.say(
        f"{sum(p.numel() for p in state.model.parameters()) / 1e6:.2f} M parameters, "
        f"{len(batches.lengths):,} examples, {f'{world()} x ' * (world() > 1)}{device.type} in "
        f"{'bfloat16' if autocast_dtype(device) else 'float32'}, {torch.get_num_threads()} threads"
        f"{', compiled' if compiled else ''}"
    )
    saved = state.progress.step
    with noticing_signals() as signals, log:
        for step in train(config, state, batches, device):
            number = state.progress.step
            log.step(step)
            stop = int(largest(float(signals[0] if signals else 0)))  # any process's stops all
            if number % config.validate_every == 0:
                log.validate(held_out, data, device)
            if number % config.save_every == 0 or stop:
                log.save()
                saved = number
            if stop:
                raise Stop(stop)
            if state.progress.seconds >= pause_at:
                break
        if state.progress.step != saved:
            if state.progress.step % config.validate_every:
                log.validate(held_out, data, device)
            log.save()
