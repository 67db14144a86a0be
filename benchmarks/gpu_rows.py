"""The rows of gpu.py: training at one setting, sampling at one; as many as there is time for."""

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import measure
import torch
from measure import Training, module_named, say, seconds_of, summary
from sampling import bare_forward, language_model

from simple_diffusion_lm.text.corpus import Prepared
from simple_diffusion_lm.training.config import Config

WINDOW = 256  # tokens, where the text is cut into windows instead of lines


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
        except Exception as error:  # a compiler's, say: one row is no reason to lose the others
            rows.append({"cell": cell, "left_out": f"{type(error).__name__}: {error}"[:200]})
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
            torch.compiler.reset()  # all sizes share one limit on what is compiled again
            trunk = module_named(training.state.model, "transformer")
            trunk.compile(dynamic=True, backend=backend)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        warm = seconds_of(lambda: [training.step() for _ in range(1 if smoke else 8)], device)
        steps = timed_steps(training, most=2 if smoke else 40, seconds=8.0)
        peak = measure.peaks(device, smoke=smoke, dtypes=[torch.bfloat16])["bfloat16"]
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
