"""One flat, frozen configuration: numbers, and names of formulas. Saved as JSON with every run."""

import dataclasses
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

from ..diffusion.schedule import SCHEDULES
from ..errors import UserError
from ..model.embedding import NORMALISERS
from .optimizers import OPTIMIZERS

FITTED = "fitted"  # the schedule that is a module rather than a formula
# Fields that a run may be resumed with another value of.
MAY_CHANGE = ("steps", "epochs", "minutes", "samples", "validate_every", "save_every", "compile")
OBJECTIVE_NAMES = ("continuous", "masked", "autoregressive")  # training/objectives.py builds them


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, except its corpus. Defaults are the `modern` recipe's."""

    # The network.
    embedding_dim: int = 64
    model_dim: int = 128
    layers: int = 4
    heads: int = 4
    width: int = 5  # of the short convolution before each layer, odd; 0: none
    dropout: float = 0.1
    dropout_from: int = 4  # passes over the corpus, before which there is none
    layer_drop: float = 0.0
    normaliser: str = "unit_scale"  # one of model.embedding.NORMALISERS
    cooccurrence: bool = True  # start the table from co-occurrence statistics, or at random
    regress: bool = False  # x0 from a linear head, or the mean under softmax(logits)
    posterior: bool = True  # show the network the single-token posterior, and add it to the logits

    # The objective.
    objective: str = "continuous"  # one of OBJECTIVE_NAMES
    schedule: str = FITTED  # or one of diffusion.schedule.SCHEDULES
    causal: float = 0.7  # share of batches from which the trunk learns to go on from a text
    stagger: float = 32.0  # 0: all positions take on noise together; else at least this far apart
    left_to_right: float = 0.7  # share of examples in that order; if any are, text is written so
    mse_weight: float = 0.0
    ce_weight: float = 1.0
    self_cond_rate: float = 0.9  # share of examples shown their own first prediction,
    self_cond_from: float = 0.7  # from this share of the budget on

    # The text.
    crop: int = 64  # longest example, in tokens; in stream mode the window
    batch_tokens: int = 2048  # a batch holds at most this many, padding included
    batch_size: int | None = None  # and at most this many examples
    prefix_rate: float = 0.1  # share of examples whose beginning is given,
    span_rate: float = 0.1  # all but a span or two,
    random_rate: float = 0.1  # or tokens here and there
    subword_alpha: float = 0.0  # chance of skipping a merge, drawn anew each epoch (BPE-dropout)

    # The optimiser.
    optimizer: str = "muon"  # one of training.optimizers.OPTIMIZERS
    learning_rate: float = 4e-3
    warmup_steps: int = 100
    decay_steps: int | None = None  # linear to a tenth; None: cosine to zero over the budget
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = 1  # batches per step
    compile: bool | None = None  # torch.compile; None: where it pays (training/compiling.py)

    # The budget: exactly one of the three.
    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None

    seed: int = 0
    samples: int = 4  # lines generated at each validation
    validate_every: int = 500  # steps
    save_every: int = 500  # steps

    def check(self) -> None:
        """Raises UserError with every fault there is, each naming the field and its range."""
        faults = [f"{name} must be {wanted}, not {value}" for name, wanted, value in self._faults()]
        budgets = [b for b in ("steps", "epochs", "minutes") if getattr(self, b) is not None]
        if len(budgets) != 1:
            given = " and ".join(budgets) or "none"
            faults.append(f"give one budget of steps, epochs and minutes (given: {given})")
        if faults:
            raise UserError("; ".join(faults))

    def _faults(self) -> list[tuple[str, str, Any]]:
        """(name, what it must be, what it is) for each field out of range."""
        faults: list[tuple[str, str, Any]] = []

        def need(name: str, fine: bool, wanted: str) -> None:
            if not fine:
                faults.append((name, wanted, getattr(self, name)))

        for name in ("embedding_dim", "model_dim", "layers", "heads", "batch_tokens", "accumulate"):
            need(name, getattr(self, name) >= 1, "at least 1")
        for name in ("batch_size", "steps", "epochs", "decay_steps"):
            need(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        need("dropout_from", self.dropout_from >= 0, "at least 0")
        for name in ("validate_every", "save_every"):
            need(name, getattr(self, name) >= 1, "at least 1")
        need("minutes", self.minutes is None or self.minutes > 0, "above 0")
        need("width", self.width == 0 or self.width % 2 == 1, "odd, or 0")
        need("crop", self.crop >= 2, "at least 2")
        for name in (
            *("dropout", "layer_drop", "subword_alpha", "ema", "self_cond_rate"),
            *("self_cond_from", "left_to_right", "causal"),
        ):
            need(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        need("stagger", self.stagger >= 0, "at least 0")
        for name in ("learning_rate", "clip"):
            need(name, getattr(self, name) > 0, "above 0")
        if self.heads >= 1:
            need("model_dim", self.model_dim % (2 * self.heads) == 0,
                 f"a multiple of twice the heads (2 x {self.heads}, for rotary pairs)")  # fmt: skip
        rates = self.prefix_rate + self.span_rate + self.random_rate
        need("random_rate", rates <= 1, "such that prefix_rate + span_rate + random_rate <= 1")
        names = sorted([FITTED, *SCHEDULES])
        need("schedule", self.schedule in names, f"one of {', '.join(names)}")
        need("objective", self.objective in OBJECTIVE_NAMES, f"one of {', '.join(OBJECTIVE_NAMES)}")
        need("normaliser", self.normaliser in NORMALISERS, f"one of {', '.join(NORMALISERS)}")
        need("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        return faults


def with_overrides(config: Config, overrides: dict[str, str]) -> Config:
    """The configuration with fields replaced from text, as in `--set layers=6 learning_rate=1e-3`.

    Raises UserError for an unknown field or a value that does not parse.
    """
    fields = {field.name: field for field in dataclasses.fields(Config)}
    values: dict[str, Any] = {}
    for name, text in overrides.items():
        if name not in fields:
            raise UserError(f"no setting {name!r}: the settings are {', '.join(fields)}")
        values[name] = _parse(name, text, fields[name].type)
    return dataclasses.replace(config, **values)


def _parse(name: str, text: str, kind: Any) -> Any:
    optional = isinstance(kind, UnionType)
    if optional and text.lower() == "none":
        return None
    base = get_args(kind)[0] if optional else kind
    read = _read_bool if base is bool else base
    try:
        return read(text)
    except ValueError:
        raise UserError(f"{name} takes {base.__name__}, not {text!r}") from None


def _read_bool(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise ValueError(text)
