"""What can be asked of the server, within which limits, and what it answers."""

import re
from dataclasses import fields
from inspect import getdoc
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from ..core.generate import ORDERS, Sampling
from ..core.sampler import SAMPLERS

MOST_TEXTS = 32
MOST_WORK = 32_768  # texts times steps of one request
Text = Annotated[str, Field(max_length=2000)]
Word = Annotated[str, Field(min_length=1, max_length=50, pattern=r"^\S+$")]
Words = Annotated[list[Word], Field(max_length=16)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


def whole(value: object) -> object:
    """2.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]
Candidates = Annotated[int, Field(ge=1, le=32), BeforeValidator(whole)]
# What each field of Sampling may be. Everything else about them is read from that class.
RANGES = {
    "steps": Annotated[int, Field(ge=1, le=512), BeforeValidator(whole)],
    "sampler": Literal[tuple(SAMPLERS)],
    "temperature": Annotated[float, Field(ge=0.05, le=5)],
    "order": Literal[ORDERS],
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def sampling_fields() -> dict[str, Any]:
    """The fields of core.generate.Sampling, with its defaults and its help, for pydantic."""
    _, *parts = re.split(r"\n +(\w+): ", getdoc(Sampling) or "")  # of its docstring: name, help, name, ...
    described = {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}
    return {
        field.name: (RANGES[field.name], Field(field.default, description=described.get(field.name)))
        for field in fields(Sampling)
    }


class Sampled(create_model("SamplingFields", __base__=Strict, **sampling_fields())):  # type: ignore[misc]
    """How noise becomes text, and whether to send every step as it is taken."""

    seed: Whole = Field(0, ge=0, le=2**31 - 1, description="the same seed gives the same texts")
    stream: bool = Field(
        False,
        description="answer with server-sent events: `frame` after every step, and `done` (the "
        "answer that there would have been) or `error` at the end",
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(**{field.name: getattr(self, field.name) for field in fields(Sampling)})


class Generate(Sampled):
    """Texts out of noise alone."""

    count: Whole = Field(1, ge=1, le=MOST_TEXTS)
    length: str | None = Field(
        None, max_length=9, pattern=r"^[0-9]+(-[0-9]+)?$", description="tokens, as 12 or 8-16"
    )
    must: Words = Field([], description="words that every text has, in any order")
    never: Words = Field([], description="words that no text has")
    candidates: Candidates = Field(1, description="written for each; the most probable is kept")


class Infill(Sampled):
    """Texts with gaps: `___` of any length, `[[5]]` of five tokens, `[[2-6]]` of two to six."""

    templates: Texts
    never: Words = Field([], description="words that no gap is filled with")
    candidates: Candidates = Field(8, description="written for each; the most probable is kept")


class Vary(Sampled):
    """Texts that are noised part of the way and written anew."""

    texts: Texts
    strength: float = Field(0.4, gt=0, le=1, description="near 0 a copy, 1 a new text")


class Blend(Strict):
    """Texts from the first to the second, evenly apart in the noise they come from."""

    first: Text
    second: Text
    count: Whole = Field(5, ge=2, le=12, description="with both ends")
    steps: Whole = Field(64, ge=1, le=128, description="there, and back")


class Score(Strict):
    """How improbable texts are."""

    texts: Texts


class Line(BaseModel):
    """A text that was written."""

    text: str
    fills: list[str] | None = Field(default=None, description="what stands in each gap")
    widths: list[int] | None = Field(default=None, description="the tokens of each gap")
    nats: float | None = Field(
        default=None,
        description="of the whole text, as /v1/score has it; null where there was nothing to choose from",
    )
    fits: bool = Field(default=True, description="it has none of the words it was not to have")


class Lines(BaseModel):
    lines: list[Line]


class Scores(BaseModel):
    nats: list[float] = Field(
        description="an upper bound of -log p of each text with its end, in nats: the variational bound, "
        "estimated on noise draws that all texts have in common (exact for an autoregressive model)"
    )


class Problem(BaseModel):
    error: str


class Card(BaseModel):
    """The model, and what can be asked of it."""

    parameters: int
    vocabulary: int
    longest: int = Field(description="tokens of a text, at most")
    stream: bool = Field(description="trained on running text rather than lines")
    objective: str
    abilities: list[str] = Field(description="of generate, infill, vary, blend and score")
    steps_trained: int
    tokens_trained: int
    bound: float | None = Field(description="nats a token of held-out text, at most, when training ended")


class Health(BaseModel):
    status: Literal["ok"]
