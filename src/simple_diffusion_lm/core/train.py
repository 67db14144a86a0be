"""Training: the optimiser and the loop. Run as a program, the whole system."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from . import Config
from .bound import Bound, variational_bound
from .data import Batches, Corpus, Tokenizer, read_lines
from .denoiser import Batch, Denoiser
from .generate import Frame, Group, Sampling, TextModel, generate, sample_text
from .loss import Draws, Loss, Losses, diffusion_loss
from .noise import Keys, PerText, make_keys


class Diffusion(Denoiser, TextModel):
    """Continuous diffusion: a denoiser with its loss, its bound and its way to sample."""

    is_guided = True

    def loss(self, batch: Batch, draws: Draws) -> Losses:
        return diffusion_loss(self, batch, draws)

    def bound(self, batch: Batch, u: PerText, keys: Keys) -> Bound:
        return variational_bound(self, batch, u, keys)

    def sample(self, group: Group, sampling: Sampling) -> Iterator[Frame]:
        return sample_text(self, group, sampling)


# Everything that can be trained: built from (config, vocab_size). baselines/ adds its own here.
MODELS: dict[str, Callable[[Config, int], TextModel]] = {"continuous": Diffusion}


@cache  # asked for at every update of Muon
def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the processor computes in it; None where it would only emulate it."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else None


def orthogonal(matrices: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    """Near U V' of each matrix U S V': five Newton-Schulz steps with Jordan's coefficients (2024) bring
    singular values above 0.3% of the norm to 0.7 to 1.2. In bfloat16, but not where that is emulated."""
    x = matrices.to(autocast_dtype(matrices.device) or torch.float32)
    x = x if x.shape[1] <= x.shape[2] else x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(5):
        gram = x @ x.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, mixed, x, beta=3.4445)
    return x if x.shape == matrices.shape else x.mT


class Muon(Optimizer):
    """Steps along orthogonal matrices (Jordan 2024) with Nesterov momentum and decoupled decay. Unlike
    torch.optim.Muon it does not need bfloat16."""

    MOMENTUM = 0.95

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved: dict[torch.Size, dict[nn.Parameter, Tensor]] = {}
            for p in (p for p in group["params"] if p.grad is not None):
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
                momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
                moved.setdefault(p.shape, {})[p] = p.grad.lerp(momentum, self.MOMENTUM)
            for shape, same in moved.items():  # those of one shape together: fewer and larger products
                for p, update in zip(same, orthogonal(torch.stack([*same.values()])), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    # As long as AdamW's steps, so that both take one learning rate (2502.16982, eq. 4).
                    p.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def make_optimizers(config: Config, model: nn.Module) -> dict[str, Optimizer]:
    """Muon for the linear maps inside the transformer, AdamW (1711.05101) for everything else: rows of
    tables, heads, biases and short convolutions are not directions of one space, and neither orthogonal
    updates nor weight decay suit them."""
    modules = model.named_modules()
    linear = {f"{n}.weight" for n, m in modules if isinstance(m, nn.Linear) and "transformer" in n}
    inside = [p for name, p in model.named_parameters() if name in linear]
    outside = [p for name, p in model.named_parameters() if name not in linear]
    rate, decay = config.learning_rate, config.weight_decay
    # The short memory of squared gradients, 0.99, suits runs of some thousand steps.
    adamw = partial(torch.optim.AdamW, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    if config.optimizer == "muon":
        return {"muon": Muon(inside, rate, decay), "adamw": adamw(outside)}
    groups: list[dict[str, Any]] = [{"params": inside, "weight_decay": decay}, {"params": outside}]
    return {"adamw": adamw(groups)}


@dataclass
class Progress:
    """How far a run has come. Resuming starts from here."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # batches of this epoch that are done
    batches: int = 0  # batches in all: the number that random numbers are made from
    tokens: int = 0  # real tokens seen
    seconds: float = 0.0  # in steps alone: validating and sampling do not count
    clipped: int = 0  # steps whose gradient was longer than it may be


@dataclass
class State:
    """The model, its optimisers, and how far they have come: all that a checkpoint holds."""

    model: TextModel
    optimizers: dict[str, Optimizer]
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def of(
        cls,
        config: Config,
        counts: Int[Tensor, " V"],
        device: torch.device | str = "cpu",
        table: Float[Tensor, "V D"] | None = None,
    ) -> "State":
        """A new run on a corpus with these counts of tokens. table: embeddings to begin with."""
        torch.manual_seed(config.seed)
        model = MODELS[config.objective](config, len(counts))
        model.start_from_counts(counts)
        if table is not None:
            model.embedding.weight.data.copy_(table)
        model.to(device)
        return cls(model, make_optimizers(config, model))


