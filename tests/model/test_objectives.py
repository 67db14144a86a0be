"""What every objective must do, each by itself: learn two lines by heart, and write them again."""

import math
from functools import cache

import pytest
import torch
from small_models import small

from simple_diffusion_lm.diffusion.loss import seeded
from simple_diffusion_lm.diffusion.sampler import SAMPLERS
from simple_diffusion_lm.model.slots import Settings, Slot, Vocabulary
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern, original, with_objective

V, D, L = 23, 16, 6
CONFIGS = {
    "modern": modern(),
    "original": original(),
    "masked": with_objective(modern(), "masked"),
    "autoregressive": with_objective(modern(), "autoregressive"),
}
NONE = torch.zeros(V, dtype=torch.bool)
ANYTHING = Vocabulary(NONE, NONE, None)


def two_lines():
    return torch.randint(V, (2, L), generator=seeded(5))


@cache
def fitted(name):
    """A model of this kind, trained until it knows two lines."""
    torch.manual_seed(0)
    config = CONFIGS[name]
    model = OBJECTIVES[config.objective](small(config, model_dim=48), V)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = 1500 if config.objective == "continuous" else 800
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ids = two_lines().repeat(12, 1)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    index = torch.arange(len(ids))
    for step in range(steps):
        losses = model.loss(ids, everywhere, ~everywhere, index, seed=0, step=step)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_tiny_model_overfits_one_batch_and_reproduces_it(name, sampler):
    free = torch.zeros(L, dtype=torch.bool)
    slots = [Slot(free.long(), free, free, free, n, (0, n)) for n in range(32)]
    settings = Settings(SAMPLERS[sampler], steps=32, temperature=1.0)
    lines = dict(fitted(name).generate(slots, settings, ANYTHING))
    known = {tuple(row) for row in two_lines().tolist()}
    found = [tuple(line.tolist()) for line in lines.values()]
    assert sum(line in known for line in found) >= 29
    assert len(set(found) & known) == 2


@pytest.mark.parametrize("name", ["masked", "autoregressive"])
def test_the_bound_of_two_equally_likely_lines_is_log_two(name):
    """And never below it: that is the entropy of what it was trained on."""
    ids = two_lines().repeat(500, 1)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    u = (torch.arange(len(ids)) + 0.5) / len(ids)
    bound = fitted(name).bound(ids, everywhere, ~everywhere, u[torch.randperm(len(u))], seeded(1))
    assert bound.total.mean().item() == pytest.approx(math.log(2), abs=0.03)
    assert (bound.tokens == L).all()


@pytest.mark.parametrize("name", ["modern", "original", "masked"])
def test_given_tokens_come_back_and_decide_the_rest(name):
    ids = two_lines()
    given = torch.zeros(L, dtype=torch.bool)
    given[[1, 3]] = True
    free = torch.zeros(L, dtype=torch.bool)
    slots = [Slot(ids[n % 2], given, free, free, n, (0, n)) for n in range(8)]
    settings = Settings(SAMPLERS["ancestral"], steps=32, temperature=1.0)
    for number, line in fitted(name).generate(slots, settings, ANYTHING):
        assert (line[given] == ids[number % 2][given]).all()
        if name == "masked":  # the others were not trained with given tokens here
            assert (line == ids[number % 2]).all()


def test_batches_take_turns_and_self_conditioning_comes_late():
    torch.manual_seed(0)
    model = OBJECTIVES["continuous"](small(modern(), causal=0.7, self_cond_from=0.6), V)
    shown = []

    def watch(_, args, kwargs):
        shown.append(bool(args[2].any()))

    model.get_submodule("denoiser").register_forward_pre_hook(watch, with_kwargs=True)
    ids = two_lines().repeat(12, 1)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    index = torch.arange(len(ids))
    for done, on_noise in ((0.0, [False]), (0.59, [False]), (0.61, [False, True])):
        passes = []
        for step in range(20):
            shown.clear()
            losses = model.loss(ids, everywhere, ~everywhere, index, seed=0, step=step, done=done)
            assert (int(losses.tokens) == ids.numel()) == (shown == [])  # every token, or some
            passes.append(list(shown))
        assert passes.count([]) == 14
        assert all(each in ([], on_noise) for each in passes)
