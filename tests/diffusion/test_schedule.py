import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simple_diffusion_lm.diffusion.schedule import (
    SCHEDULES,
    FittedSchedule,
    Path,
    level_at,
    reading_order,
)

ALL = {**SCHEDULES, "fitted": FittedSchedule(64, 2048)}


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
    torch.testing.assert_close(SCHEDULES["cosine"](t).alpha ** 2, expected)


def test_level_at_is_the_inverse_of_log_snr_at_both_ends():
    log_snr = torch.linspace(-15, 15, 61)
    torch.testing.assert_close(level_at(log_snr).log_snr, log_snr, atol=1e-4, rtol=1e-4)


def test_fitted_schedule_spends_equal_time_on_equal_information():
    """Fed a known rate, the time between two levels is the rate's integral between them."""
    schedule = FittedSchedule(64, 2048)
    schedule.FLOOR = 0.0
    generator = torch.Generator().manual_seed(0)
    low, high = schedule.edges[-1].item(), schedule.edges[0].item()
    for _ in range(300):
        log_snr = low + (high - low) * torch.rand(512, generator=generator)
        schedule.update(log_snr, torch.exp(-0.5 * (log_snr + 2) ** 2))  # a bell around -2
    quantiles = torch.tensor([0.1586553, 0.5, 0.8413447])  # of a standard normal: -1, 0, 1
    levels = schedule(1 - quantiles).log_snr  # time runs against log-SNR
    torch.testing.assert_close(levels, torch.tensor([-3.0, -2.0, -1.0]), atol=0.05, rtol=0)
    assert schedule.information.item() == pytest.approx((2 * math.pi) ** 0.5, rel=0.02)


def test_fitted_schedule_never_forgets_a_level():
    schedule = FittedSchedule(64, 2048)
    schedule.rate.zero_()
    schedule.rate[10] = 5.0
    gaps = schedule.cumulative.diff()
    assert gaps.min() >= 0.9 * schedule.FLOOR / len(gaps)


def test_fitted_schedule_starts_where_a_random_code_is_read():
    """Half of the information falls within a factor e of snr = 2 ln V / D."""
    for dim, vocab_size in ((16, 300), (64, 2048), (128, 8192)):
        middle = FittedSchedule(dim, vocab_size)(torch.tensor(0.5)).log_snr.item()
        assert middle == pytest.approx(math.log(2 * math.log(vocab_size) / dim), abs=1.0)


def test_one_position_moves_its_own_bin_by_two_thousandths():
    schedule = FittedSchedule(64, 2048)
    before = schedule.rate.clone()
    middle = (schedule.edges[20] + schedule.edges[21]) / 2
    schedule.update(middle[None], before[20:21] + 100.0)
    expected = before.clone()
    expected[20] += 0.2
    torch.testing.assert_close(schedule.rate, expected, atol=1e-3, rtol=1e-4)


free_masks = st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4)


@given(free_masks, st.integers(0, 100))
def test_places_are_ranks_of_the_free_positions(rows, seed):
    free = torch.tensor(rows)
    order = torch.rand(free.shape, generator=torch.Generator().manual_seed(seed))
    place = Path.of(order, free, 1.0).place
    for row, mask, numbers in zip(place, free, order, strict=True):
        count = int(mask.sum())
        if count:
            expected = torch.linspace(0, 1, count) if count > 1 else torch.zeros(1)
            torch.testing.assert_close(row[mask][numbers[mask].argsort()], expected)
        assert (row[~mask] == torch.inf).all()


@pytest.mark.parametrize("stagger", [0.0, 0.5, 8.0, 1000.0])
def test_every_position_goes_from_clean_to_noise(stagger):
    path = Path(torch.tensor([[0.0, 0.25, 1.0, torch.inf]]), stagger)
    times = torch.cat([path(t) for t in torch.linspace(0, 1, 101)])
    if stagger == 0:
        assert times.shape == (101, 1)  # one for all
        return
    assert (times[0] == 0).all()
    assert (times[-1, :3] == 1).all()
    assert (times[:, 3] == 0).all()  # not free: clean throughout
    assert (times.diff(dim=0) >= 0).all()
    assert (times[:, 0] >= times[:, 2]).all()  # the last in place is written first
    between = ((times > 0) & (times < 1))[:, :3].float().mean().item()
    assert between == pytest.approx(1 / (1 + stagger), abs=0.02)


@given(
    rows=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4),
    steps=st.integers(1, 12),
)
def test_what_one_step_writes_are_no_neighbours_and_each_place_goes_left_to_right(rows, steps):
    free = torch.tensor(rows)
    order = reading_order(free, steps)
    for row, numbers in zip(free, order, strict=True):
        count = int(row.sum())
        written = numbers[row].argsort(descending=True).tolist()  # the last in place comes first
        places = max(math.ceil(count / steps), 1)
        if places == 1:
            assert written == list(range(count))
        stride = math.ceil(count / places)
        assert stride <= steps
        turn = {i: turn for turn, i in enumerate(written)}
        for i in range(1, count):
            if i % stride:
                assert turn[i - 1] < turn[i]  # after its left neighbour,
                if stride > 1:
                    assert turn[i] - turn[i - 1] >= count // stride  # and not at once with it
            else:
                assert turn[i] < places  # where a place begins
