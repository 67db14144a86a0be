"""Configurations: recipes and sizes by name, changes from the command line, and what is allowed."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from ..baselines import MODELS
from ..core import Config
from ..core.embedding import NORMALISERS
from ..core.generate import Sampling
from ..core.noise import SCHEDULES
from ..errors import UserError

BUDGETS = ("steps", "epochs", "minutes")
# Fields that a run may be resumed with another value of.
MAY_CHANGE = (*BUDGETS, "patience", "samples", "validate_every", "save_every", "compile")

RECIPES = {
    "modern": Config(),  # the default, and the best known with a likelihood
    # The document's system: x0 from a linear head, MSE and cross-entropy, x_t and its level shown. The
    # optimiser's numbers are modern's, so that the two compare as systems.
    "original": Config(
        width=0,
        normaliser="layer_norm",
        cooccurrence=False,
        regress=True,
        posterior=False,
        schedule="cosine",
        bell_times=False,
        late_given=False,
        mse_weight=1.0,
        self_cond_rate=0.5,
        cond_rate=0.1,
        span_share=0.0,
    ),
}

# Width, depth, learning rate and batch go together. Parameters without the two vocabulary tables: about
# 0.8, 3.2, 25 and 85 million. The first two were measured for quality (docs/log.md). The learning rates
# of the others fall with width as is usual; their batches are larger so that Muon, which works once a
# step, stays cheap beside the model (docs/scaling.md).
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"model_dim": 128, "layers": 4, "heads": 4, "learning_rate": 4e-3},
    "small": {"model_dim": 256, "layers": 4, "heads": 4, "learning_rate": 3e-3},
    "base": {"model_dim": 512, "layers": 8, "heads": 8, "learning_rate": 1.5e-3, "batch_tokens": 8192},
    "large": {"model_dim": 768, "layers": 12, "heads": 12, "learning_rate": 1e-3, "batch_tokens": 8192},
}


def with_objective(config: Config, objective: str) -> Config:
    """The same trunk, data and optimiser for another objective.
    Baselines train without conditional masks: given tokens would only take from what they learn."""
    return config if objective == config.objective else replace(config, objective=objective, cond_rate=0.0)


# What fields must be: in words, as a condition, and their names. None is always allowed.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("at least 1", lambda x: x >= 1, "embedding_dim model_dim layers heads batch_tokens batch_size patience"),
    ("at least 1", lambda x: x >= 1, "accumulate decay_steps steps epochs passes validate_every save_every"),
    ("at least 0", lambda x: x >= 0, "dropout_from mse_weight ce_weight samples"),
    ("0: only Python gives conditions (examples/class_labels.py)", lambda x: x == 0, "cond_dim"),
    ("at least 2", lambda x: x >= 2, "crop window"),
    ("above 0", lambda x: x > 0, "minutes learning_rate clip"),
    ("between 0 and 1", lambda x: 0 <= x <= 1, "dropout self_cond_rate cond_rate span_share"),
    ("of 64 bits", lambda x: -(2**63) <= x < 2**63, "seed"),
    ("odd, or 0", lambda x: x == 0 or x % 2 == 1, "width"),
)
CHOICES: dict[str, Iterable[str]] = {
    "schedule": SCHEDULES,
    "objective": MODELS,
    "normaliser": NORMALISERS,
    "optimizer": ("adamw", "muon"),
}


def check(config: Config, *, has_teacher: bool = False) -> None:
    """Raises UserError with every fault there is, each naming the field and what it must be."""
    faults = []

    def need(name: str, fine: bool, wanted: str) -> None:
        if not fine:
            faults.append(f"{name} must be {wanted}, not {getattr(config, name)}")

    for wanted, allows, names in RANGES:
        for name in names.split():
            need(name, (value := getattr(config, name)) is None or allows(value), wanted)
    for name, known in CHOICES.items():
        need(name, getattr(config, name) in known, f"one of {', '.join(sorted(known))}")
    pairs = 2 * max(config.heads, 1)
    need("model_dim", config.model_dim % pairs == 0, f"a multiple of twice the heads ({pairs})")
    if config.passes is not None and not has_teacher:
        faults.append("passes are a student's, which learns from a teacher: sdlm distil")
    budgets = [name for name in BUDGETS if getattr(config, name) is not None]
    if len(budgets) != 1:
        given = " and ".join(budgets) or "none"
        faults.append(f"give one budget of steps, epochs and minutes (given: {given})")
    if faults:
        raise UserError("; ".join(faults))


def usual_sampling(config: Config, steps: int | None = None) -> Sampling:
    """How a model writes, in so many steps, unless it is told otherwise: a student in those that it learned.

    Each pass of `renoise` sharpens what the pass before it said, so more passes want a higher temperature:
    0.7 in 4 and 0.9 in 64 give captions of one entropy (docs/log.md).
    """
    steps = steps or config.passes or Sampling.steps
    temperature = 0.7  # of baselines, which write a token once, and of students
    if config.objective == Config.objective and config.passes is None:
        temperature = round(0.6 + 0.05 * math.log2(max(steps, 1)), 2)
    return Sampling(steps, temperature=temperature)


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with other values in some of its fields. A budget takes the place of the one it has;
    where there is none it is 20 minutes.

    Raises UserError for an unknown field, or a value of another type.
    """
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Config)}
    for name, value in settings.items():
        if name not in kinds:
            near = get_close_matches(name, kinds, 1)
            hint = f"perhaps you meant {near[0]}" if near else f"the settings are {', '.join(kinds)}"
            raise UserError(f"no setting {name!r}: {hint}")
        whole = isinstance(value, int) and isinstance(1.0, kinds[name])  # for a float, a whole number will do
        if not (whole or isinstance(value, kinds[name])):
            raise UserError(f"{name} takes {getattr(kinds[name], '__name__', kinds[name])}, not {value!r}")
    no_budget = dict.fromkeys(BUDGETS) if any(settings.get(name) is not None for name in BUDGETS) else {}
    config = replace(config, **{**no_budget, **settings})
    has_budget = any(getattr(config, name) is not None for name in BUDGETS)
    return config if has_budget else replace(config, minutes=20.0)
