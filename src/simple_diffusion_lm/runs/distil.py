"""Distillation: a student learns to write in a few passes what its teacher writes in many.

One round of progressive distillation (2202.00512), with probabilities. DDIM moves x / sigma by x0_hat times
the change of S = alpha / sigma. So one pass arrives where the teacher arrives in several, if its x0_hat is
the mean of the teacher's, each weighted by its change of S; and since x0_hat is the mean embedding under
the probabilities, the same mean of the teacher's probabilities makes it so. The loss is the KL divergence
to that. The teacher has its usual temperature and writes nothing inside a pass; the student is sampled at
that temperature again (docs/log.md).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Config
from ..core.denoiser import Batch, Denoiser
from ..core.generate import Sampling, TextModel
from ..core.loss import Draws, Loss, Losses
from ..core.noise import Level, X, normal
from ..core.sampler import move, no_fresh_noise
from ..corpus.prepare import Prepared
from ..errors import UserError
from .config import BUDGETS, SURER, with_settings
from .run import load_run, run_training

TEACHER_STEPS = Sampling.steps  # from noise to text: as many as it is usually asked for
# What is a student's own in its configuration.
STUDENT: dict[str, Any] = {
    "passes": 4,
    "self_cond_rate": 0.0,
    "dropout": 0.0,
    "learning_rate": 2e-3,
    **dict.fromkeys(BUDGETS),
}


def distil(teacher: Path, data: Prepared, out: Path, settings: Mapping[str, Any], **options: Any) -> None:
    """Trains a student of the run `teacher` in the directory `out`, resuming what is there.

    settings: fields of its Config that are neither the teacher's nor those of STUDENT. options: others of
    run_training. Raises UserError for a teacher that has no noise, and as run_training does.
    """
    its = load_run(teacher).model
    if its.config.objective != Config.objective:
        raise UserError(f"{teacher} is {its.config.objective}: only diffusion can be distilled")
    config = with_settings(replace(its.config, **STUDENT), settings)
    loss_of = partial(student_loss, its, config.passes or 1)
    run_training(config, data, out, start_from=teacher, loss_of=loss_of, **options)


def student_loss(teacher: TextModel, passes: int, student: TextModel) -> Loss:
    """The loss of one of the student's passes, drawn for each text. The table of embeddings, which the two
    share, is left as it is."""
    assert isinstance(teacher, Denoiser)
    assert isinstance(student, Denoiser)
    teacher.to(student.embedding.weight.device).eval().requires_grad_(False)
    student.embedding.requires_grad_(False)
    parts = max(1, TEACHER_STEPS // passes)

    def loss(batch: Batch, draws: Draws) -> Losses:
        done = (draws.t * passes).floor() * parts
        times = [1 - (done + part) / (parts * passes) for part in range(parts + 1)]
        levels = [student.schedule(t[:, None, None]) for t in times]
        x0 = student.embedding(batch.ids)
        x_t = levels[0].add_noise(x0, normal(draws.keys, *x0.shape[1:]))
        target = mean_probabilities(teacher, x_t, levels, batch)
        logits = student(x_t, levels[0], torch.zeros_like(x0), batch).logits
        log_p = logits.log_softmax(-1)
        divergence = -(torch.special.entr(target) + target * log_p).sum(-1)
        tokens, correct = batch.free.sum(), log_p.argmax(-1) == target.argmax(-1)
        return Losses(divergence.sum() / tokens.clamp(min=1), tokens, divergence, correct, log_p.new_empty(0))

    return loss


@torch.no_grad()
def mean_probabilities(teacher: Denoiser, x_t: X, levels: list[Level], batch: Batch) -> Float[Tensor, "N V"]:
    """The probabilities of the N free positions on the teacher's way down these levels: their mean, weighted
    by the change of alpha / sigma. It is shown its own last prediction, at the start its first one there."""
    free, x0_prev = batch.free, torch.zeros_like(x_t)

    def predict(level: Level) -> Float[Tensor, "N V"]:
        logits = teacher(x_t, level, x0_prev, batch, SURER).logits
        x0_prev[free] = teacher.embedding.interpolate(logits)
        return logits.softmax(-1)

    predict(levels[0])
    total, mean = torch.tensor(0.0), torch.tensor(0.0)
    for now, nxt in pairwise(levels):
        here, there = now.at(free), nxt.at(free)
        change = there.alpha / there.sigma - here.alpha / here.sigma
        total, mean = total + change, mean + change * predict(now)
        x_t = move(x_t, x0_prev, now, nxt, no_fresh_noise(now, nxt), x_t)
    return mean / total
