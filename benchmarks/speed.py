"""How fast: training, sampling, and how much memory that takes; on a GPU where there is one.

    python benchmarks/speed.py --corpus captions.txt --script ORIGINAL/pytorch/train.py

On a processor, contenders side by side over sizes. They alternate, because a machine's speed drifts, and
its matmul peak is measured again before each turn. ORIGINAL, a checkout of thorinf/simple-diffusion-lm
(which needs rotary-embedding-torch), takes its turns too. On a GPU, `modern` over sizes, batches, compiling
and TF32. Models are untrained, which changes no cost: the autoregressive baseline, which ends its lines
itself, is run to the length of the longest of as many real lines.
"""

import gc
import multiprocessing
import runpy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import measure
import numpy as np
import torch
import tyro
from measure import say, summary
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.generate import Sampling, generate
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.train import State, autocast_dtype, train
from simple_diffusion_lm.corpus.prepare import Prepared, open_prepared, prepare
from simple_diffusion_lm.devices.processes import pick_device
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.compare import CONTENDERS
from simple_diffusion_lm.runs.compiling import compile_layers
from simple_diffusion_lm.runs.config import SIZES
from simple_diffusion_lm.runs.run import begin, make_batches
from simple_diffusion_lm.tasks.toy import ToyLanguage
from simple_diffusion_lm.writing.model import DiffusionLM

STEPS = 64  # of sampling: what rates are given for; a step costs the same at every level
SCRIPT = "the original script"
SAMPLED = ("modern", "masked", "autoregressive")
# Who writes a long text, and in how many passes; the autoregressive one in as many as it has tokens.
LATENCY = (("modern", 4), ("modern", 8), ("masked", 64), ("autoregressive", 256))
SMOKE_SIZE = {"model_dim": 32, "layers": 2, "heads": 2}
WINDOW, LINE = 256, 64  # the longest text in tokens, on a GPU
BATCH_TOKENS = (16_384, 65_536, 262_144)  # on a GPU, for SECONDS each
SECONDS = 8.0


