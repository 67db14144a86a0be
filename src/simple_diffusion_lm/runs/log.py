"""What a run reports while it trains: the bar, metrics.jsonl, samples.txt, a tracker; and its checkpoints."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from tqdm.auto import tqdm

from ..core.bound import held_out_bound
from ..core.data import Batches
from ..core.generate import TextModel, generate
from ..core.train import State, Step, autocast_dtype, fraction_done
from ..corpus.prepare import Prepared
from ..devices.processes import on_rank_0, rank, world
from ..errors import UserError, first_line, installed
from . import checkpoint
from .config import usual_sampling

LOG_EVERY = 20  # steps
VALIDATION_EXAMPLES = 512
VALIDATION_DRAWS = 8  # of noise, for each example
# Trackers of experiments, each a package of this name, and the module that is asked.
TRACKERS = {"trackio": "trackio", "wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}
Track = Callable[[dict[str, float], int], object]  # logs numbers by name, at a step
FIGURES = "loss {total:.3f} acc {accuracy:.3f} {tokens_per_second:,.0f} tok/s"
BAR = "{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"


class Log:
    """What a run reports. about: what config.json says of it."""

    def __init__(self, run: Path, about: dict[str, Any], state: State, batches: Batches, quiet: bool) -> None:
        self.run, self.about, self.state, self.config = run, about, state, state.model.config
        self.quiet = quiet
        self.batches_in_epoch = len(batches.order(0))
        to_file = isinstance(sys.stderr, TextIOWrapper) and not sys.stderr.isatty()
        self.bar = tqdm(total=1.0, disable=quiet or to_file, file=sys.stderr, bar_format=BAR)
        self.recent: list[Step] = []  # since the last record
        self.last = 0, 0.0  # tokens and seconds there
        self.saved = 0  # the step of the last checkpoint
        self.fastest = 0.0  # tokens a second
        self.tracks: list[Track] = []  # where metrics go, too
        self.bounds: list[dict[str, Any]] = []  # on held-out text: step, bound and bound_error of each

    def say(self, text: str) -> None:
        """Prints above the bar."""
        if not self.quiet:
            self.bar.write(text, file=sys.stderr)

    def resume(self, start_from: Path | None) -> None:
        """Loads the newest whole checkpoint, and forgets metrics from after it.
        Where there is none it begins with start_from's weights, if given; UserError where they do not fit."""
        found = checkpoint.newest(self.run)
        if found is not None:
            found.restore(self.state)
            self.bar.initial = min(self._done(), 1.0)  # so that the time left is of this session
            self.say(f"resuming at step {self.state.progress.step}")
            before, now = found.manifest.get("ran_on"), ran_on()
            if before != now:
                self.say(f"it ran on {before} before, now on {now}: the same course, but not to the last bit")
        elif start_from is not None:
            other = checkpoint.to_use(start_from)
            if other is None:
                raise UserError(f"{start_from}: no whole checkpoint to begin with")
            other.load_into(self.state.model, "keep its network and its vocabulary")
        progress = self.state.progress
        self.saved, self.last = progress.step, (progress.tokens, progress.seconds)
        metrics = self.run / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if step_of(line) <= progress.step)
            on_rank_0(lambda: checkpoint.write_atomically(metrics, kept.encode()))
            self.bounds = [record for record in read_metrics(self.run, "valid") if "bound" in record]

    def begin(self, compiled: bool) -> None:
        """Says what is about to be trained, and on what."""
        model, device = self.state.model, self.state.model.embedding.weight.device
        size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"
        size += " with its critic" if hasattr(model, "critic") else ""
        processes = f"{world()} x " if world() > 1 else ""
        place = f"{processes}{device.type}, {torch.get_num_threads()} threads"
        kind = ("in bfloat16" if autocast_dtype(device) else "in float32") + ", compiled" * compiled
        self.say(f"{size}, {sum(self.about['lengths']):,} examples, {place}, {kind}")

    def step(self, step: Step) -> None:
        """Records means over the last steps, every LOG_EVERY steps."""
        self.recent.append(step)
        progress = self.state.progress
        if progress.step % LOG_EVERY and progress.step > 1:
            return

        def mean(name: str) -> float:
            values = torch.cat([getattr(step.losses, name).float() for step in self.recent])
            return values.sum().item() / max(len(values), 1)

        tokens, seconds = self.last
        values = {
            "total": sum(step.losses.total.item() for step in self.recent) / len(self.recent),
            "ce": mean("ce"),
            "accuracy": mean("correct"),
            "grad_norm": sum(step.grad_norm for step in self.recent) / len(self.recent),
            "clipped": progress.clipped,
            "learning_rate": step.learning_rate,
            "tokens_per_second": (progress.tokens - tokens) / (progress.seconds - seconds),
        }
        if self.config.mse_weight:  # of a coordinate
            values["mse"] = mean("squared_error") / self.config.embedding_dim
        self._write("train", values)
        if values["tokens_per_second"] < self.fastest / 3:  # said again once it has been fast again
            self.say("training is at a third of its best speed: is this machine busy? (docs/trouble.md)")
            self.fastest = 0.0
        self.fastest = max(self.fastest, values["tokens_per_second"])
        self.recent, self.last = [], (progress.tokens, progress.seconds)
        self.bar.n = min(self._done(), 1.0)
        figures = f"step {progress.step} {FIGURES.format_map(values)}"
        self.bar.set_postfix_str(figures)
        if self.bar.disable and progress.seconds // 60 > seconds // 60:  # into a file: a line a minute
            self.say(f"{self.bar.n:.0%} {figures}")

    def _done(self) -> float:
        return fraction_done(self.config, self.state.progress, self.batches_in_epoch)

    def validate(self, held_out: Batches | None, data: Prepared, after: Callable[[Path], object]) -> None:
        """The bound on held-out text, and some samples."""
        # Of a copy: the layers of the one that trains may be compiled, for other shapes.
        step, model = self.state.progress.step, checkpoint.model_of(self.about)
        model.load_state_dict(self.state.model.state_dict(), strict=False)  # without a student's critic
        said = f"step {step}:"
        if held_out is not None:
            chosen = held_out.spread(VALIDATION_EXAMPLES)
            device = model.embedding.weight.device
            batches = (held_out.batch(0, numbers).each(lambda x: x.to(device)) for numbers in chosen)
            weights = None if data.stream or model.writes_length else self.about["lengths"]
            texts, draws = sum(map(len, chosen)), 1 if model.writes_length else VALIDATION_DRAWS
            found = held_out_bound(model.bound, batches, texts=texts, draws=draws, length_weights=weights)
            bound = {"bound": found.total, "bound_error": found.error}
            self._write("valid", bound)
            self.bounds.append({"step": step, **bound})
            said += f" held-out nats/token <= {found.total:.3f} ± {found.error:.3f}"
        self.say(said)
        if self.config.samples:
            self._sample(model, data)
        if rank() == 0:
            after(self.run)

    def is_over(self) -> bool:
        """Whether the last validations, as many as the patience, were no better than an earlier one."""
        bounds = [each["bound"] for each in self.bounds]
        since = len(bounds) - 1 - bounds.index(min(bounds)) if bounds else 0
        if over := self.config.patience is not None and since >= self.config.patience:
            self.say(f"no better bound in {since} validations: training ends")
        return over

    def _sample(self, model: TextModel, data: Prepared) -> None:
        """Writes some texts, of lengths as training texts have them."""
        weights, count, seed = np.array(self.about["lengths"]), self.config.samples, self.config.seed
        drawn = np.random.default_rng(seed % 2**63).choice(len(weights), count, p=weights / weights.sum())
        lengths = [len(weights) - 1] * count if model.writes_length else drawn.tolist()
        texts = generate(model, data.tokenizer, lengths, usual_sampling(self.config), seed, data.stream)
        texts = [" ⏎ ".join(text.splitlines()) for text in texts]  # each is a line of samples.txt
        if rank() == 0:
            with (self.run / "samples.txt").open("a", encoding="utf-8") as file:
                file.writelines(f"step {self.state.progress.step}\t{text}\n" for text in texts)
        self.say("\n".join(f"    {text}" for text in texts))

    def save(self) -> None:
        """Writes a checkpoint, with the held-out bound if this step has one."""
        progress = self.state.progress
        about = {"progress": asdict(progress), "run": checkpoint.identity(self.about), "ran_on": ran_on()}
        if self.bounds and (last := self.bounds[-1])["step"] == progress.step:
            about |= {key: last[key] for key in ("bound", "bound_error")}
        tensors = self.state.model.state_dict(), checkpoint.state_tensors(self.state)
        on_rank_0(lambda: checkpoint.save(self.run, progress.step, *tensors, about))
        self.saved = progress.step

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        if rank() == 0:
            now = self.state.progress
            record = {"seconds": round(now.seconds, 2), "tokens": now.tokens, **values}
            add_record(self.run, {"kind": kind, "step": now.step, **record})
            for track in self.tracks:
                track({f"{kind}/{name}": value for name, value in record.items()}, now.step)


