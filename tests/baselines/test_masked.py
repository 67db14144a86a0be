import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from texts import batch_of, group_of, network, random_ids, sample

from simple_diffusion_lm.baselines.masked import Masked, draw_masked
from simple_diffusion_lm.core.generate import ORDERS
from simple_diffusion_lm.core.loss import Draws, previous_pass
from simple_diffusion_lm.core.noise import make_keys, uniform

V, B, L = 19, 3, 6


def masked(vocab: int = V, **changes: object) -> Masked:
    model = network("masked", vocab, **changes)
    assert isinstance(model, Masked)
    return model


def test_masking_a_uniform_number_is_mdlms_bound() -> None:
    """Against the integral over t of MDLM's eq. 11, for costs that depend on all that is masked."""
    n = 4
    cost = {  # what the masked tokens cost together, any function of the masked set
        subset: math.sin(1 + sum(2**i for i in subset)) + len(subset)
        for k in range(1, n + 1)
        for subset in itertools.combinations(range(n), k)
    }
    # Integral over t of t^k (1 - t)^(n - k) / t, the beta function of (k, n - k + 1).
    exact = sum(
        value * math.gamma(len(s)) * math.gamma(n - len(s) + 1) / math.gamma(n + 1)
        for s, value in cost.items()
    )
    count = 40_000
    free = torch.ones(count, n, dtype=torch.bool)
    u = (torch.arange(count) + 0.5) / count
    hidden, weight = draw_masked(free, u, uniform(make_keys(0, torch.arange(count)), n))
    drawn = [cost[tuple(row.nonzero().flatten().tolist())] for row in hidden]
    assert (weight * torch.tensor(drawn)).mean().item() == pytest.approx(exact, rel=0.01)


def test_only_free_positions_are_masked_and_always_one() -> None:
    free = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    for seed in range(50):
        keys = make_keys(seed, torch.arange(3))
        hidden, weight = draw_masked(free, uniform(keys, 1)[:, 0].float(), uniform(make_keys(keys, 0), 6))
        assert not (hidden & ~free).any()
        assert (hidden.sum(1) >= 1).all()
        torch.testing.assert_close(weight, free.sum(1) / hidden.sum(1))