def seconds_of(action: Callable[[], Any], device: torch.device) -> float:
    """How long it takes, the device's queue included."""
    synchronise = torch.cpu.synchronize if device.type == "cpu" else torch.accelerator.synchronize
    synchronise()
    began = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - began


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the fastest product of two square matrices: what the machine can do just now."""
    best = 0.0
    for size in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192, 16384):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        times = [seconds_of(lambda a=a, b=b: torch.mm(a, b), device) for _ in range(4)]
        best = max(best, 2 * size**3 / min(times))
    return best


class Training:
    """One model's training by core.train.train, a step at a time.

    The steps are the dearer ones: with a first prediction for self-conditioning from the start.
    """

    def __init__(self, config: Config, data: Prepared) -> None:
        self.config = replace(config, steps=10**9, epochs=None, minutes=None)
        self.data, self.device = data, pick_device()
        self.dtype = autocast_dtype(self.device) or torch.float32
        self.state = begin(self.config, data)
        self.batches = make_batches(self.config, data, data.train)
        self.steps = train(self.config, self.state, self.batches)
        self.turns: list[tuple[float, float, float]] = []  # tokens a second, seconds a step, peak

    def step(self) -> int:
        """Takes a step. Returns the real tokens of it."""
        before = self.state.progress.tokens
        next(self.steps)
        return self.state.progress.tokens - before

    def turn(self, seconds: float) -> None:
        """Trains for these seconds, after measuring the peak of matrix products."""
        peak, tokens, spent = matmul_peak(self.dtype, self.device), list[int](), 0.0
        while spent < seconds:
            spent += seconds_of(lambda: tokens.append(self.step()), self.device)
        self.turns.append((sum(tokens) / spent, spent / len(tokens), peak))

    def flops(self) -> float:
        """Of a training step's matrix products for each real token, the optimiser left out.

        Of texts of middling length, side by side with those that are equally long, and in float32, where
        products have as many rows as there are tokens: nothing is padding. Compiled layers are not seen.
        """
        lengths, model = self.batches.lengths(), self.state.model.train()
        order = sorted(self.batches.order(0), key=lambda numbers: lengths[numbers].mean())
        lengths = lengths[numbers := order[len(order) // 2]]
        with FlopCounterMode(display=False) as counter:
            for n in np.unique(lengths):
                batch = self.batches.batch(0, numbers[lengths == n]).each(lambda x: x.to(self.device))
                model.loss(batch, Draws.of(batch, 0, 0)).total.backward()
        model.zero_grad()
        return counter.get_total_flops() / int(lengths.sum())

    def row(self, flops: float) -> dict[str, Any]:
        """For the results: rates, and the share of the matmul peak. flops: for each real token."""
        return {
            "parameters": sum(p.numel() for p in self.state.model.parameters()),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tokens_per_second": summary([rate for rate, _, _ in self.turns]),
            "step_ms": summary([1000 * seconds for _, seconds, _ in self.turns]),
            "utilisation": summary([rate * flops / peak for rate, _, peak in self.turns]),
            "peak_gflops": summary([peak / 1e9 for _, _, peak in self.turns]),
            "mflop_per_token": flops / 1e6,
            "memory_mb": None,
        }


class Script(Training):
    """Training by the script that this project grew from, 256 wide as `small` is, else with its defaults.
    Of its file only the loop is written anew. Its texts come encoded, which takes it no time here."""

    def __init__(self, path: Path, data: Prepared) -> None:
        its, tokenizer = runpy.run_path(str(path)), data.tokenizer
        model = its["DiffusionLM"](len(tokenizer), model_dim=256, num_layers=4, dropout_prob=0.1)
        collate = its["Collate"](64, tokenizer.eos_id, tokenizer.pad_id, length_includes_pad=True)
        texts: Any = [data.train[number][:-1].tolist() for number in range(len(data.train))]  # it adds EOS
        loader = DataLoader(texts, 256, shuffle=True, collate_fn=collate)
        adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=1e-4)
        self.state, self.source = State(model, {"adamw": adamw}), chain.from_iterable(repeat(loader))
        self.device, self.dtype, self.turns = torch.device("cpu"), torch.float32, []
        self.pad = tokenizer.pad_id

    def step(self) -> int:
        batch, model, adamw = next(self.source), self.state.model.train(), self.state.optimizers["adamw"]
        losses = model.compute_loss(*batch)  # type: ignore[operator]
        [part.item() for part in losses]  # for its progress bar
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return int((batch[0] != self.pad).sum())

    def row(self, flops: float) -> dict[str, Any]:
        return {"tokens_per_second": summary([rate for rate, _, _ in self.turns])}

    @torch.no_grad()
    def write(self, count: int, length: int, steps: int) -> None:
        """Its last pass comes after its steps."""
        model: Any = self.state.model.eval()
        model.diffusion.reverse_diffusion(torch.randn(count, length, model.embedding_dim), steps - 1)


def config_of(name: str, size: str) -> Config:
    """A contender at a size; "smoke" is a size too."""
    return replace(CONTENDERS[name], **(SMOKE_SIZE if size == "smoke" else SIZES[size]))


def measure_training(
    configs: Mapping[str, Config],
    data: Prepared,
    turns: int,
    seconds: float,
    compiled: bool,
    script: Script | None = None,
) -> dict[str, Any]:
    """What contenders do, by turns."""
    models: dict[str, Training] = {SCRIPT: script} if script else {}
    flops = {SCRIPT: 0.0}  # not counted
    for name, config in configs.items():
        say(f"counting FLOPs: {name}")
        model = models[name] = Training(config, data)
        flops[name] = model.flops()
        if compiled:
            compile_layers(replace(model.config, compile=True), model.state.model)
    for model in models.values():
        model.step()
    for turn in range(turns):
        for name in list(models)[:: 1 if turn % 2 == 0 else -1]:
            say(f"training: turn {turn + 1} of {turns}, {name}")
            models[name].turn(seconds)
    return {name: model.row(flops[name]) for name, model in models.items()}


def measure_on_gpu(texts: Mapping[int, Prepared], sizes: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(setting, its row) for each: what is switched is switched alone."""
    first, middle, last = BATCH_TOKENS
    kinds = [(WINDOW, first), (WINDOW, middle), (WINDOW, last), (LINE, middle)]
    settings = [(kind, False, "high") for kind in kinds] + [((WINDOW, middle), False, "highest")]
    settings += [(kind, True, "high") for kind in kinds]
    for size in sizes:
        for (crop, batch), compiled, precision in settings:
            name = f"{size}, texts of {crop}, batches of {batch:,}, {precision}{', compiled' * compiled}"
            say(name)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            torch.set_float32_matmul_precision(precision)  # "high": TF32
            config = replace(config_of("modern", size), batch_tokens=batch, crop=crop, cooccurrence=False)
            try:
                row = measure_training({"modern": config}, texts[crop], 1, SECONDS, compiled)
                row["modern"]["memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
            except Exception as error:  # of memory, of a compiler: no reason to lose the other rows
                row = {"left_out": f"{type(error).__name__}: {error}"[:200]}
            yield name, row


@dataclass
class Way:
    """One way to write `count` texts, and how long it took each time.

    Attributes:
        about: what it is, for the results.
        steps: those that are timed.
        full: how many a text takes: STEPS, or its tokens where one is written after the other.
        forward: one pass of trunk and head over as many positions; None where texts differ.
    """

    about: dict[str, Any]
    count: int
    steps: int
    full: int
    run: Callable[[], None]
    forward: Callable[[], None] | None = None
    seconds: list[float] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)

    def time(self) -> None:
        self.seconds.append(seconds_of(self.run, pick_device()) / self.steps)
        if self.forward is not None:
            self.forwards.append(median(seconds_of(self.forward, pick_device()) for _ in range(5)))

    def row(self) -> dict[str, Any]:
        """For the results."""
        return {
            **self.about,
            "texts": self.count,
            "texts_per_second": self.count / (median(self.seconds) * self.full),
            "step_ms": summary([1000 * seconds for seconds in self.seconds]),
            "steps_per_forward": median(self.seconds) / median(self.forwards) if self.forwards else None,
        }


