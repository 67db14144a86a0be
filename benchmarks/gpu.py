"""Everything wanted from one GPU, in one go: throughput, sampling, and a captions run to its end.

    python benchmarks/gpu.py --corpus captions.txt --minutes 24

Results are written after each part, and within it after each row, so that nothing is lost when the
time is up. Each part has its share of the minutes; what does not fit into it is named as left out.
"""

import dataclasses
import gc
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import torch
import tyro
from measure import Training, module_named, say, seconds_of, summary
from sampling import bare_forward, language_model

from simple_diffusion_lm.evaluation import compare
from simple_diffusion_lm.evaluation.evaluate import REFERENCE_TEXTS, real_rows
from simple_diffusion_lm.evaluation.metrics import example_texts
from simple_diffusion_lm.evaluation.report import read_metrics
from simple_diffusion_lm.evaluation.samples import Reference
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.run import pick_device, run_training
from simple_diffusion_lm.text.corpus import Prepared, prepare
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.recipes import modern, sized

VOCAB_SIZE = 2048
WINDOW = 256  # tokens, where the text is cut into windows instead of lines
TEXTS = (64, 256, 1024)
SHARES = {
    "throughput": 0.45,
    "sampling": 0.1,
    "captions": 0.35,
}  # of the minutes; the rest is slack

SIZES = {  # about 10 and 100 million parameters
    "10M": replace(modern(), model_dim=384, layers=6, heads=6),
    "100M": sized(modern(), "large"),
}
BATCH_TOKENS = (16_384, 65_536, 262_144)
CAPTIONS = replace(sized(modern(), "base"), batch_tokens=8_192, validate_every=1_000)

SMOKE = {"model_dim": 32, "layers": 2, "heads": 2}
SMOKE_SIZES = {"smoke": replace(modern(), **SMOKE)}
SMOKE_BATCH_TOKENS = (256,)


class Clock:
    """The minutes of a part: whether there is time for one more row like the longest so far."""

    def __init__(self, minutes: float) -> None:
        self.ends = time.monotonic() + 60 * minutes
        self.longest = 0.0

    def allows(self) -> bool:
        return time.monotonic() + self.longest < self.ends

    def took(self, began: float) -> None:
        self.longest = max(self.longest, time.monotonic() - began)


def rows_within(
    clock: Clock, cells: list[tuple[Any, ...]], row: Callable[..., dict[str, Any]],
    keep: Callable[[list[dict[str, Any]]], None],
) -> None:  # fmt: skip
    """A row for each cell there is time for; what cannot be measured says why."""
    rows: list[dict[str, Any]] = []
    for cell in cells:
        began = time.monotonic()
        if not clock.allows():
            rows.append({"cell": cell, "left_out": "no time"})
            continue
        say(" ".join(map(str, cell)))
        try:
            rows.append({"cell": cell, **row(*cell)})
        except torch.OutOfMemoryError:
            rows.append({"cell": cell, "left_out": "out of memory"})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        clock.took(began)
        keep(rows)
    keep(rows)


