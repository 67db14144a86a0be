"""A run directory, from nothing or from where it was left, to the end of its budget.

RUN/
    config.json       the configuration, and what else generation needs to know
    tokenizer.model   the tokenizer, by copy
    metrics.jsonl     one line every few steps and at each validation
    samples.txt       lines generated at each validation
    checkpoints/      see training/checkpoint.py
"""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .diffusion.schedule import FittedSchedule
from .errors import UserError
from .generation import DiffusionLM
from .text.batches import Batches, Masks
from .text.corpus import Corpus, Prepared
from .training import checkpoint
from .training.config import Config
from .training.loop import Step, autocast_dtype, fraction_done, train
from .training.state import State
from .training.validation import held_out_bound

LOG_EVERY = 20  # steps
VALIDATION_EXAMPLES = 512
MAY_CHANGE = ("steps", "epochs", "minutes", "samples", "validate_every", "save_every")
SAMPLE_STEPS = 32


def pick_device() -> torch.device:
    """CUDA, else Apple's MPS, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
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
        elif any(p.name != "corpus" for p in run.iterdir()):
            raise UserError(f"{run} holds something else: choose an empty or a new --out")
        checkpoint.write_atomically(path, json.dumps(about, indent=1).encode())
        checkpoint.write_atomically(run / "tokenizer.model", data.tokenizer.model)
    except OSError as error:
        raise UserError(
            f"{run}: cannot be written ({error.strerror}); choose another --out"
        ) from None
    except ValueError:
        raise UserError(f"{path} is damaged: choose another --out, or delete {run}") from None


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


def run_training(config: Config, data: Prepared, run: Path, *, quiet: bool = False) -> None:
    """Trains in `run`, resuming what is there. Ends with a checkpoint, whatever the save interval.

    Raises:
        UserError: the configuration, the corpus or the directory will not do; before any training.
        NonFinite: the loss or gradient broke; the last checkpoint is untouched.
        Stop: after SIGINT or SIGTERM, with a checkpoint of the step that was under way.
    """
    config.check()
    batches = make_batches(config, data, data.train, masks=True)
    held_out = make_batches(config, data, data.valid, masks=False) if len(data.valid) else None
    if not len(batches.lengths):
        raise UserError("the corpus has no line to train on")
    open_run(run, describe(config, data, batches), data)
    device = pick_device()
    state = State(config, len(data.tokenizer), data.train)
    state.denoiser.to(device)
    state.average.to(device)
    if isinstance(state.schedule, FittedSchedule):
        state.schedule.to(device)
    log = Log(run, config, state, len(batches.order(0)), quiet=quiet)
    log.resume()
    log.say(
        f"{sum(p.numel() for p in state.denoiser.parameters()) / 1e6:.2f} M parameters, "
        f"{len(batches.lengths):,} examples, {device.type} in "
        f"{'bfloat16' if autocast_dtype(device) else 'float32'}, {torch.get_num_threads()} threads"
    )
    saved = state.progress.step
    with noticing_signals() as signals, log:
        for step in train(config, state, batches, device):
            number = state.progress.step
            log.step(step)
            if number % config.validate_every == 0:
                log.validate(held_out, data, device)
            if number % config.save_every == 0 or signals:
                log.save()
                saved = number
            if signals:
                raise Stop(signals[0])
        if state.progress.step != saved:
            if state.progress.step % config.validate_every:
                log.validate(held_out, data, device)
            log.save()


class Log:
    """Everything a run tells: the bar, metrics.jsonl, samples.txt, and its checkpoints."""

    def __init__(
        self, run: Path, config: Config, state: State, batches_in_epoch: int, *, quiet: bool
    ) -> None:
        self.run, self.config, self.state = run, config, state
        self.batches_in_epoch = batches_in_epoch
        self.bar = tqdm(
            total=1.0,
            disable=quiet,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}",
        )
        self.quiet = quiet
        self.recent: list[Step] = []
        self.last = (time.monotonic(), 0)

    def __enter__(self) -> "Log":
        self.last = (time.monotonic(), self.state.progress.tokens)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def resume(self) -> None:
        """Loads the newest whole checkpoint; forgets metrics from after it."""
        found = checkpoint.newest(self.run)
        metrics = self.run / "metrics.jsonl"
        step = 0
        if found is not None:
            self.state.load(found.model(), found.state(), found.manifest["progress"])
            step = self.state.progress.step
            self.say(f"resuming at step {step}")
        if metrics.exists():
            kept = [
                x for x in metrics.read_text().splitlines(True) if json.loads(x)["step"] <= step
            ]
            checkpoint.write_atomically(metrics, "".join(kept).encode())

    def step(self, step: Step) -> None:
        self.recent.append(step)
        progress = self.state.progress
        if progress.step % LOG_EVERY and progress.step > 1:
            return
        now, tokens = time.monotonic(), progress.tokens
        values = {
            name: float(torch.stack([getattr(s.losses, name).detach() for s in self.recent]).mean())
            for name in ("total", "mse", "ce", "accuracy")
        }
        values |= {
            "grad_norm": sum(s.grad_norm for s in self.recent) / len(self.recent),
            "learning_rate": step.learning_rate,
            "tokens_per_second": (tokens - self.last[1]) / (now - self.last[0]),
        }
        if isinstance(self.state.schedule, FittedSchedule):
            values["information"] = self.state.schedule.information.item()
        self.write("train", values)
        self.last, self.recent = (now, tokens), []
        done = fraction_done(self.config, progress, self.batches_in_epoch)
        self.bar.n = min(done, 1.0)
        self.bar.set_postfix_str(
            f"step {progress.step} loss {values['total']:.3f} (mse {values['mse']:.3f} "
            f"ce {values['ce']:.3f}) acc {values['accuracy']:.3f} "
            f"{values['tokens_per_second']:,.0f} tok/s"
        )

    def validate(self, held_out: Batches | None, data: Prepared, device: torch.device) -> None:
        """The averaged model's bound on held-out text, its table's health, and some samples."""
        state, denoiser = self.state, self.state.averaged_denoiser
        values: dict[str, float] = dict(denoiser.embedding.spread()._asdict())
        message = f"step {state.progress.step}:"
        if held_out is not None:
            bound = held_out_bound(
                denoiser, state.schedule, held_out, examples=VALIDATION_EXAMPLES, device=device
            )
            values |= {"bound": bound.total, "bound_error": bound.error}
            message += f" held-out nats/token <= {bound.total:.3f} ± {bound.error:.3f}"
        self.write("valid", values)
        self.say(f"{message}; nearest rows {values['nearest_mean']:.2f} apart on average")
        self.sample(data)
        self.last = (time.monotonic(), state.progress.tokens)

    def sample(self, data: Prepared) -> None:
        lengths = json.loads((self.run / "config.json").read_text())["lengths"]
        state = self.state
        model = DiffusionLM(
            state.averaged_denoiser, state.schedule, data.tokenizer, lengths, stream=data.stream
        )
        lines = model.generate(self.config.samples, steps=SAMPLE_STEPS, seed=self.config.seed)
        with (self.run / "samples.txt").open("a", encoding="utf-8") as file:
            for line in lines:
                print(f"step {state.progress.step}\t{line}", file=file)
                self.say(f"    {line}")

    def save(self) -> None:
        state = self.state
        about = {"progress": state.counters()}
        checkpoint.save(
            self.run, state.progress.step, state.model_tensors(), state.state_tensors(), about
        )

    def write(self, kind: str, values: dict[str, float]) -> None:
        progress = self.state.progress
        record = {"kind": kind, "step": progress.step, "seconds": round(progress.seconds, 2),
                  "tokens": progress.tokens, **values}  # fmt: skip
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
