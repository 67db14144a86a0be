from dataclasses import replace

import pytest

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.config import (
    RECIPES,
    SIZES,
    check,
    original,
    sized,
    with_objective,
    with_overrides,
)

FINE = Config(steps=10)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_is_sound_at_every_size(recipe, size):
    check(replace(sized(RECIPES[recipe](), size), steps=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_dim": 130, "heads": 4}, "model_dim must be a multiple of twice the heads"),
        ({"schedule": "cosinus"}, "schedule must be one of cosine, gumbel"),
        ({"normaliser": "l2"}, "normaliser must be one of layer_norm, unit_scale"),
        ({"objective": "flow"}, "objective must be one of autoregressive, continuous, masked"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon"),
        ({"stagger": -1.0}, "stagger must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1"),
        ({"crop": 1}, "crop must be at least 2"),
        ({"window": 1}, "window must be at least 2"),
        ({"cond_rate": 1.9}, "cond_rate must be between 0 and 1"),
        ({"epochs": 3}, "one budget of steps, epochs and minutes (given: steps and epochs)"),
        ({"steps": None}, "(given: none)"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_a_fault_is_named_with_its_range(changes, words):
    with pytest.raises(UserError) as raised:
        check(replace(FINE, **changes))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError, match=r"layers.*clip"):
        check(replace(FINE, layers=0, clip=-1.0))


def test_overrides_are_read_by_the_type_of_the_field():
    texts = {"layers": "6", "ema": "0.9", "regress": "true", "schedule": "cosine"}
    config = with_overrides(FINE, {**texts, "steps": "none", "minutes": "2"})
    assert (config.layers, config.ema, config.regress, config.schedule) == (6, 0.9, True, "cosine")
    assert (config.steps, config.minutes) == (None, 2.0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"layer": "6"}, "no setting 'layer'"), ({"layers": "six"}, "layers takes int, not 'six'")],
)
def test_overrides_that_do_not_read_are_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        with_overrides(FINE, overrides)


def test_original_is_the_documents_system():
    config = original()
    assert (config.regress, config.posterior, config.normaliser) == (True, False, "layer_norm")
    assert (config.stagger, config.schedule, config.mse_weight) == (0.0, "cosine", 1.0)
    assert (config.cond_rate, config.span_share) == (0.1, 0.0)


def test_a_baseline_has_no_conditional_masks():
    config = with_objective(FINE, "masked")
    assert config.cond_rate == 0.0
    assert replace(config, objective="continuous", cond_rate=0.3) == FINE
    assert with_objective(FINE, "continuous") == FINE
