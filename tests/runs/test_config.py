from dataclasses import replace

import pytest

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.generate import Sampling
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.config import (
    RECIPES,
    SIZES,
    check,
    usual_sampling,
    with_objective,
    with_settings,
)

FINE = Config(steps=10)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_is_sound_at_every_size(recipe, size):
    check(replace(RECIPES[recipe], **SIZES[size], steps=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_dim": 130, "heads": 4}, "model_dim must be a multiple of twice the heads"),
        ({"schedule": "cosinus"}, "schedule must be one of cosine, gumbel"),
        ({"normaliser": "l2"}, "normaliser must be one of layer_norm, unit_scale"),
        ({"objective": "flow"}, "objective must be one of autoregressive, continuous, masked"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon"),
        ({"mse_weight": -1.0}, "mse_weight must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1"),
        ({"crop": 1}, "crop must be at least 2"),
        ({"window": 1}, "window must be at least 2"),
        ({"cond_rate": 1.9}, "cond_rate must be between 0 and 1"),
        ({"epochs": 3}, "one budget of steps, epochs and minutes (given: steps and epochs)"),
        ({"steps": None}, "(given: none)"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seed": 2**63}, "seed must be of 64 bits"),
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


def test_settings_replace_fields_and_a_budget_the_budget():
    config = with_settings(FINE, {"layers": 6, "regress": True, "minutes": 2})
    assert (config.layers, config.regress, config.steps, config.minutes) == (6, True, None, 2)
    assert with_settings(FINE, {"layers": 6}).steps == FINE.steps


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": 6}, "no setting 'layer': perhaps you meant layers"),
        ({"flavour": 6}, "no setting 'flavour': the settings are embedding_dim, "),
        ({"layers": "six"}, "layers takes int, not 'six'"),
        ({"layers": 6.5}, "layers takes int, not 6.5"),
        ({"minutes": "2"}, r"minutes takes float \| None, not '2'"),
    ],
)
def test_settings_that_are_none_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        with_settings(FINE, settings)


def test_original_is_the_documents_system():
    config = RECIPES["original"]
    assert (config.regress, config.posterior, config.normaliser) == (True, False, "layer_norm")
    assert (config.schedule, config.mse_weight) == ("cosine", 1.0)
    assert (config.cond_rate, config.span_share) == (0.1, 0.0)


def test_a_baseline_has_no_conditional_masks():
    config = with_objective(FINE, "masked")
    assert config.cond_rate == 0.0
    assert replace(config, objective="continuous", cond_rate=0.5) == FINE
    assert with_objective(FINE, "continuous") == FINE


def test_how_a_model_writes_follows_from_its_configuration():
    assert usual_sampling(Config()) == Sampling()
    assert usual_sampling(Config(), 4) == Sampling(4, temperature=0.7)
    assert usual_sampling(Config(objective="masked"), 16) == Sampling(16, temperature=0.7)
    assert usual_sampling(Config(passes=4)) == Sampling(4, "renoise", 0.7)
    assert usual_sampling(Config(passes=4), 8) == Sampling(8, "renoise", 0.7)