class NonFinite(Exception):
    """The loss or the gradient is not a number. Raised before the weights are touched."""


class Step(NamedTuple):
    """What was seen of an optimiser step."""

    losses: Losses  # of the step's last batch
    grad_norm: float  # before clipping
    learning_rate: float


def fraction_done(config: Config, progress: Progress, batches_in_epoch: int) -> float:
    """How much of the budget is spent, from 0 to 1 and past it."""
    if config.steps is not None:
        return progress.step / config.steps
    if config.minutes is not None:
        return progress.seconds / 60 / config.minutes
    assert config.epochs is not None
    return (progress.epoch + progress.position / batches_in_epoch) / config.epochs


def learning_rate(config: Config, step: int, fraction: float) -> float:
    """Linear warm-up, then cosine to zero over the budget; or the original README's linear decay."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.decay_steps is None:
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1)))
    decayed = 1 - max(step - config.warmup_steps, 0) / config.decay_steps
    return config.learning_rate * warm * max(decayed, 0.1)


def batches_from(batches: Batches, progress: Progress) -> Iterator[Batch]:
    """Batches from where the run stands, epoch after epoch. Each is counted before it is handed out."""
    while True:
        order, lengths = batches.order(progress.epoch), batches.lengths(progress.epoch)
        for numbers in order[progress.position :]:
            progress.position += 1
            progress.batches += 1
            progress.tokens += int(lengths[numbers].sum())
            yield batches.batch(progress.epoch, numbers)
        progress.epoch += 1
        progress.position = 0


def train(config: Config, state: State, batches: Batches, loss: Loss | None = None) -> Iterator[Step]:
    """Trains until the budget is spent, yielding after each optimiser step.

    loss: a function of batch and draws, in place of model.loss. All randomness is a function of the seed and
    of how far the run has come: a resumed run draws what an undisturbed one would have drawn.

    Raises NonFinite, before the update, when loss or gradient are not finite.
    """
    model, progress, loss = state.model, state.progress, loss or state.model.loss
    device = model.embedding.weight.device
    dtype = autocast_dtype(device)
    batches_in_epoch = len(batches.order(0))
    source = batches_from(batches, progress)
    while (fraction := fraction_done(config, progress, batches_in_epoch)) < 1:
        began = time.monotonic()
        rate = learning_rate(config, progress.step, fraction)
        for _ in range(config.accumulate):
            batch = next(source).each(lambda x: x.to(device))
            # No dropout in the first epochs: its text is new, and cannot be
            # memorised yet (late dropout: 2303.01500; about four passes: 2305.16264).
            model.train(progress.epoch >= config.dropout_from)
            torch.manual_seed(make_keys(config.seed, progress.batches).item())  # for dropout alone
            draws = Draws.of(batch, config.seed, progress.batches)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                losses = loss(batch, draws)
            torch.autograd.backward(losses.total / config.accumulate)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip).item()
        if not math.isfinite(norm + losses.total.item()):
            numbers = f"loss {losses.total.item()}, gradient norm {norm}, learning rate {rate:.2g}"
            raise NonFinite(f"step {progress.step + 1}: {numbers}, texts {batch.number[:8].tolist()}…")
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("pace", 1.0)  # of a student, or its critic: runs/distil.py
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        progress.clipped += norm > config.clip
        progress.seconds += time.monotonic() - began
        yield Step(Losses(*(x.detach() for x in losses)), norm, rate)


def main(path: str, steps: int = 1600, vocab_size: int = 640) -> None:
    """Trains on a text file, one example a line, and prints samples as it goes."""
    lines = list(read_lines(path))
    tokenizer = Tokenizer.train(lines, vocab_size, hard_vocab_limit=False)
    corpus = Corpus.of(map(tokenizer.encode, lines), tokenizer.eos_id)
    config = Config(steps=steps, cooccurrence=False)
    batches = Batches(config, corpus, tokenizer.pad_id)
    state = State.of(config, torch.from_numpy(corpus.counts(len(tokenizer))))
    for step in train(config, state, batches):
        if state.progress.step % 200 == 0:
            ce, correct = step.losses.ce.mean(), step.losses.correct.float().mean()
            print(f"step {state.progress.step} cross-entropy {ce:.3f} correct {correct:.0%}")
            lengths = np.random.default_rng(0).choice(batches.lengths(), 4)
            print("\n".join(generate(state.model, tokenizer, lengths.tolist())), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
