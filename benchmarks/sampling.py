"""Ways to sample, each something that can be run and timed; what a step costs beside one forward.

The cost of a step is the same at every level, so a run of fewer steps says what 64 cost.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import original_script
import torch
from measure import Training, module_named, seconds_of, summary
from torch import nn

from simple_diffusion_lm.generation import DiffusionLM

STEPS = 64  # what the rates are given for


@dataclass(frozen=True)
class Sampling:
    """One way to write `count` texts.

    steps are those that are timed; `full` is how many a text takes: STEPS, or for a model that
    writes one token after the other as many as it has tokens. forward is one bare pass of the
    network (trunk and head) over the same batch, and None where batches differ.
    """

    name: str
    count: int
    lengths: str
    steps: int
    full: int
    run: Callable[[], Any]
    forward: Callable[[], Any] | None = None

    def time(self, device: torch.device) -> tuple[float, float | None]:
        """Seconds of one run, and of one bare pass right after it."""
        seconds = seconds_of(self.run, device)
        if self.forward is None:
            return seconds, None
        return seconds, median(seconds_of(self.forward, device) for _ in range(5))

    def row(self, times: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
        step = [1000 * seconds / self.steps / self.count for seconds, _ in times]
        ratios = [seconds / self.steps / forward for seconds, forward in times if forward]
        forwards = [1000 * forward for _, forward in times if forward]
        return {
            "name": self.name,
            "count": self.count,
            "lengths": self.lengths,
            "steps_timed": self.steps,
            "texts_per_second": 1000 / (median(step) * self.full),
            "step_ms_per_text": summary(step),
            "forward_ms": summary(forwards) if forwards else None,
            "steps_per_forward": median(ratios) if ratios else None,
        }


def samplers(
    models: Mapping[str, Training], original: nn.Module | None, count: int, steps: int
) -> list[Sampling]:
    """All of them, for texts whose lengths are drawn, and for texts of the corpus's mean length."""
    lengths = next(iter(models.values())).batches.lengths
    mean = round(float(lengths.mean()))
    ways = []
    for name, training in models.items():
        lm = language_model(training, int(np.quantile(lengths, 1 - 1 / count)))
        write = lm.generate

        def run(write=write, length=None, steps=steps) -> Any:
            return write(count, length=length, steps=steps, batch_size=count)

        if lm.model.writes_length:
            tokens = lm.writer.longest
            ways.append(Sampling(f"{name}, cached", count, f"up to {tokens}", tokens, tokens, run))
            continue
        ways.append(Sampling(name, count, "drawn", steps, STEPS, run))

        def even(run=run) -> Any:
            return run(length=mean - 1)  # and the end of the line

        forward = bare_forward(lm.model, even)
        ways.append(Sampling(name, count, str(mean), steps, STEPS, even, forward))
        if name == "modern" and count <= STEPS:  # a check; for more texts it takes long
            full = f"{name}, all {STEPS} steps"
            ways.append(
                Sampling(full, count, str(mean), STEPS, STEPS, lambda run=run: run(
                    length=mean - 1, steps=STEPS))
            )  # fmt: skip
    if original is not None:
        for length in (mean, original_script.CROP):
            ways.append(_of_original(original, count, length, steps))
    return ways


def _of_original(model: nn.Module, count: int, length: int, steps: int) -> Sampling:
    """Its texts all have one length; its own choice is the longest there is."""
    inputs = torch.randn(count, length, 3 * model.embedding_dim), torch.ones(count)

    @torch.no_grad()
    def forward() -> Any:
        return model.lm_head(model.eval().estimator(*inputs)[1])

    def run() -> Any:
        return original_script.generate(model, count, length, steps)

    return Sampling("original's script", count, str(length), steps, STEPS, run, forward)


def language_model(training: Training, longest: int) -> DiffusionLM:
    """An untrained model that draws lengths as the corpus has them, up to a longest."""
    weights = np.bincount(training.batches.lengths.clip(max=longest), minlength=longest + 1)
    model, tokenizer = training.state.averaged_model, training.data.tokenizer
    return DiffusionLM(model, tokenizer, weights.tolist(), stream=training.data.stream)


def bare_forward(model: nn.Module, generate: Callable[[], Any]) -> Callable[[], Any]:
    """Trunk and head alone, on what they are called with while something is generated.

    What a sampler does beside it (softmax and mean embedding, noise, choosing) is what a step
    may cost above this.
    """
    trunk, head = module_named(model, "transformer"), module_named(model, "head")
    with caught_call(trunk) as calls:
        generate()
    arguments, named, dtype = calls[-1]
    device = arguments[0].device.type

    @torch.no_grad()
    def forward() -> Any:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            return head(trunk(*arguments, **named))

    return forward


@contextmanager
def caught_call(module: nn.Module):
    """The calls of a module: positional arguments, named ones, and autocast's dtype if it is on."""
    calls: list[tuple[tuple, dict, torch.dtype | None]] = []

    def note(_: nn.Module, arguments: tuple, named: dict) -> None:
        device = arguments[0].device.type
        on = torch.is_autocast_enabled(device)
        calls.append((arguments, named, torch.get_autocast_dtype(device) if on else None))

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()