def ways(name: str, training: Training, count: int, steps: int) -> list[Way]:
    """To write texts whose lengths are drawn, and texts of the corpus's mean length."""
    lengths, model = training.batches.lengths(), training.state.model.eval()
    longest, mean = int(np.quantile(lengths, 1 - 1 / count)), round(float(lengths.mean()))
    weights = np.bincount(lengths.clip(max=longest)).tolist()
    lm = DiffusionLM(model, training.data.tokenizer, weights, stream=training.data.stream)

    def write(length: int | None = None) -> None:
        lm.generate(count, length=length, steps=steps, batch_size=count)

    if model.writes_length:
        about = {"name": f"{name}, cached", "lengths": f"up to {longest}"}
        return [Way(about, count, longest, longest, write)]
    x = torch.randn(count, mean, model.transformer.project.in_features, device=training.device)
    mask = torch.ones(count, mean, dtype=torch.bool, device=training.device)

    @torch.no_grad()
    def forward() -> None:
        model.head(model.transformer(x, mask[:, :1].float(), mask).flatten(0, 1))

    even = partial(write, mean - 1)  # and an EOS
    drawn = Way({"name": name, "lengths": "drawn"}, count, steps, STEPS, write)
    return [drawn, Way({"name": name, "lengths": str(mean)}, count, steps, STEPS, even, forward)]


def measure_sampling(
    size: str, data: Prepared, counts: Sequence[int], turns: int, steps: int, script: Script | None = None
) -> list[dict[str, Any]]:
    """Each way of sampling in turn, on untrained models of one size."""
    mean = round(float(np.diff(data.train.offsets).mean()))
    models = {name: Training(config_of(name, size), data) for name in SAMPLED}
    rows = []
    for count in counts:
        each = [way for name, model in models.items() for way in ways(name, model, count, steps)]
        if script:
            write = partial(script.write, count, mean, steps)
            each.append(Way({"name": SCRIPT, "lengths": str(mean)}, count, steps, STEPS, write))
        for turn in range(turns):
            say(f"sampling {count}: turn {turn + 1} of {turns}")
            for way in each[:: 1 if turn % 2 == 0 else -1]:
                way.time()
        rows += [way.row() for way in each]
    return rows


