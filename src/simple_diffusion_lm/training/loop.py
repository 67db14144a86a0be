"""The training loop: a generator that takes one optimiser step and says what it saw.

Whoever iterates logs, validates, saves and stops (training/run.py); here is only the learning.
"""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..diffusion.loss import ALL, Losses, Part, seeded
from ..text.batches import Batch, Batches
from .config import Config
from .distributed import of_whole_batch, own_part, tokens_of_whole_batch, whole
from .processes import autocast_dtype, largest
from .state import Progress, State


class NonFinite(Exception):
    """The loss or the gradient is not a number. Raised before the weights are touched."""


class Step(NamedTuple):
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
    """Linear warm-up, then cosine to zero over the budget; or the document's linear decay."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.decay_steps is None:
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1)))
    decayed = 1 - max(step - config.warmup_steps, 0) / config.decay_steps
    return config.learning_rate * warm * max(decayed, 0.1)


def drop_out(model: torch.nn.Module, now: bool) -> None:
    """Switches dropout on or off.

    It has no part in the first passes over the corpus, whose text is new and cannot be learned by
    heart, and costs a tenth of the time (late dropout: 2303.01500; four passes are about as good
    as new text: 2305.16264).
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train(now)


def batches_from(batches: Batches, progress: Progress) -> Iterator[tuple[Batch, Part]]:
    """This process's part of the batches from where the run stands, epoch after epoch.

    `progress` counts a batch before it is handed out, so that it stands after it when saved.
    """
    while True:
        order = batches.order(progress.epoch)
        for indices in order[progress.position :]:
            progress.position += 1
            progress.batches += 1
            yield own_part(batches, progress.epoch, indices)
        progress.epoch += 1
        progress.position = 0


def train(config: Config, state: State, batches: Batches, device: torch.device) -> Iterator[Step]:
    """Trains until the budget is spent, yielding after each optimiser step.

    All randomness is a function of the seed and of how far the run has come, so a resumed run
    draws what an undisturbed one would have drawn.

    Raises NonFinite, before the update, when loss or gradient are not finite.
    """
    progress = state.progress
    batches_in_epoch = len(batches.order(0))
    source = batches_from(batches, progress)
    while (fraction := fraction_done(config, progress, batches_in_epoch)) < 1:
        began = time.monotonic()
        rate = learning_rate(config, progress.step, fraction)
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        for _ in range(config.accumulate):
            batch, part = next(source)
            drop_out(state.model, progress.epoch >= config.dropout_from)
            losses = of_whole_batch(batch_loss(config, state, batch, device, fraction, part))
            torch.autograd.backward(losses.total / config.accumulate)
            progress.tokens += tokens_of_whole_batch(batch)
        norm = whole(torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip))
        if not torch.isfinite(losses.total + norm):
            raise NonFinite(
                f"step {progress.step + 1}: loss {losses.total.item()}, gradient norm "
                f"{norm.item()}, learning rate {rate:.2g}, examples {batch.index[:8].tolist()}…"
            )
        for optimizer in state.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        state.average.update_parameters(state.model)
        progress.step += 1
        progress.clipped += norm.item() > config.clip
        progress.seconds += largest(time.monotonic() - began)
        yield Step(losses, norm.item(), rate)


def batch_loss(
    config: Config,
    state: State,
    batch: Batch,
    device: torch.device,
    done: float = 1.0,
    part: Part = ALL,
) -> Losses:
    """The losses of these rows, with their draws (a function of the seed and the batch's number).

    Dropout alone is drawn anew for another division of the batch.
    """
    number = state.progress.batches
    torch.manual_seed((seeded(config.seed, number).initial_seed() + part.first) % 2**63)
    ids, length_mask, cond_mask, index = (x.to(device) for x in batch)
    dtype = autocast_dtype(device)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        draws = {"seed": config.seed, "step": number, "done": done, "part": part}
        return state.loss(ids, length_mask, cond_mask, index, **draws)
