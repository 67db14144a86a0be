import copy
import math

import pytest
import torch
from small_models import small
from torch import nn

from simple_diffusion_lm.core import Config, train
from simple_diffusion_lm.core.data import Batches
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.train import Muon, NonFinite, State, learning_rate, orthogonal

SHAPES = [(8, 24), (24, 8), (16, 16)]


def begin(data, **changes):
    config = small(Config(), **{"steps": 100, **changes})
    counts = torch.from_numpy(data.train.counts(len(data.tokenizer)))
    return config, State.of(config, counts), Batches(config, data.train, data.tokenizer.pad_id)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_accumulated_gradients_are_the_mean_over_batches(toy_data, monkeypatch):
    monkeypatch.setattr(train, "autocast_dtype", lambda device: None)
    config, state, batches = begin(toy_data, accumulate=2, clip=1e9)
    by_hand = copy.deepcopy(state.model)
    state.optimizers = {}  # so that the gradients stay
    next(train.train(config, state, batches))
    for number, examples in enumerate(batches.order(0)[:2], start=1):
        batch = batches.batch(0, examples)
        (by_hand.loss(batch, Draws.of(batch, config.seed, number)).total / 2).backward()
    for mine, other in zip(state.model.parameters(), by_hand.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_another_loss_is_used_where_one_is_passed(toy_data):
    config, state, batches = begin(toy_data)

    def doubled(batch, draws):
        losses = state.model.loss(batch, draws)
        return losses._replace(total=2 * losses.total)

    state.optimizers = {}
    plain, changed = (next(train.train(config, state, batches, loss)) for loss in (None, doubled))
    assert plain.losses.total.item() > 0
    assert changed.losses.total.item() == pytest.approx(2 * changed.losses.ce.mean().item(), rel=1e-4)


def test_a_group_of_parameters_may_have_its_own_pace(toy_data):
    config, state, batches = begin(toy_data)
    groups = [group for optimizer in state.optimizers.values() for group in optimizer.param_groups]
    groups[0]["pace"] = 0.25
    step = next(train.train(config, state, batches))
    assert [group["lr"] / step.learning_rate for group in groups] == [0.25] + [1.0] * (len(groups) - 1)


def test_dropout_begins_after_the_first_passes(toy_data):
    config, state, batches = begin(toy_data, dropout=0.3, dropout_from=1, batch_tokens=8192)
    state.optimizers = {}
    steps = train.train(config, state, batches)
    for number in range(2 * len(batches.order(0))):
        next(steps)
        on = {m.training for m in state.model.modules() if isinstance(m, nn.Dropout)}
        assert on == {number >= len(batches.order(0))}


def test_gradients_are_clipped(toy_data):
    config, state, batches = begin(toy_data, clip=1e-3)
    state.optimizers = {}
    step = next(train.train(config, state, batches))
    norm = torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None])
    assert step.grad_norm > 1e-3  # told as it was before
    assert norm.norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert state.progress.clipped == 1


def test_what_is_not_finite_ends_training_before_the_weights_are_touched(toy_data):
    config, state, batches = begin(toy_data)
    before = weights(state.model)

    def broken(batch, draws):
        losses = state.model.loss(batch, draws)
        return losses._replace(total=losses.total * math.inf)

    with pytest.raises(NonFinite, match="step 1: loss inf"):
        next(train.train(config, state, batches, broken))
    assert all(torch.equal(before[name], now) for name, now in weights(state.model).items())


@pytest.mark.parametrize(
    "budget", [{"steps": 7}, {"epochs": 1, "steps": None}, {"minutes": 1e-3, "steps": None}]
)
def test_a_budget_is_kept(budget, toy_data):
    config, state, batches = begin(toy_data, batch_tokens=4096, **budget)
    count = len(list(train.train(config, state, batches)))
    assert count == state.progress.step
    if budget.get("steps"):
        assert count == 7
    if "epochs" in budget:
        assert count == len(batches.order(0))
        assert state.progress.tokens == batches.lengths().sum()
    if "minutes" in budget:
        assert state.progress.seconds >= 0.06


def test_the_learning_rate_warms_up_and_falls():
    config = Config(learning_rate=1.0, warmup_steps=10)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 50, 0.5) == pytest.approx(0.5)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.0)
    document = Config(learning_rate=1.0, warmup_steps=10, decay_steps=100)
    assert learning_rate(document, 60, 0.3) == pytest.approx(0.5)
    assert learning_rate(document, 5000, 0.9) == pytest.approx(0.1)


def matrices():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def test_muon_is_torchs_where_there_is_bfloat16(monkeypatch):
    monkeypatch.setattr(train, "autocast_dtype", lambda device: torch.bfloat16)
    mine, theirs = matrices(), matrices()
    settings = {"lr": 0.01, "weight_decay": 0.1}
    each = (
        (mine, Muon(mine, **settings)),
        (theirs, torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)),
    )
    for step in range(4):
        for parameters, optimizer in each:
            torch.manual_seed(1 + step)
            for p in parameters:
                p.grad = torch.randn_like(p)
            optimizer.step()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_muon_step_keeps_the_directions_and_evens_the_lengths(shape, dtype, monkeypatch):
    monkeypatch.setattr(train, "autocast_dtype", lambda device: dtype)
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    found = orthogonal((u * torch.linspace(0.3, 3, min(shape)) @ vh)[None])[0]
    assert found.dtype == (dtype or torch.float32)
    inside = u.T @ found.float() @ vh.T
    assert inside.diagonal().min() > 0.65
    assert inside.diagonal().max() < 1.25
    off = inside - inside.diagonal().diag()
    assert off.abs().max() < (1e-5 if dtype is None else 0.05)


def test_without_a_gradient_there_is_no_step():
    still, zero = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.zeros(2, 2)
    Muon([still, zero], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert torch.equal(zero, torch.ones(2, 2))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_linear_maps_of_the_transformer_decay_and_nothing_else(optimizer, toy_data):
    _, state, _ = begin(toy_data, optimizer=optimizer, weight_decay=0.3)
    groups = [group for each in state.optimizers.values() for group in each.param_groups]
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    linear = {id(m.weight) for m in state.model.transformer.modules() if isinstance(m, nn.Linear)}
    assert decay == {id(p): 0.3 if id(p) in linear else 0.0 for p in state.model.parameters()}
