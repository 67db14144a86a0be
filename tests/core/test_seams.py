"""Changing one thing is one place: each part is replaced here from outside, in a few lines."""

from itertools import pairwise

import numpy as np
import torch
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.data import Batches, Corpus
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Group, Sampling
from simple_diffusion_lm.core.noise import SCHEDULES, level_at, make_keys
from simple_diffusion_lm.core.sampler import SAMPLERS
from simple_diffusion_lm.core.train import State, train

V, L = 20, 6


def straight(t):
    """A schedule: log-SNR falls evenly with time."""
    return level_at(4 - 12 * t)


def heun(denoise, x_t, levels, noise):
    """A sampler with two evaluations a step: y = x_t / sigma moves along the mean of two slopes."""
    x0_prev = torch.zeros_like(x_t)
    for now, nxt in pairwise(levels):
        step = nxt.alpha / nxt.sigma - now.alpha / now.sigma  # dy = x0_hat d(alpha / sigma)
        first = denoise(x_t, now, x0_prev)
        there = nxt.sigma * (x_t / now.sigma + step * first.x0_hat)
        second = denoise(there, nxt, first.x0_hat)
        x0_prev = second.x0_hat
        x_t = nxt.sigma * (x_t / now.sigma + step * (first.x0_hat + x0_prev) / 2)
        yield x_t, second


def data(count=200):
    """Lines that repeat one token, a lower one with the label 0 and a higher one with the label 1."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (count,), generator=rng)
    tokens = 4 + 8 * labels + torch.randint(8, (count,), generator=rng)
    return Corpus.of([[int(token)] * (L - 1) for token in tokens], eos_id=1), labels


def trained(steps=60, loss=None, conditions=None, **changes):
    corpus, _ = data()
    config = small(Config(), **{"steps": steps, "cond_rate": 0.0, **changes})
    batches = Batches(config, corpus, pad_id=2, conditions=conditions)
    state = State.of(config, torch.from_numpy(corpus.counts(V)))
    losses = [step.losses.total.item() for step in train(config, state, batches, loss and loss(state.model))]
    return state.model.eval(), losses


def sampled(model, count=40, cond=None, **sampling):
    number = torch.arange(count)
    ids = torch.ones(count, L, dtype=torch.long)
    last = (torch.arange(L) == L - 1).expand(count, L)
    batch = Batch(ids, torch.ones_like(last), last, number, number / count, cond)
    *_, frame = model.sample(Group(batch, make_keys(0, number)), Sampling(**sampling))
    return frame.ids[:, :-1]


def test_a_schedule_is_a_function_and_a_dict_entry(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "straight", lambda embedding_dim, vocab_size: straight)
    model, losses = trained(schedule="straight", steps=200)
    assert losses[-1] < 0.8 * losses[0]
    batch = Batches(model.config, data()[0], pad_id=2).batch(0, np.arange(4))
    assert model.bound(batch, torch.rand(4), make_keys(batch.number)).total.isfinite().all()


def test_a_sampler_is_a_function_and_a_dict_entry(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "heun", heun)
    model, _ = trained(steps=350)
    lines = sampled(model, steps=12, sampler="heun", temperature=0.5)
    assert (lines == lines[:, :1]).all(1).float().mean() > 0.5


def test_a_loss_is_an_argument_of_the_loop():
    """Here one that does not count what is wrong by far: the values of each token are there to weigh."""

    def easy(model):
        def loss(batch, draws):
            losses = model.loss(batch, draws)
            weights = (losses.ce < 2).float()
            return losses._replace(total=(weights * losses.ce).sum() / weights.sum().clamp(min=1))

        return loss

    _, plain = trained(steps=3)
    _, changed = trained(steps=3, loss=easy)
    assert changed[0] < plain[0]


def test_a_class_label_is_one_optional_argument():
    _, labels = data()
    model, losses = trained(cond_dim=2, conditions=torch.eye(2)[labels][:, None], steps=150)
    assert losses[-1] < losses[0] / 2
    for label in (0, 1):
        cond = torch.eye(2)[label].expand(40, 1, 2)
        lines = sampled(model, cond=cond, steps=16)
        assert ((lines >= 12) == bool(label)).float().mean() > 0.8
