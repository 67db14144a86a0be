"""Each ablation is a configuration, and another one than the recipe's."""

import pytest
from ablations import INGREDIENTS
from measure import settings_of

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.train import MODELS
from simple_diffusion_lm.runs.config import check, with_settings

V = 30


@pytest.mark.parametrize("name", INGREDIENTS)
def test_an_ablation_is_a_setting_that_can_be_trained(name: str) -> None:
    changed = with_settings(Config(steps=1), settings_of(name))
    check(changed)
    assert changed != Config(steps=1)
    MODELS[changed.objective](changed, V)
