import copy

import pytest
import torch
from small_models import small

from simple_diffusion_lm.run import make_batches
from simple_diffusion_lm.training.loop import batch_loss, train
from simple_diffusion_lm.training.recipes import modern
from simple_diffusion_lm.training.state import State

CPU = torch.device("cpu")


def begin(data, **changes):
    config = small(modern(), steps=100, **changes)
    batches = make_batches(config, data, data.train, masks=True)
    return config, State(config, len(data.tokenizer), data.train), batches


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_average_is_exponential_with_a_decay_that_warms_up(toy_data):
    config, state, batches = begin(toy_data, ema=0.5)
    steps = train(config, state, batches, CPU)
    next(steps)
    expected = weights(state.model)  # the first update copies
    for count in range(1, 6):
        next(steps)
        decay = min(0.5, (1 + count) / (10 + count))
        for name, now in weights(state.model).items():
            expected[name] = decay * expected[name] + (1 - decay) * now
    for name, average in weights(state.averaged_model).items():
        torch.testing.assert_close(average, expected[name])


def test_accumulated_gradients_are_the_mean_over_batches(toy_data):
    config, state, batches = begin(toy_data, accumulate=2, clip=1e9, causal=0.0, self_cond_from=0.0)
    by_hand = copy.deepcopy(state)
    state.optimizers = {}  # so that the gradients stay
    next(train(config, state, batches, CPU))
    for indices in batches.order(0)[:2]:
        by_hand.progress.batches += 1
        (batch_loss(config, by_hand, batches.batch(0, indices), CPU).total / 2).backward()
    for mine, other in zip(state.model.parameters(), by_hand.model.parameters(), strict=True):
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad)


def test_noise_is_new_for_every_batch_and_the_same_for_the_same(toy_data):
    config, state, batches = begin(toy_data)
    batch = batches.batch(0, batches.order(0)[0])
    first, again = (batch_loss(config, state, batch, CPU).total.item() for _ in range(2))
    assert first == pytest.approx(again, rel=1e-3)  # but for the schedule, which has learned
    state.progress.batches = 1
    assert batch_loss(config, state, batch, CPU).total.item() != pytest.approx(first, rel=1e-3)


def test_dropout_sets_in_after_the_first_passes(toy_data):
    config, state, batches = begin(toy_data, dropout=0.3, dropout_from=1, batch_tokens=8192)
    state.optimizers = {}  # the weights stay, so that only dropout tells losses apart
    steps = train(config, state, batches, CPU)
    for number in range(2 * len(batches.order(0))):
        next(steps)
        on = {m.training for m in state.model.modules() if isinstance(m, torch.nn.Dropout)}
        assert on == {number >= len(batches.order(0))}


def test_gradients_are_clipped(toy_data):
    config, state, batches = begin(toy_data, clip=1e-3)
    state.optimizers = {}
    step = next(train(config, state, batches, CPU))
    norm = torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None])
    assert step.grad_norm > 1e-3  # told as it was before
    assert norm.norm().item() == pytest.approx(1e-3, rel=1e-3)
