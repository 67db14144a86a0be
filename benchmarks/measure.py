"""What the benchmarks share: the machine's own speed, FLOPs as executed, training a step at a time.

Nothing here estimates: times are taken, and FLOPs counted from the matrix products that run.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.compare import machine
from simple_diffusion_lm.model import embedding
from simple_diffusion_lm.model.continuous import Continuous
from simple_diffusion_lm.run import make_batches
from simple_diffusion_lm.text.batches import Batch
from simple_diffusion_lm.text.corpus import Prepared, is_prepared, open_prepared, prepare
from simple_diffusion_lm.text.toy import ToyLanguage
from simple_diffusion_lm.training.checkpoint import write_atomically
from simple_diffusion_lm.training.compiling import compile_layers
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.loop import train
from simple_diffusion_lm.training.processes import autocast_dtype
from simple_diffusion_lm.training.state import State

UNENDING = 10**9  # steps: a budget that no measurement spends
MATRIX_SIZES = {
    "cpu": (512, 1024, 2048),
    "mps": (1024, 2048, 4096),
    "cuda": (4096, 8192, 16384),
}


def seconds_of(action: Callable[[], Any], device: torch.device) -> float:
    """How long it takes, the device's queue included."""
    synchronise(device)
    began = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def matmul_peak(dtype: torch.dtype, device: torch.device, sizes: Sequence[int]) -> float:
    """FLOP/s of the fastest product of two square matrices: what the machine can do just now."""
    best = 0.0
    for size in sizes:
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        out = torch.empty_like(a)
        times = [seconds_of(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)
                 for _ in range(4)]  # fmt: skip
        best = max(best, 2 * size**3 / min(times))
    return best


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def peaks(
    device: torch.device,
    *,
    smoke: bool,
    dtypes: Sequence[torch.dtype] = (torch.bfloat16, torch.float32),
) -> dict[str, float]:
    """FLOP/s by the name of the dtype."""
    sizes = (128,) if smoke else MATRIX_SIZES[device.type]
    return {name_of(dtype): matmul_peak(dtype, device, sizes) for dtype in dtypes}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread of repeated measurements, for the results."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def spread(values: Mapping[str, float], form: str, scale: float = 1) -> str:
    """A summary for reading: median (least to most)."""
    middle, low, high = (form.format(values[key] * scale) for key in ("median", "min", "max"))
    return f"{middle} ({low} to {high})"


class Flops(NamedTuple):
    """Of one training step. Products of matrices only, as FlopCounterMode sees them."""

    model: int  # forward and backward, the self-conditioning pass included
    optimizer: int  # Muon's are matrix products too; AdamW has none


@contextmanager
def counting(optimizers: Sequence[torch.optim.Optimizer] = ()) -> Iterator[list[Flops]]:
    """Counts what is executed inside; the one item of the list is there at the end."""
    counter = FlopCounterMode(display=False)
    spent: list[int] = []
    hooks = []
    for optimizer in optimizers:
        before = optimizer.register_step_pre_hook(
            lambda *_: spent.append(-counter.get_total_flops())
        )
        after = optimizer.register_step_post_hook(
            lambda *_: spent.append(counter.get_total_flops())
        )
        hooks += [before, after]
    counted: list[Flops] = []
    with counter:
        yield counted
    for hook in hooks:
        hook.remove()
    counted.append(Flops(counter.get_total_flops() - sum(spent), sum(spent)))


class Training:
    """One model's training by training.loop.train, a step at a time.

    Args:
        config: its budget is replaced by one that does not end.
        data: the corpus.
        device: where the model goes.
    """

    unit = 1  # steps that make a whole: any number of them has the mean cost

    def __init__(self, config: Config, data: Prepared, device: torch.device) -> None:
        self.config = replace(config, steps=UNENDING, epochs=None, minutes=None)
        self.data = data
        self.device = device
        self.dtype = autocast_dtype(device) or torch.float32
        self.state = State(self.config, len(data.tokenizer), data.train)
        if isinstance(
            self.state.model, Continuous
        ):  # the dearer steps: on noise, and with a first pass
            self.state.model.causal = self.state.model.self_cond_from = 0.0
        self.state.model.to(device)
        self.state.average.to(device)
        self.batches = make_batches(self.config, data, data.train, masks=True)
        self.steps = train(self.config, self.state, self.batches, device)

    def step(self) -> int:
        """Takes a step. Returns the real tokens of it."""
        before = self.state.progress.tokens
        next(self.steps)
        return self.state.progress.tokens - before

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.state.model.parameters())

    def some_batches(self, count: int) -> list[Batch]:
        """Batches of short, middling and long texts: evenly from all, by length."""
        order = sorted(self.batches.order(0), key=lambda i: self.batches.lengths[i].mean())
        places = [int((k + 0.5) / count * len(order)) for k in range(count)]
        return [self.batches.batch(0, order[place]) for place in places]

    def padding(self) -> float:
        """The share of positions that are no text."""
        masks = [batch.length_mask for batch in self.some_batches(20)]
        return 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)

    def flops(self) -> tuple[float, float, int]:
        """FLOPs of the model per real token: needed and executed; and the optimiser's of a step.

        Needed: the same texts in groups of one length, and products of as many rows as there are,
        so that nothing is padding. A step is taken for each; the state goes on from them.
        """
        batch = self.some_batches(1)[0]
        lengths = batch.length_mask.sum(1)
        groups = [batch.index[lengths == n].numpy() for n in lengths.unique().tolist()]
        with patch.object(embedding, "BLOCK", 1):
            needed = self._count(groups)
        executed = self._count([batch.index.numpy()])
        tokens = int(lengths.sum())
        return needed.model / tokens, executed.model / tokens, executed.optimizer

    def compile(self) -> None:
        """From here on with compiled layers. FLOPs inside them are not seen: count before."""
        compile_layers(replace(self.config, compile=True), self.state.model, self.device)

    def _count(self, groups: list[Any]) -> Flops:
        """One step over these examples, each group a batch of its own."""
        config = replace(self.config, accumulate=len(groups))
        batches = make_batches(config, self.data, self.data.train, masks=True)
        batches.order = lambda epoch: groups  # type: ignore[method-assign]
        progress = self.state.progress
        position, progress.position = progress.position, 0
        with counting(list(self.state.optimizers.values())) as counted:
            next(train(config, self.state, batches, self.device))
        progress.position = position
        return counted[0]


def module_named(model: nn.Module, name: str) -> nn.Module:
    """The part of a model whose own name this is, wherever in it it stands."""
    return next(part for path, part in model.named_modules() if path.split(".")[-1] == name)


def corpus(path: Path | None, work: Path, *, vocab_size: int, smoke: bool) -> Prepared:
    """The corpus at a path, prepared; or a few lines of the toy language."""
    if path is not None and is_prepared(path):
        return open_prepared(path)
    work.mkdir(parents=True, exist_ok=True)
    if path is None:
        path = work / "toy.txt"
        path.write_text("\n".join(ToyLanguage().lines(600 if smoke else 60_000, seed=0)) + "\n")
    return prepare([path], work / "prepared", vocab_size=300 if smoke else vocab_size, quiet=True)


def about() -> dict[str, Any]:
    """With which command, on what machine, at which commit and when."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "load": os.getloadavg()[0],  # of other work, before this one began
    }


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Raises UserError where the path cannot be written: call it before anything takes long."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another --out"
        ) from None


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
