"""Distillation: a student learns to write in a few passes what its teacher writes in many.

Distribution matching (DMD2, 2405.14867; for text DLM-One, 2506.00290). The student writes with `renoise`.
What it wrote is noised anew, and two networks say what was there: the teacher, which knows the corpus, and a
critic, a copy of it that learns what the student writes. Where they differ, the student writes something too
often or too seldom, and its logits move by the teacher's probabilities minus the critic's: down the KL
divergence between what the student writes and what the teacher knows, both noised (docs/theory.md). Of a text
of the corpus the student sees its length and what is given, no more. This needs noise, which lets a pass
decide all positions together: a masked student draws each by itself, and gains little (docs/log.md).
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..core import Config
from ..core.denoiser import Batch, Denoiser
from ..core.generate import Group, Sampling, TextModel, predictions
from ..core.loss import Draws, Loss, Losses, previous_prediction
from ..core.noise import make_keys, normal, uniform
from ..core.train import State, make_optimizers
from ..corpus.prepare import Prepared
from ..errors import UserError
from . import checkpoint
from .config import BUDGETS, with_settings
from .run import load_run, run_training

STUDENT: dict[str, Any] = {"passes": 4, "dropout": 0.0, **dict.fromkeys(BUDGETS)}  # its own
# What a student has from its teacher, and what its training does not read: nobody should set these in vain.
AS_ITS_TEACHER = """embedding_dim model_dim layers heads width normaliser regress posterior cond_dim schedule
    self_cond_rate objective cooccurrence bell_times late_given mse_weight ce_weight patience"""
FOR_WRITING, FOR_NOISE = 2, 3  # in a key, beside those of core/loss.py
# Learning rates, as shares of the teacher's. A student that its critic cannot follow loses all it knows.
PACE_OF_STUDENT, PACE_OF_CRITIC = 0.15, 1.5


def distil(teacher: Path, data: Prepared, out: Path, settings: Mapping[str, Any], **options: Any) -> None:
    """Trains a student of the run `teacher` in the directory `out`, resuming what is there.

    settings: fields of its Config that are neither the teacher's nor those of STUDENT. options: others of
    run_training. Raises UserError as that does, for a teacher without noise, and for its settings."""
    loaded = load_run(teacher)
    its = loaded.model.config
    what = "a student" if its.passes is not None else its.objective
    if what != Config.objective:
        raise UserError(f"{teacher} is {what}: only diffusion can be distilled, and a student not again")
    own = replace(its, **STUDENT)
    config = with_settings(own, settings)
    if in_vain := [name for name in AS_ITS_TEACHER.split() if getattr(config, name) != getattr(own, name)]:
        raise UserError(f"a student is as its teacher in {', '.join(in_vain)}: set none of it")
    end = None if data.stream else data.tokenizer.eos_id
    known = f"{checkpoint.identity(loaded.about)} at step {loaded.progress.step}"
    loss_of = partial(student_loss, loaded.model, end)
    run_training(config, data, out, loss_of=loss_of, teacher=known, **options)


def student_loss(teacher: TextModel, end: int | None, state: State) -> Loss:
    """The loss of a new run's student and of its critic: their weights, which begin as the teacher's, and
    their optimisers are put into its state. Embeddings stay as they are. end: the id that ends a text, given
    as it is in writing; None in running text."""
    student = state.model
    assert isinstance(teacher, Denoiser)
    assert isinstance(student, Denoiser)
    student.load_state_dict(teacher.state_dict())
    critic = copy.deepcopy(student)
    teacher.to(student.embedding.weight.device).eval()
    for frozen in (teacher, student.embedding, student.regress, critic.embedding, critic.regress):
        if frozen is not None:  # regress: nothing here is asked of it
            frozen.requires_grad_(False)
    of_critic = make_optimizers(student.config, critic)
    for pace, optimizers in ((PACE_OF_STUDENT, state.optimizers), (PACE_OF_CRITIC, of_critic)):
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["pace"] = pace
    state.optimizers |= {f"critic_{kind}": optimizer for kind, optimizer in of_critic.items()}
    student.critic = critic  # a part of it while it is trained: saved, and divided among processes, with it

    def loss(batch: Batch, draws: Draws) -> Losses:
        if end is not None:
            batch = batch._replace(cond_mask=batch.cond_mask | (batch.length_mask & (batch.ids == end)))
        tokens = batch.free.sum()
        passes = student.config.passes or 1
        number = int(uniform(make_keys(draws.key, FOR_WRITING), 1).item() * passes)
        keys = make_keys(draws.keys, FOR_WRITING)
        writing = predictions(student, Group(batch, keys), Sampling(passes, temperature=1.0))
        with torch.no_grad():  # with a gradient through all passes it learns less (docs/log.md)
            for _ in range(number):
                next(writing)
        x0_hat, logits = next(writing)
        # Matched is what the next pass will see of it, and what has more noise than that (Phased DMD,
        # 2510.27684): of what is still to be decided the student need not say one thing for all.
        lowest = 1 - (number + 1) / passes
        draws = draws._replace(t=lowest + (1 - lowest) * draws.t)
        level = student.schedule(draws.t[:, None, None])
        eps = normal(make_keys(draws.keys, FOR_NOISE), *x0_hat.shape[1:])
        x_t = level.add_noise(x0_hat.detach(), eps)
        # Self-conditioned, as in training: else the teacher knows less, and its student too (docs/log.md).
        guess = critic(x_t, level, previous_prediction(critic, batch, x_t, draws), batch).logits
        with torch.no_grad():
            known = teacher(x_t, level, previous_prediction(teacher, batch, x_t, draws), batch).logits
            apart = guess.softmax(-1) - known.softmax(-1)
        log_p, target = guess.log_softmax(-1), logits.detach().softmax(-1)
        divergence = F.kl_div(log_p, target, reduction="none").sum(-1)  # of the critic
        # The gradient, with the critic's, is mostly longer than `clip`, and shortened: passes count alike.
        matching = student.embedding.dim * (logits * apart).sum(-1)
        total = (divergence + matching).sum() / tokens.clamp(min=1)
        # Shown as cross-entropy, how far apart the two estimates are: 0 at first, then much, then less.
        shown = F.kl_div(known.log_softmax(-1), log_p.detach(), reduction="none", log_target=True).sum(-1)
        return Losses(total, tokens, shown, guess.argmax(-1) == known.argmax(-1), log_p.new_empty(0))

    return loss
