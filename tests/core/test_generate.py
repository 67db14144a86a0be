from collections import Counter

import pytest
import torch
from small_models import denoiser

from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Group, Sampling, draw_ids
from simple_diffusion_lm.core.noise import make_keys
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


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_is_written_in_the_last_step_and_given_ones_stay(sampler, steps):
    asked = group(given=[1])
    free = asked.batch.free
    frames = list(model().sample(asked, Sampling(steps, sampler)))
    assert len(frames) == steps
    for frame in frames:
        assert len(frame.logits) == free.sum()
        assert torch.equal(frame.where, free)
        assert torch.equal(frame.free, free & (frame is not frames[-1]))
    assert (frame.ids[:, 1] == 7).all()
    settled = frame.logits.argmax(-1)
    assert torch.equal(frame.ids[free], settled) == (steps > 1)  # drawn where no pass came before


def test_a_text_does_not_depend_on_the_rest_of_the_batch():
    made, many = model(), group(5)
    alone = Group(many.batch.each(lambda x: x[2:3, : L - 2] if x.ndim > 1 else x[2:3]), many.keys[2:3])
    both = (sampled(made, each, steps=6) for each in (many, alone))
    assert torch.equal(*(ids[-1 if len(ids) == 1 else 2, : L - 2] for ids in both))


def test_temperature_is_heeded():
    """Near 0 the most probable token, high above 1 anything."""
    made = model()
    asked = group(200)
    free = asked.batch.free
    cold, hot = (sampled(made, asked, steps=8, temperature=t)[free] for t in (0.05, 20.0))
    most = Counter(cold.tolist()).most_common(1)[0][1] / cold.numel()
    assert most > 1.3 * Counter(hot.tolist()).most_common(1)[0][1] / hot.numel()


def test_a_temperature_writes_the_power_of_the_distribution():
    """Of a network that knows frequencies alone: p^(1/T), however much noise there is. A temperature
    on the likelihood as well takes noise for knowledge, and comes out flatter. By DDPM, whose samples have
    the model's distribution; noise drawn anew makes them less varied (docs/theory.md)."""
    made, temperature = model(), 0.4
    torch.nn.init.zeros_(made.head.weight)
    asked = group(1500)
    ids = sampled(made, asked, steps=48, temperature=temperature, sampler="ddpm")[asked.batch.free]
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


@pytest.mark.parametrize(("steps", "strength", "taken"), [(100, 0.07, 7), (16, 0.26, 5), (16, 0.0, 1)])
def test_a_share_of_the_noise_takes_that_share_of_the_steps(steps, strength, taken):
    asked = group()
    asked = asked._replace(
        batch=asked.batch._replace(ids=torch.zeros_like(asked.batch.ids)), strength=strength
    )
    assert len(list(model().sample(asked, Sampling(steps)))) == taken


def test_strength_is_how_far_what_stands_there_is_noised():
    made = model()
    asked = group(60)
    asked = asked._replace(batch=asked.batch._replace(ids=torch.randint(V, (60, L))))
    kept = [
        (sampled(made, asked._replace(strength=s), steps=16, sampler="ddpm") == asked.batch.ids)[
            asked.batch.free
        ]
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