def throughput_cells(sizes: dict[str, Config], batches: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """(size, text, batch_tokens, compiled, TF32): what is switched is switched alone."""
    middle = batches[len(batches) // 2]
    kinds = [
        *itertools.product(sizes, ["windows"], batches),
        *itertools.product(sizes, ["lines"], [middle]),
    ]
    plain = [(*kind, False, True) for kind in kinds]
    full_float32 = [(size, "windows", middle, False, False) for size in sizes]
    compiled = [(*kind, True, True) for kind in kinds]
    return [*plain, *full_float32, *compiled]


def throughput(
    texts: dict[str, Prepared], sizes: dict[str, Config], device: torch.device, *, smoke: bool
) -> Callable[..., dict[str, Any]]:
    """Training by the loop itself: real tokens a second, and the share of the matmul peak."""

    def row(size: str, text: str, batch_tokens: int, compiled: bool, tf32: bool) -> dict[str, Any]:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        crop = WINDOW if text == "windows" and not smoke else 64
        config = replace(sizes[size], batch_tokens=batch_tokens, crop=crop, cooccurrence=False)
        training = Training(config, texts[text], device)
        needed, executed, optimizer = training.flops()
        if compiled:
            backend = "eager" if smoke else "inductor"  # to compile takes a minute
            trunk = module_named(training.state.model, "transformer")
            trunk.compile(dynamic=True, backend=backend)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        warm = seconds_of(lambda: [training.step() for _ in range(1 if smoke else 8)], device)
        steps = timed_steps(training, most=2 if smoke else 40, seconds=8.0)
        peak = measure.peaks(device, smoke=smoke)["bfloat16"]
        rate = sum(tokens for tokens, _ in steps) / sum(seconds for _, seconds in steps)
        batch = training.some_batches(1)[0]
        making = [
            seconds_of(lambda: training.batches.batch(0, batch.index.numpy()), device)
            for _ in range(3)
        ]
        return {
            "parameters": training.parameters,
            "tokens_per_second": rate,
            "step_ms": summary([1000 * seconds for _, seconds in steps]),
            "utilisation": rate * needed / peak,
            "peak_flops": peak,
            "flops_per_token": needed,
            "flops_executed_per_token": executed,
            "optimizer_flops_per_step": optimizer,
            "padding": training.padding(),
            "batch_ms": 1000 * min(making),  # of the host alone, within each step
            "first_steps_seconds": warm,
            "memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        }

    return row


def timed_steps(training: Training, *, most: int, seconds: float) -> list[tuple[int, float]]:
    """(real tokens, seconds) of each step, until there are enough of them."""
    steps: list[tuple[int, float]] = []
    while len(steps) < most and sum(spent for _, spent in steps) < seconds:
        tokens: list[int] = []
        spent = seconds_of(lambda tokens=tokens: tokens.append(training.step()), training.device)
        steps.append((tokens[0], spent))
    return steps


def sampling(
    data: Prepared, sizes: dict[str, Config], device: torch.device, *, smoke: bool
) -> Callable[..., dict[str, Any]]:
    """Texts of the mean length in one batch, as `generate` writes them; a step beside a forward."""
    steps = 2 if smoke else 64

    def row(size: str, count: int) -> dict[str, Any]:
        training = Training(replace(sizes[size], cooccurrence=False), data, device)
        mean = round(float(training.batches.lengths.mean()))
        lm = language_model(training, int(training.batches.lengths.max()))

        def write() -> Any:
            return lm.generate(count, length=mean - 1, steps=steps, batch_size=count)

        forward = bare_forward(lm.model, write)
        times = [seconds_of(write, device) for _ in range(3)]
        forwards = [seconds_of(forward, device) for _ in range(10)][3:]
        texts_per_second = count / sorted(times)[1]
        step_ms = 1000 * sorted(times)[1] / steps
        forward_ms = 1000 * sorted(forwards)[3]
        return {
            "length": mean,
            "steps": steps,
            "texts_per_second": texts_per_second,
            "step_ms": step_ms,
            "forward_ms": forward_ms,
            "steps_per_forward": step_ms / forward_ms,
        }

    return row


def captions(
    config: Config, data: Prepared, run: Path, device: torch.device, *, samples: int
) -> dict[str, Any]:
    """A run to the end of its minutes, and all that can be measured of it."""
    run_training(config, data, run, quiet=True)
    lm = DiffusionLM.from_pretrained(run)
    lm.model.to(device)
    result: dict[str, Any] = {
        "config": dataclasses.asdict(config),
        "validation": read_metrics(run, "valid"),
    }
    if samples:
        reference = Reference.of(
            example_texts(lm, data.train, REFERENCE_TEXTS), example_texts(lm, data.valid, samples)
        )
        result["lines"] = {k: dataclasses.asdict(v) for k, v in real_rows(reference).items()}
        result |= compare.measure(lm, run, data, reference, 5_000, samples)
    return result


def tables(results: dict[str, Any]) -> str:
    """The results for reading."""
    lines = [
        [*map(str, row["cell"]), f"{row['tokens_per_second']:,.0f}", f"{row['utilisation']:.1%}",
         f"{row['step_ms']['median']:.1f}", f"{row['batch_ms']:.1f}",
         f"{row['memory'] / 1e9:.1f}" if row["memory"] else ""]
        if "left_out" not in row else [*map(str, row["cell"]), row["left_out"], *[""] * 4]
        for row in results["throughput"]
    ]  # fmt: skip
    head = ["size", "text", "batch", "compiled", "TF32", "real tokens/s", "of bf16 peak",
            "ms a step", "of it making the batch", "memory, GB"]  # fmt: skip
    parts = [measure.markdown(head, lines)]
    head = ["size", "texts", "texts/s", "ms a step", "step / one forward"]
    lines = [
        [*map(str, row["cell"]), f"{row['texts_per_second']:.1f}", f"{row['step_ms']:.2f}",
         f"{row['steps_per_forward']:.2f}"]
        for row in results["sampling"] if "left_out" not in row
    ]  # fmt: skip
    parts.append(measure.markdown(head, lines))
    if results["captions"].get("likelihood"):
        nats = results["captions"]["likelihood"]["nats_per_token"]
        parts.append(f"captions: <= {nats:.3f} nats a token after the run")
    return "\n\n".join(parts)


def main(
    corpus: Path | None = None,
    minutes: float = 24.0,
    out: Path = Path("benchmarks/results/gpu.json"),
    work: Path | None = None,
    smoke: bool = False,
) -> None:
    """Measures what one GPU does; a table to stdout, all figures to OUT.

    Args:
        corpus: a text file, one example a line; by default the built-in toy language.
        minutes: for all parts together.
        out: results as JSON, written after each row.
        work: directory for the prepared corpus and the run; a temporary one by default.
        smoke: everything at its smallest, on any device: does the script still run?
    """
    device = pick_device()
    sizes = SMOKE_SIZES if smoke else SIZES
    batches = SMOKE_BATCH_TOKENS if smoke else BATCH_TOKENS
    minutes = 3.0 if smoke else minutes
    results: dict[str, Any] = {**measure.about(), "device": str(device)}

    def keep(part: str) -> Callable[[Any], None]:
        def write(value: Any) -> None:
            results[part] = value
            measure.write_results(out, results)

        return write

    with tempfile.TemporaryDirectory() as temporary:
        work = work or Path(temporary)
        data = measure.corpus(corpus, work, vocab_size=VOCAB_SIZE, smoke=smoke)
        windows = prepare(
            [corpus or work / "toy.txt"], work / "stream",
            tokenizer=data.directory / "tokenizer.model", stream=True, quiet=True,
        )  # fmt: skip
        keep("peak_flops")(device_peaks(device, smoke=smoke))
        clock = {part: share * minutes for part, share in SHARES.items()}
        texts = {"lines": data, "windows": windows}
        rows_within(
            Clock(clock["throughput"]), throughput_cells(sizes, batches),
            throughput(texts, sizes, device, smoke=smoke), keep("throughput"),
        )  # fmt: skip
        torch.set_float32_matmul_precision("high")
        rows_within(
            Clock(clock["sampling"]), list(itertools.product(sizes, (4,) if smoke else TEXTS)),
            sampling(data, sizes, device, smoke=smoke), keep("sampling"),
        )  # fmt: skip
        say("captions")
        config = replace(CAPTIONS, **SMOKE, minutes=0.02) if smoke else CAPTIONS
        config = config if smoke else replace(config, minutes=clock["captions"])
        run = captions(config, data, work / "run", device, samples=0 if smoke else 500)
        keep("captions")(run)
    print(tables(results))


def device_peaks(device: torch.device, *, smoke: bool) -> dict[str, float]:
    """FLOP/s by dtype, float32 with and without TF32."""
    torch.set_float32_matmul_precision("high")
    tf32 = measure.peaks(device, smoke=smoke)["float32"]
    torch.set_float32_matmul_precision("highest")
    return {**measure.peaks(device, smoke=smoke), "tf32": tf32}


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(main))
