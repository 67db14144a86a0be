"""Each variant changes what is learned, in its own context only; what is exact is exact."""

import copy
from contextlib import nullcontext

import pytest
import torch
import variants
from ablations import ABLATIONS, ALL
from small_models import denoiser, small

from simple_diffusion_lm.diffusion.schedule import FittedSchedule
from simple_diffusion_lm.run import make_batches
from simple_diffusion_lm.training.loop import train
from simple_diffusion_lm.training.recipes import modern
from simple_diffusion_lm.training.state import State

VARIANTS = {name: change for name, (_, change) in ALL.items() if not isinstance(change, dict)}


def begin(data):
    """A small run's state, and its seven steps: some causal, some on noise, all of them read again.

    So that what waits until a corpus has been read before, or for self-conditioning, has begun.
    """
    config = small(modern(), steps=7, warmup_steps=1, dropout_from=0)
    batches = make_batches(config, data, data.train, masks=True)
    state = State(config, len(data.tokenizer), data.train)
    return state, train(config, state, batches, torch.device("cpu"))


def learned(data, variant=nullcontext):
    """The averaged weights at the end."""
    with variant():
        state, steps = begin(data)
        for _ in steps:
            pass
        return torch.cat([tensor.flatten() for tensor in state.model_tensors().values()])


@pytest.fixture(scope="module")
def plain(toy_data):
    return learned(toy_data)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_something_else(name, toy_data, plain):
    changed = learned(toy_data, VARIANTS[name])
    assert changed.isfinite().all()
    assert len(changed) != len(plain) or (changed - plain).abs().max() > 1e-6


def test_variants_leave_nothing_behind(toy_data, plain):
    for variant in VARIANTS.values():
        with variant():
            pass
    assert torch.equal(learned(toy_data), plain)


def test_names_are_told_apart():
    assert len(ALL) == sum(map(len, ABLATIONS.values()))
    assert not set(ALL) & set(ABLATIONS)


@pytest.mark.parametrize("variant", [variants.gumbel, variants.cross_entropy_slope])
def test_another_fit_agrees_where_the_truth_is_a_gumbel(variant):
    plain = FittedSchedule(16, 300)  # whose histogram begins as one
    with variant():
        build = variants.objectives.FittedSchedule
        assert (build(16, 300).cumulative - plain.cumulative).abs().max() < 0.02


def test_a_tied_head_is_the_table():
    with variants.tied():
        model = denoiser(50)
    torch.nn.init.normal_(model.head.project.weight)
    hidden = torch.randn(3, 32)
    expected = model.head.project(hidden) @ model.embedding.table.T
    torch.testing.assert_close(model.head(hidden), expected)
    assert sum(p.numel() for p in model.head.parameters()) == 32 * 16 + 50
    average = copy.deepcopy(model)  # whose head has to be of its own table
    torch.nn.init.zeros_(model.embedding.weight)
    torch.testing.assert_close(average.head(hidden), expected)


def test_an_average_is_told_the_level_by_its_own_weights():
    with variants.another_trunk(variants.AddedLevel)():
        model = denoiser(50).transformer
    average = copy.deepcopy(model)
    inputs = torch.randn(2, 5, 48), torch.zeros(2, 1), torch.ones(2, 5, dtype=torch.bool)
    plain = model(*inputs)
    torch.nn.init.normal_(model.level.out.bias)
    assert (model(*inputs) - plain).abs().max() > 0.1
    assert torch.equal(average(*inputs), plain)


def test_the_tables_own_rate(toy_data):
    def moved(variant):
        with variant():
            state, steps = begin(toy_data)
            before = [p.detach().clone() for p in state.model.parameters()]
            next(steps)
            after = state.model.parameters()
            return [
                (p.detach() - q, p is state.model.embedding.weight)
                for p, q in zip(after, before, strict=True)
            ]

    for (plain, is_table), (further, _) in zip(
        moved(nullcontext), moved(variants.table_rate(3.0)), strict=True
    ):
        torch.testing.assert_close(further, plain * (3 if is_table else 1), atol=1e-6, rtol=1e-4)