def measure_latency(size: str, data: Prepared, counts: Sequence[int], turns: int) -> list[dict[str, Any]]:
    """Seconds for running text of WINDOW tokens: untrained models, by turns. A student's passes cost what
    its teacher's do. The first turn, in which products of new sizes are compiled, does not count."""
    seconds: dict[tuple[int, str, int], list[float]] = {
        (count, name, steps): [] for count in counts for name, steps in LATENCY
    }
    models = {name: begin(replace(config_of(name, size), window=WINDOW), data).model for name in SAMPLED}
    for turn in range(turns + 1):
        for count, name, steps in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
            say(f"{count} texts of {WINDOW} tokens, {name}: turn {turn} of {turns}")
            began, lengths = time.perf_counter(), [WINDOW] * count
            generate(models[name], data.tokenizer, lengths, Sampling(steps), seed=turn, stream=True)
            seconds[count, name, steps].append(time.perf_counter() - began)
    return [
        {"texts": count, "tokens": WINDOW, "name": name, "passes": steps, "seconds": summary(found[1:])}
        for (count, name, steps), found in seconds.items()
    ]


def peak_memory(size: str, directory: Path) -> float:
    """MB that a process had at most in two steps. To be run in a process of its own."""
    model = Training(config_of("modern", size), open_prepared(directory))
    for _ in range(2):
        model.step()
    # Not ru_maxrss: a process begins with that of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


@dataclass(kw_only=True)
class Speed:
    """Measures everything; tables to stdout, all figures to OUT. About twelve minutes."""

    corpus: Path | None = None  # a text file, one example a line
    script: Path | None = None  # the original's train.py
    out: Path = Path("benchmarks/results/speed.json")  # results as JSON, written after each part
    smoke: bool = False  # everything at its smallest, on the toy language: does the script still run?

    def __call__(self) -> None:
        if not self.smoke and (self.corpus is None or not self.corpus.is_file()):
            raise UserError(f"{self.corpus or 'no corpus'}: give a text file (--corpus), or --smoke")
        training: dict[str, Any] = {}
        results: dict[str, Any] = {**measure.about(), "device": str(pick_device()), "training": training}
        measure.write_results(self.out, results)
        with tempfile.TemporaryDirectory() as directory:
            for setting, rows in self.training(Path(directory)):
                training[setting] = rows
                measure.write_results(self.out, results)
            data = open_prepared(Path(directory) / "prepared")
            if self.smoke:
                sampled = measure_sampling("smoke", data, [4], turns=1, steps=2)
            elif pick_device().type == "cpu":
                script = Script(self.script, data) if self.script else None
                sampled = measure_sampling("small", data, [64, 256], turns=3, steps=8, script=script)
            else:
                sampled = measure_sampling("base", data, [64, 256, 1024], turns=3, steps=STEPS)
            corpus, tokenizer = self.corpus or Path(directory) / "toy.txt", data.directory / "tokenizer.model"
            long = prepare([corpus], Path(directory) / "stream", tokenizer=tokenizer, stream=True, quiet=True)
            size, counts, turns = ("smoke", [2], 1) if self.smoke else ("tiny", [1, 64], 5)
            latency = measure_latency(size, long, counts, turns)
            measure.write_results(self.out, results | {"sampling": sampled, "latency": latency})
        kept = [(setting, rows) for setting, rows in training.items() if "left_out" not in rows]
        flat = [{"setting": s, "name": name, **row} for s, rows in kept for name, row in rows.items()]
        print(f"{measure.shown(flat)}\n\n{measure.shown(sampled)}\n\n{measure.shown(latency)}")

    def training(self, work: Path) -> Iterator[tuple[str, Any]]:
        """(setting, what contenders do in it) for each."""
        corpus, vocab_size = self.corpus or work / "toy.txt", 300 if self.smoke else 2048
        if self.corpus is None:
            corpus.write_text("\n".join(ToyLanguage().lines(600, seed=0)) + "\n")
        data = prepare([corpus], work / "prepared", vocab_size=vocab_size, quiet=True)
        if pick_device().type != "cpu" and not self.smoke:
            tokenizer = data.directory / "tokenizer.model"
            windows = prepare([corpus], work / "stream", tokenizer=tokenizer, stream=True, quiet=True)
            yield from measure_on_gpu({LINE: data, WINDOW: windows}, ("base", "large"))
            return
        turns, seconds = (1, 0.01) if self.smoke else (3, 4.0)
        for size in ("smoke",) if self.smoke else ("tiny", "small", "base"):
            configs = {name: config_of(name, size) for name, each in CONTENDERS.items() if not each.passes}
            script = Script(self.script, data) if self.script and size == "small" else None
            rows = measure_training(configs, data, turns, seconds, not self.smoke, script)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                rows["modern"]["memory_mb"] = fresh.submit(peak_memory, size, data.directory).result()
            yield size, rows


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Speed)())