@contextmanager
def tracking(name: str, run: Path, config: dict[str, Any], step: int) -> Iterator[Track]:
    """Logs a run to one of TRACKERS: as a new one, or, from `step` on, as the one that it is there already.
    Raises UserError where the tracker is not installed, or refuses."""
    library = installed(TRACKERS[name], f"--log {name} needs {name}", name)
    if name == "tensorboard":
        with library.SummaryWriter(run / name, purge_step=step + 1) as writer:
            writer.add_text("config", json.dumps(config))
            yield lambda values, at: [writer.add_scalar(key, values[key], at) for key in values]
        return
    tracked_as = run / "tracked-as.txt"
    if not (step and tracked_as.exists()):
        tracked_as.write_text(f"{run.resolve().name}-{uuid4().hex[:8]}", encoding="utf-8")
    label = tracked_as.read_text(encoding="utf-8")
    own = {"id": label[-8:], "dir": run, "allow_val_change": True} if name == "wandb" else {}
    with redirect_stdout(sys.stderr):  # which trackio writes to
        try:
            library.init(project="simple-diffusion-lm", name=label, config=config, resume="allow", **own)
        except Exception as error:  # of the network, or of an account
            raise UserError(f"{name}: cannot log there ({first_line(error)})") from None
        try:
            yield lambda values, at: library.log(values, step=at)
        finally:
            library.finish()


def add_record(run: Path, record: dict[str, Any]) -> None:
    """Adds a line to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind, `train`, `valid` or `evaluation`, in order."""
    try:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"{run}/metrics.jsonl: {error.strerror} (an export has none)") from None
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
