from dataclasses import replace

import pytest

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.training.config import Config, with_overrides
from simple_diffusion_lm.training.loop import fraction_done, learning_rate
from simple_diffusion_lm.training.recipes import RECIPES, SIZES, sized
from simple_diffusion_lm.training.state import Progress

FINE = Config(steps=10)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_is_sound_at_every_size(recipe, size):
    replace(sized(RECIPES[recipe](), size), steps=1).check()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_dim": 130, "heads": 4}, "model_dim must be a multiple of twice the heads"),
        ({"schedule": "cosinus"}, "schedule must be one of cosine, fitted, linear, sqrt"),
        ({"normaliser": "l2"}, "normaliser must be one of"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1"),
        ({"crop": 1}, "crop must be at least 2"),
        ({"prefix_rate": 0.9, "span_rate": 0.9}, "<= 1"),
        ({"epochs": 3}, "one budget of steps, epochs and minutes (given: steps and epochs)"),
        ({"steps": None}, "(given: none)"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_a_fault_is_named_with_its_range(changes, words):
    with pytest.raises(UserError) as raised:
        replace(FINE, **changes).check()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError, match=r"layers.*clip"):
        replace(FINE, layers=0, clip=-1.0).check()


def test_overrides_are_read_by_the_type_of_the_field():
    config = with_overrides(
        FINE,
        {
            "layers": "6",
            "ema": "0.9",
            "regress": "true",
            "schedule": "linear",
            "steps": "none",
            "minutes": "2",
        },
    )
    assert (config.layers, config.ema, config.regress, config.schedule) == (6, 0.9, True, "linear")
    assert (config.steps, config.minutes) == (None, 2.0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"layer": "6"}, "no setting 'layer'"), ({"layers": "six"}, "layers takes int, not 'six'")],
)
def test_overrides_that_do_not_read_are_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        with_overrides(FINE, overrides)


def test_learning_rate_warms_up_and_decays_with_the_budget():
    config = replace(FINE, learning_rate=1.0, warmup_steps=10)
    assert [learning_rate(config, s, 0.0) for s in (0, 4, 9, 50)] == [0.1, 0.5, 1.0, 1.0]
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.5)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.0)


def test_learning_rate_of_the_document_is_linear_to_a_tenth():
    config = replace(FINE, learning_rate=1.0, warmup_steps=10, decay_steps=100)
    assert learning_rate(config, 60, 0.9) == pytest.approx(0.5)
    assert learning_rate(config, 500, 0.9) == pytest.approx(0.1)


def test_budgets():
    progress = Progress(step=5, epoch=1, position=3, seconds=90.0)
    assert fraction_done(replace(FINE, steps=20), progress, 6) == 0.25
    assert fraction_done(replace(FINE, steps=None, minutes=3.0), progress, 6) == 0.5
    assert fraction_done(replace(FINE, steps=None, epochs=3), progress, 6) == 0.5
