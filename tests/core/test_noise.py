import math

import pytest
import torch
from hypothesis import given, strategies as st

from simple_diffusion_lm.core.noise import (
    SCHEDULES,
    gumbel,
    level_at,
    make_keys,
    normal,
    uniform,
    useful_range,
)

ALL = {name: make(64, 2048) for name, make in SCHEDULES.items()}


@pytest.mark.parametrize("name", ALL)
def test_log_snr_is_finite_and_falls_with_time(name):
    log_snr = ALL[name](torch.linspace(0, 1, 101)).log_snr
    assert log_snr.isfinite().all()
    assert (log_snr.diff() < 0).all()


@pytest.mark.parametrize("name", ALL)
def test_variance_is_preserved_in_any_shape(name):
    level = ALL[name](torch.rand(3, 5, 1))
    assert level.alpha.shape == (3, 5, 1)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(3, 5, 1))


def test_cosine_is_analog_bits():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = torch.cos((t + 0.0002) / 1.00025 * math.pi / 2) ** 2
    torch.testing.assert_close(ALL["cosine"](t).alpha ** 2, expected)


def test_level_at_is_the_inverse_of_log_snr_at_both_ends():
    log_snr = torch.linspace(-15, 15, 61)
    torch.testing.assert_close(level_at(log_snr).log_snr, log_snr, atol=1e-4, rtol=1e-4)


def test_gumbel_spends_its_time_where_a_random_code_is_read():
    """Half of it within a factor e of snr = 2 ln V / D, and it ends exactly at the useful range."""
    for dim, vocab_size in ((16, 300), (64, 2048), (128, 8192)):
        schedule, centre = gumbel(dim, vocab_size), math.log(2 * math.log(vocab_size) / dim)
        levels = schedule(torch.linspace(0, 1, 1001)).log_snr
        assert ((levels - centre).abs() < 1).float().mean() > 0.5
        assert levels[[-1, 0]].tolist() == pytest.approx(useful_range(dim), abs=1e-3)
    log_snr = gumbel(64, 2048)(torch.tensor([0.2, 0.7])).log_snr
    expected = torch.tensor([0.2, 0.7]).log().neg().log() * 0.85 - math.log(64 / (2 * math.log(2048)))
    torch.testing.assert_close(log_snr, expected)


@given(st.floats(-5, 8), st.floats(0, 9))
def test_noise_in_two_steps_is_noise_in_one(log_snr, less):
    """The variance of what is added and what is kept of x0, exactly."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    level, further, zero = level_at(log_snr * one), level_at((log_snr - less) * one), 0 * one
    kept = level.add_more(level.add_noise(one, zero), further, zero)
    noise = level.add_more(level.add_noise(zero, one), further, zero)
    fresh = level.add_more(zero, further, one)
    torch.testing.assert_close(kept, further.alpha)
    torch.testing.assert_close(noise**2 + fresh**2, further.sigma**2)


def test_random_numbers_are_uniform_and_normal_and_do_not_repeat():
    u = uniform(make_keys(0, torch.arange(500)), 400)
    assert u.dtype == torch.float64
    assert len(u.unique()) == u.numel()
    ks = (u.flatten().sort().values - torch.linspace(0, 1, u.numel())).abs().max().item()
    assert ks < 1.63 / u.numel() ** 0.5  # Kolmogorov-Smirnov at 1%
    z = normal(make_keys(0, torch.arange(500)), 20, 33)
    assert z.shape == (500, 20, 33)
    assert z.isfinite().all()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert (z**power).mean().item() == pytest.approx(moment, abs=0.05)
    flat = z.flatten(1)
    assert torch.corrcoef(flat).triu(1).abs().max() < 0.25  # of texts, 660 numbers each
    assert torch.corrcoef(flat.T).triu(1).abs().max() < 0.30  # of positions, 500 texts each


def test_a_texts_noise_depends_on_neither_its_batch_nor_its_padding():
    whole = normal(make_keys(7, 2, torch.tensor([3, 14, 15])), 9, 16)
    alone = normal(make_keys(7, 2, torch.tensor([14])), 5, 16)
    assert torch.equal(whole[1, :5], alone[0])
    for other in ((8, 2), (7, 3), (2, 7)):
        assert not torch.equal(alone, normal(make_keys(*other, torch.tensor([14])), 5, 16))


def test_keys_do_not_collide():
    numbers = torch.arange(300)
    keys = make_keys(numbers[:, None].expand(-1, 300), numbers.expand(300, -1))
    assert len(keys.unique()) == 90_000
