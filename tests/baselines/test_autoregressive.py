import pytest
import torch
from texts import batch_of, group_of, network, random_ids, sample
from torch import Tensor

from simple_diffusion_lm.baselines.autoregressive import Autoregressive, Cache
from simple_diffusion_lm.baselines.predictor import with_condition
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import FOR_TOKENS, draw_ids
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.noise import make_keys, uniform

V, B, L = 19, 3, 9
EOS = 1


def autoregressive(vocab: int = V, **changes: object) -> Autoregressive:
    model = network("autoregressive", vocab, **changes)
    assert isinstance(model, Autoregressive)
    return model


def logits_of(model: Autoregressive, batch: Batch) -> Tensor:
    """At all positions, (B, L, V), without a cache."""
    everywhere = torch.ones_like(batch.length_mask)
    return model.predict(model.before(batch.ids), batch, everywhere).unflatten(0, batch.ids.shape)


def nats(model: Autoregressive, batch: Batch) -> Tensor:
    return model.bound(batch, torch.zeros(len(batch.ids)), batch.number).total


def test_a_token_sees_those_before_it_and_no_other() -> None:
    model = autoregressive()
    ids = random_ids(B, L, V)
    before = logits_of(model, batch_of(ids))
    for i in range(L):
        changed = ids.clone()
        changed[:, i] = (changed[:, i] + 1) % V
        after = logits_of(model, batch_of(changed))
        torch.testing.assert_close(after[:, : i + 1], before[:, : i + 1])
        assert (after[:, i + 1 :] != before[:, i + 1 :]).flatten(1).any(1).all() or i == L - 1


@pytest.mark.parametrize(("width", "cond_length"), [(5, None), (0, None), (12, 1), (3, L)])
def test_the_cache_changes_no_logits(width: int, cond_length: int | None) -> None:
    model = autoregressive(width=width, cond_dim=4 if cond_length else 0)
    batch = batch_of(random_ids(B, L, V))
    if cond_length:
        batch = batch._replace(cond=torch.randn(B, cond_length, 4))
    inputs = with_condition(model.before(batch.ids), batch.cond)
    cache = Cache(model.transformer, L)
    hidden = torch.stack([cache.step(i, inputs[:, i : i + 1]) for i in range(L)], dim=1)
    torch.testing.assert_close(model.head(hidden), logits_of(model, batch))


def test_sampling_with_the_cache_is_sampling_without_it() -> None:
    """Texts of several lengths with prefixes of several lengths."""
    model = autoregressive()
    given = torch.arange(L) < torch.tensor([0, 2, 4])[:, None]
    batch = batch_of(random_ids(B, L, V), [9, 7, 8], given)
    *_, frame = sample(model, group_of(batch), temperature=0.7)
    u = uniform(make_keys(group_of(batch).keys, FOR_TOKENS), L)
    ids = batch.ids.masked_fill(batch.free, 0)
    for i in range(L):
        logits = logits_of(model, batch._replace(ids=ids))[:, i] / 0.7
        ids[:, i] = torch.where(batch.free[:, i], draw_ids(logits, u[:, i]), ids[:, i])
    assert torch.equal(frame.ids[batch.length_mask], ids[batch.length_mask])
    assert not torch.equal(frame.ids[batch.length_mask], batch.ids[batch.length_mask])


def test_padding_costs_nothing_and_changes_nothing() -> None:
    model = autoregressive()
    ids = random_ids(B, L, V)
    padded, cut = batch_of(ids, [6] * B), batch_of(ids[:, :6])
    torch.testing.assert_close(nats(model, padded), nats(model, cut))
    assert (model.bound(padded, torch.zeros(B), padded.number).tokens == 6).all()


def test_what_is_sampled_has_the_probability_that_is_claimed() -> None:
    """All texts of two tokens: their share among samples against exp(-bound)."""
    vocab, count = 4, 4000
    model = autoregressive(vocab, std=0.2)
    every = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
    probability = (-nats(model, batch_of(every))).exp()
    torch.testing.assert_close(probability.sum(), torch.tensor(1.0))
    *_, frame = sample(model, group_of(batch_of(torch.zeros(count, 2, dtype=torch.long))))
    share = torch.bincount(frame.ids[:, 0] * vocab + frame.ids[:, 1], minlength=vocab**2) / count
    torch.testing.assert_close(share, probability, atol=0.03, rtol=0)


def test_a_line_ends_where_the_model_ends_it_and_at_its_full_length_at_last() -> None:
    """Its last token is given: EOS, which may be written before, unlike the other ids below 4."""
    count, lengths = 200, [L, L - 2] * 100
    banned = (torch.arange(V) < 4) & (torch.arange(V) != EOS)
    last = torch.arange(L) == torch.tensor(lengths)[:, None] - 1
    group = group_of(batch_of(torch.full((count, L), EOS), lengths, last))
    group = group._replace(constrain=lambda logits, where: logits.masked_fill(banned, -torch.inf))
    frames = sample(autoregressive(), group)
    ends = []
    for row, length in zip(frames[-1].ids.tolist(), lengths, strict=True):
        end = row.index(EOS)
        assert all(word >= 4 for word in row[:end])
        assert all(word == EOS for word in row[end:length])
        ends.append(end)
    assert max(ends) == L - 1
    assert min(ends) < 3
    written = torch.stack([frame.where for frame in frames]).sum(0)  # how often each was predicted
    expected = torch.arange(L) < torch.minimum(torch.tensor(ends) + 1, torch.tensor(lengths) - 1)[:, None]
    assert torch.equal(written, expected.long())
    assert not frames[-1].free.any()


def test_sampling_stops_when_all_lines_are_over() -> None:
    last = torch.arange(L).expand(B, L) == L - 1
    group = group_of(batch_of(torch.full((B, L), EOS), cond_mask=last))

    def only_eos(logits: Tensor, where: Tensor) -> Tensor:
        return logits.masked_fill(torch.arange(V) != EOS, -torch.inf)

    (frame,) = sample(autoregressive(), group._replace(constrain=only_eos))
    assert (frame.ids == EOS).all()


def test_where_no_end_is_given_eos_is_a_token_like_any_other() -> None:
    frames = sample(autoregressive(), group_of(batch_of(torch.full((200, L), EOS))))
    assert len(frames) == L
    after_eos = frames[-1].ids[:, 1:][frames[-1].ids[:, :-1] == EOS]
    assert (after_eos != EOS).any()


def test_the_loss_is_the_mean_over_real_tokens_that_are_not_given() -> None:
    model = autoregressive()
    batch = batch_of(random_ids(B, L, V), [5, L, L], (torch.arange(L) < 2).expand(B, L))
    losses = model.loss(batch, Draws.of(batch, seed=0, step=0))
    torch.testing.assert_close(losses.total, nats(model, batch).sum() / batch.free.sum())
    torch.testing.assert_close(losses.ce.mean(), losses.total)
    assert int(losses.tokens) == len(losses.ce) == int(batch.free.sum())


def test_a_low_temperature_takes_the_most_probable() -> None:
    model = autoregressive()
    group = group_of(batch_of(torch.zeros(50, L, dtype=torch.long)))

    def written(temperature: float) -> int:
        return len(sample(model, group, temperature=temperature)[-1].ids.unique(dim=0))

    assert written(1e-4) == 1
    assert written(1.0) > 40
