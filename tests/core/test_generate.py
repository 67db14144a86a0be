from collections import Counter
from itertools import pairwise

import pytest
import torch
from small_models import denoiser

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import FOR_TOKENS, ORDERS, Group, Sampling, draw_ids
from simple_diffusion_lm.core.noise import make_keys, uniform
from simple_diffusion_lm.core.sampler import SAMPLERS

V, D, L = 12, 16, 6


def model(**options):
    torch.manual_seed(0)
    made = denoiser(V, embedding_dim=D, **options)
    made.start_from_counts(torch.arange(1, V + 1))
    torch.nn.init.normal_(made.head.weight, std=0.3)
    return made.eval()


def group(count=4, given=(), **settings):
    number = torch.arange(count)
    length_mask = torch.arange(L) < (L - number % 3)[:, None]
    cond_mask = torch.zeros_like(length_mask)
    cond_mask[:, list(given)] = True
    ids = torch.where(cond_mask, 7, 0)
    batch = Batch(ids, length_mask, cond_mask, number, number / count)
    return Group(batch, make_keys(0, number), **settings)


def sampled(model, group, **sampling):
    *_, last = model.sample(group, Sampling(**sampling))
    return last.ids


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stagger", [0.0, 8.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_position_is_written_once_and_given_ones_stay(sampler, stagger, order):
    asked = group(given=[1])
    before = asked.batch.free
    for frame in model(stagger=stagger).sample(asked, Sampling(5, sampler, order=order)):
        assert (frame.free <= before).all()  # what is written stays written
        assert len(frame.logits) == frame.where.sum()
        assert torch.equal(frame.where, before)
        before = frame.free
    assert not before.any()
    assert (frame.ids[:, 1] == 7).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stagger", [0.0, 8.0])
def test_a_text_does_not_depend_on_the_rest_of_the_batch(stagger, order):
    made, many = model(stagger=stagger), group(5)
    alone = Group(many.batch.each(lambda x: x[2:3, : L - 2] if x.ndim > 1 else x[2:3]), many.keys[2:3])
    both = (sampled(made, each, steps=6, order=order) for each in (many, alone))
    assert torch.equal(*(ids[-1 if len(ids) == 1 else 2, : L - 2] for ids in both))


def test_the_first_or_the_surest_are_written_first():
    """With a stagger of 1,000 no two positions are ever in flight together: each pass writes one."""
    made, asked = model(stagger=1000.0), group(30)
    whole = asked.batch.length_mask[:, -1]  # in a shorter text a position may be in flight between two passes
    for step, frame in enumerate(made.sample(asked, Sampling(L, order="reading")), start=1):
        assert torch.equal(frame.free[whole], (torch.arange(L) >= step).expand(whole.sum(), L))
    before, u = asked.batch.free, uniform(make_keys(asked.keys, FOR_TOKENS), L)
    for frame in made.sample(asked, Sampling(L, order="confidence")):
        drawn = draw_ids(frame.logits, u[before])  # where the drawn token is most probable at temperature 1
        likely = (0.7 * frame.logits).softmax(-1).gather(-1, drawn[:, None])
        sure = torch.zeros(before.shape).masked_scatter(before, likely)
        written = sure.masked_fill(frame.free | ~before, 0.0).amax(1)
        assert torch.equal(written[whole], sure.amax(1)[whole])
        done = (before & ~frame.free & whole[:, None])[before]
        assert torch.equal(drawn[done], frame.ids[before][done])
        before = frame.free


def test_positions_in_flight_stay_ahead_of_those_at_pure_noise():
    """Another order for what is to come does not send anything back up the noise."""
    seen = []
    made, asked = model(stagger=2.0), group(30)
    forward = made.forward
    made.forward = lambda x_t, level, *rest: seen.append(level.log_snr) or forward(x_t, level, *rest)
    sampled(made, asked, steps=8, order="confidence")
    free = asked.batch.free[..., None]
    assert all((after >= before)[free].all() for before, after in pairwise(seen))


@pytest.mark.parametrize("stagger", [0.0, 8.0])
def test_temperature_is_heeded(stagger):
    """Near 0 the most probable token, high above 1 anything."""
    made = model(stagger=stagger)
    asked = group(200)
    free = asked.batch.free
    cold, hot = (sampled(made, asked, steps=8, temperature=t)[free] for t in (0.05, 20.0))
    most = Counter(cold.tolist()).most_common(1)[0][1] / cold.numel()
    assert most > 1.3 * Counter(hot.tolist()).most_common(1)[0][1] / hot.numel()


@pytest.mark.parametrize("stagger", [0.0, 2.0])
def test_a_temperature_writes_the_power_of_the_distribution(stagger):
    """Of a network that knows frequencies alone: p^(1/T), however much noise there is. A temperature
    on the likelihood as well takes noise for knowledge, and comes out flatter."""
    made, temperature = model(stagger=stagger), 0.4
    torch.nn.init.zeros_(made.head.weight)
    asked = group(1500)
    ids = sampled(made, asked, steps=48, temperature=temperature)[asked.batch.free]
    found = torch.bincount(ids, minlength=V) / len(ids)
    wanted = (made.log_unigram / temperature).softmax(-1)
    assert (found - wanted).abs().sum() / 2 < 0.05


def test_what_is_forbidden_is_not_written():
    banned = torch.arange(V) != 3

    def constrain(logits, where):
        return logits.masked_fill(banned, -torch.inf)

    for steps in (1, 4):
        asked = group(constrain=constrain)
        ids = sampled(model(), asked, steps=steps)
        assert (ids[asked.batch.free] == 3).all()


def test_strength_is_how_far_what_stands_there_is_noised():
    made = model(stagger=0.0)
    asked = group(60)
    asked = asked._replace(batch=asked.batch._replace(ids=torch.randint(V, (60, L))))
    kept = [
        (sampled(made, asked._replace(strength=s), steps=16) == asked.batch.ids)[asked.batch.free]
        .float()
        .mean()
        for s in (0.003, 0.6, 1.0)
    ]
    assert kept[0] > 0.9
    assert kept[0] > kept[1] > kept[2]


def test_drawn_ids_have_their_probabilities():
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log()
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    found = Counter(draw_ids(logits.expand(1000, 4), u).tolist())
    assert found == {0: 100, 1: 200, 3: 700}
    assert draw_ids(logits[None], torch.tensor([1 - 1e-16], dtype=torch.float64)).item() == 3