def test_what_is_masked_is_not_seen() -> None:
    model = masked()
    ids = random_ids(B, L, V)
    batch, everywhere = batch_of(ids), torch.ones(B, L, dtype=torch.bool)
    hidden = torch.zeros_like(everywhere)
    hidden[:, [1, 4]] = True
    other = torch.where(hidden, (ids + 1) % V, ids)

    def logits(ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return model.predict(model.show(ids, hidden, torch.zeros(B, L, 16)), batch, everywhere)

    torch.testing.assert_close(logits(other, hidden), logits(ids, hidden))
    assert not torch.allclose(logits(other, ~everywhere), logits(ids, ~everywhere))


def test_padding_costs_nothing_and_changes_nothing() -> None:
    model = masked()
    batch = batch_of(random_ids(B, L, V), [4] * B)
    other = batch._replace(ids=(batch.ids + ~batch.length_mask) % V)
    draws = Draws.of(batch, seed=0, step=0)
    torch.testing.assert_close(model.loss(batch, draws).total, model.loss(other, draws).total)
    assert (model.bound(batch, torch.rand(B), draws.keys).tokens == 4).all()


def test_a_model_that_knows_frequencies_alone_pays_them_for_each_token() -> None:
    """Whatever is masked: so the weights have to make up for what is not."""
    model = masked()
    model.start_from_counts(torch.arange(V))
    nats = -((torch.arange(V) + 0.1) / (torch.arange(V) + 0.1).sum()).log()
    batch = batch_of(random_ids(4000, L, V))
    exact = nats[batch.ids].mean().item()
    u = (torch.arange(4000) + 0.5) / 4000
    bound = model.bound(batch, u, make_keys(2, batch.number))
    assert (bound.total.sum() / bound.tokens.sum()).item() == pytest.approx(exact, rel=0.02)
    losses = model.loss(batch, Draws.of(batch, seed=0, step=0))
    assert losses.total.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("order", ORDERS)
def test_every_free_token_is_written_once_and_equally_many_in_each_step(order: str, steps: int) -> None:
    count = 500
    given = torch.arange(L).expand(count, L) == 2
    batch = batch_of(random_ids(count, L, V), [L, L - 2] * (count // 2), given)
    model = masked()
    frames = sample(model, group_of(batch), steps, order=order)
    assert not frames[-1].free.any()
    assert torch.equal(frames[-1].ids[~batch.free], batch.ids[~batch.free])
    free, ids, total = batch.free, batch.ids, batch.free.sum(1)
    for step, frame in enumerate(frames, start=1):
        stays = frame.free == free
        assert not (frame.free & ~free).any()
        assert torch.equal(total - frame.free.sum(1), total * step // steps)
        assert torch.equal(frame.ids[stays], ids[stays])
        free, ids = frame.free, frame.ids
    if steps == 3 and order == "random":  # the first step writes each place in as many texts
        first = (batch.free & ~frames[0].free)[::2].float().mean(0)[batch.free[0]]
        torch.testing.assert_close(first, torch.full_like(first, 1 / (L - 1)), atol=0.08, rtol=0)


def test_the_surest_or_the_first_are_written_first() -> None:
    model = masked()
    batch = batch_of(random_ids(50, L, V))
    for step, frame in enumerate(sample(model, group_of(batch), steps=L, order="reading"), start=1):
        assert torch.equal(frame.free, (torch.arange(L) >= step).expand(50, L))
    likeliest = {"temperature": 1e-3, "order": "confidence"}
    first, *_ = sample(model, group_of(batch), steps=L, **likeliest)
    logits = model.predict(model.show(batch.ids, batch.free, torch.zeros(50, L, 16)), batch, batch.free)
    surest = logits.softmax(-1).amax(-1).view(50, L)
    written = surest.masked_fill(first.free, -1).amax(1)
    torch.testing.assert_close(written, surest.amax(1))


def test_the_previous_prediction_is_shown_to_texts_and_not_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-conditioning: by share in training, always in the bound, never where the rate is 0."""
    batch = batch_of(random_ids(200, L, V))
    keys, u = make_keys(3, batch.number), torch.rand(200)
    model = masked(self_cond_rate=0.5)
    shown: list[torch.Tensor] = []
    show = model.show
    monkeypatch.setattr(model, "show", lambda *inputs: shown.append(inputs[2].clone()) or show(*inputs))

    def share(call: Callable[[], object]) -> float:
        shown.clear()
        call()
        return (shown[-1] != 0).any(-1).any(-1).float().mean().item()

    assert share(lambda: model.loss(batch, Draws(u, keys))) == pytest.approx(0.5, abs=0.12)
    assert share(lambda: model.bound(batch, u, keys)) == 1
    model.config = replace(model.config, self_cond_rate=0.0)
    assert share(lambda: model.bound(batch, u, keys)) == 0
    assert len(shown) == 1


def test_a_text_that_reveals_nothing_in_a_step_costs_no_pass_and_changes_no_logits() -> None:
    model = masked(self_cond_rate=0.0)
    batch = batch_of(random_ids(B, L, V), [L, L, 2])
    passed: list[int] = []
    model.transformer.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    frames = sample(model, group_of(batch), steps=20)
    assert passed == [int(frame.where.any(1).sum()) for frame in frames]
    assert sum(passed) < len(frames) * B
    ids, free = batch.ids, batch.free
    for frame in frames:
        whole = model.predict(model.show(ids, free, torch.zeros(B, L, 16)), batch, frame.where)
        torch.testing.assert_close(frame.logits, whole)
        ids, free = frame.ids, frame.free


def test_what_is_sampled_has_the_probability_of_its_order() -> None:
    """Two tokens in two steps: one after the other, in either order."""
    vocab, count = 4, 4000
    model = masked(vocab, std=0.2, self_cond_rate=0.0)
    every = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
    batch = batch_of(every)

    def probability(hidden: list[bool]) -> torch.Tensor:
        """Of each text's tokens, (16, 2), when these are masked."""
        mask = torch.tensor(hidden).expand(16, 2)
        logits = model.predict(model.show(every, mask, torch.zeros(16, 2, 16)), batch, torch.ones_like(mask))
        return logits.softmax(-1).gather(1, every.flatten()[:, None]).view(16, 2)

    first, second = probability([True, True]).T
    second_after, first_after = probability([False, True])[:, 1], probability([True, False])[:, 0]
    exact = (first * second_after + second * first_after) / 2
    *_, frame = sample(model, group_of(batch_of(torch.zeros(count, 2, dtype=torch.long))), steps=2)
    share = torch.bincount(frame.ids[:, 0] * vocab + frame.ids[:, 1], minlength=vocab**2) / count
    torch.testing.assert_close(share, exact, atol=0.03, rtol=0)


def test_temperature_and_constraints_are_applied() -> None:
    model = masked()
    model.start_from_counts(torch.arange(V))  # the most frequent token is the last
    group = group_of(batch_of(torch.zeros(50, L, dtype=torch.long)))
    assert (sample(model, group, temperature=1e-4)[-1].ids == V - 1).all()
    banned = torch.arange(V) == V - 1
    group = group._replace(constrain=lambda logits, where: logits.masked_fill(banned, -torch.inf))
    assert (sample(model, group, temperature=1e-4)[-1].ids == V - 2).all()
    assert len(sample(model, group)[-1].ids.unique()) > V // 2


def test_each_step_of_writing_is_shown_the_last_prediction_of_what_is_still_masked() -> None:
    model, batch = masked(self_cond_rate=0.5), batch_of(random_ids(B, L, V), [L, L, 2])
    ids, free, x0_prev = batch.ids, batch.free, torch.zeros(B, L, 16)
    for frame in sample(model, group_of(batch), steps=4):
        expected = model.predict(model.show(ids, free, x0_prev), batch, frame.where)
        torch.testing.assert_close(frame.logits, expected)
        x0_prev[frame.where] = model.embedding.interpolate(frame.logits)
        x0_prev[~frame.free] = 0.0
        ids, free = frame.ids, frame.free


def test_in_training_the_first_prediction_is_made_when_more_was_masked() -> None:
    model, batch = masked(self_cond_rate=1.0), batch_of(random_ids(50, L, V))
    draws, x0_prev = Draws.of(batch, seed=0, step=0), torch.zeros(50, L, 16)
    before, noise = previous_pass(draws.keys, draws.t, 1.0)[1], uniform(draws.keys, L)
    (mask, _), (more, _) = (draw_masked(batch.free, u, noise) for u in (draws.t, before))
    first = model.predict(model.show(batch.ids, more, x0_prev), batch, mask)
    x0_prev[mask] = model.embedding.interpolate(first)
    expected = model.cost(model.show(batch.ids, mask, x0_prev), batch, mask).ce
    torch.testing.assert_close(model.loss(batch, draws).ce, expected)
