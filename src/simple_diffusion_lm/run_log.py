"""What a run tells while it trains: the bar, metrics.jsonl, samples.txt; and its checkpoints."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .diffusion.schedule import FittedSchedule
from .errors import UserError
from .generation import DiffusionLM
from .model.continuous import Continuous
from .model.objective import Objective
from .text.batches import Batches
from .text.corpus import Prepared
from .training import checkpoint
from .training.config import Config
from .training.loop import Step, fraction_done
from .training.processes import autocast_dtype, on_rank_0, rank, world
from .training.state import State
from .training.validation import held_out_bound

LOG_EVERY = 20  # steps
VALIDATION_EXAMPLES = 512
SAMPLE_STEPS = 32


class Log:
    """Everything a run tells: the bar, metrics.jsonl, samples.txt, and its checkpoints."""

    def __init__(
        self, run: Path, config: Config, state: State, batches_in_epoch: int, *, quiet: bool
    ) -> None:
        self.run, self.config, self.state = run, config, state
        self.batches_in_epoch = batches_in_epoch
        about = json.loads((run / "config.json").read_text())
        self.length_weights: list[int] = about["lengths"]
        self.identity = checkpoint.identity(about)
        self.bar = tqdm(
            total=1.0,
            disable=quiet,
            file=sys.stderr,
            bar_format="{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}",
        )
        self.quiet = quiet
        self.recent: list[Step] = []
        self.bound: tuple[int, dict[str, float]] | None = None  # the last one on held-out text
        self.last = (time.monotonic(), 0)

    def __enter__(self) -> "Log":
        self.last = (time.monotonic(), self.state.progress.tokens)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def resume(self) -> bool:
        """Loads the newest whole checkpoint, if any; forgets metrics from after it."""
        found = checkpoint.newest(self.run)
        metrics = self.run / "metrics.jsonl"
        step = 0
        if found is not None:
            model = found.model_for(self.state.model)
            self.state.load(model, found.state(), found.manifest["progress"])
            step = self.state.progress.step
            self.bar.initial = min(self._done(), 1.0)  # so that the time left is of this session
            self.say(f"resuming at step {step}")
            before, now = found.manifest.get("ran_on"), ran_on()
            if before != now:
                self.say(
                    f"it ran on {before} before and runs on {now} now: "
                    "the same course, but not to the last bit"
                )
        if metrics.exists() and rank() == 0:
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if step_of(line) <= step]
            checkpoint.write_atomically(metrics, "".join(kept).encode())
        return found is not None

    def begin(self, compiled: bool) -> None:
        """Says what is about to be trained, and on what."""
        device = next(self.state.model.parameters()).device
        self.say(
            f"{sum(p.numel() for p in self.state.model.parameters()) / 1e6:.2f} M parameters, "
            f"{sum(self.length_weights):,} examples, "
            f"{f'{world()} x ' * (world() > 1)}{device.type} in "
            f"{'bfloat16' if autocast_dtype(device) else 'float32'}, "
            f"{torch.get_num_threads()} threads"
            f"{', compiled' if compiled else ''}"
        )

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
            "clipped": float(self.state.progress.clipped),
            "learning_rate": step.learning_rate,
            "tokens_per_second": (tokens - self.last[1]) / (now - self.last[0]),
        }
        model = self.state.model
        if isinstance(model, Continuous) and isinstance(model.schedule, FittedSchedule):
            values["information"] = model.schedule.information.item()
        self.write("train", values)
        self.last, self.recent = (now, tokens), []
        self.bar.n = min(self._done(), 1.0)
        self.bar.set_postfix_str(
            f"step {progress.step} loss {values['total']:.3f} (mse {values['mse']:.3f} "
            f"ce {values['ce']:.3f}) acc {values['accuracy']:.3f} "
            f"{values['tokens_per_second']:,.0f} tok/s"
        )

    def _done(self) -> float:
        return fraction_done(self.config, self.state.progress, self.batches_in_epoch)

    def validate(self, held_out: Batches | None, data: Prepared, device: torch.device) -> None:
        """The averaged model's bound on held-out text, its table's health, and some samples."""
        state, model = self.state, self.state.averaged_model
        values: dict[str, float | list[float]] = dict(model.embedding.spread()._asdict())
        message = f"step {state.progress.step}:"
        if held_out is not None:
            bound = held_out_bound(
                model,
                held_out,
                self.length_weights,
                examples=VALIDATION_EXAMPLES,
                device=device,
            )
            found = {"bound": bound.total, "bound_error": bound.error}
            values |= found
            self.bound = (state.progress.step, found)
            message += f" held-out nats/token <= {bound.total:.3f} ± {bound.error:.3f}"
        if isinstance(model, Continuous):
            times = torch.linspace(0, 1, 11, device=device)
            values["levels"] = model.schedule(times).log_snr.tolist()
        self.write("valid", values)
        self.say(f"{message}; nearest rows {values['nearest_mean']:.2f} apart on average")
        self.sample(model, data)
        self.last = (time.monotonic(), state.progress.tokens)

    def sample(self, average: Objective, data: Prepared) -> None:
        state = self.state
        model = DiffusionLM(average, data.tokenizer, self.length_weights, stream=data.stream)
        lines = model.generate(self.config.samples, steps=SAMPLE_STEPS, seed=self.config.seed)
        if rank() > 0:
            return
        with (self.run / "samples.txt").open("a", encoding="utf-8") as file:
            for line in lines:
                print(f"step {state.progress.step}\t{line}", file=file)
                self.say(f"    {line}")

    def save(self) -> None:
        state = self.state
        about: dict[str, Any] = {
            "progress": state.counters(),
            "run": self.identity,
            "ran_on": ran_on(),
        }
        if self.bound is not None and self.bound[0] == state.progress.step:
            about |= self.bound[1]
        tensors = state.model_tensors(), state.state_tensors()
        on_rank_0(lambda: checkpoint.save(self.run, state.progress.step, *tensors, about))

    def write(self, kind: str, values: Mapping[str, float | list[float]]) -> None:
        if rank() > 0:
            return
        progress = self.state.progress
        record = {"kind": kind, "step": progress.step, "seconds": round(progress.seconds, 2),
                  "tokens": progress.tokens, **values}  # fmt: skip
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind, `train` or `valid`, in order."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except OSError as error:
        raise UserError(f"{run}/metrics.jsonl: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{run}/metrics.jsonl is damaged") from None
    return [record for record in records if record["kind"] == kind]


def ran_on() -> str:
    """What a run's last bits depend on: how sums are divided."""
    processes = f"{world()} process{'es' * (world() > 1)}"
    return f"{processes} of {torch.get_num_threads()} threads, torch {torch.__version__}"


def step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; infinite for one cut short by a kill."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
