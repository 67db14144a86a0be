"""What can be asked of the server, within which limits, and what it answers."""

import re
from dataclasses import fields
from functools import partial
from secrets import randbelow
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..core.generate import ORDERS, Sampling
from ..core.sampler import SAMPLERS

MOST_TEXTS = 32
USUAL = Sampling()
HELP = dict(re.findall(r"^ +(\w+): (.+?)(?=\n +\w+: |\s*\Z)", Sampling.__doc__ or "", re.M | re.S))
Text = Annotated[str, Field(max_length=2000)]
Word = Annotated[str, Field(min_length=1, max_length=50, pattern=r"^\S+$")]
Words = Annotated[list[Word], Field(max_length=16)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


def whole(value: object) -> object:
    """2.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]
MostProbable = Field(ge=1, le=32, description="written for each; the most probable is kept")
Candidates = Annotated[int, MostProbable, BeforeValidator(whole)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Sampled(_Strict):
    """How noise becomes text: what is left out the model decides (`usual` in its card, of a student too)."""

    steps: Whole = Field(USUAL.steps, ge=1, le=512, description=HELP["steps"])
    sampler: Literal[tuple(SAMPLERS)] = Field(USUAL.sampler, description=HELP["sampler"])  # type: ignore[valid-type]
    temperature: float = Field(USUAL.temperature, ge=0.05, le=5, description=HELP["temperature"])
    order: Literal[ORDERS] = Field(USUAL.order, description=HELP["order"])  # type: ignore[valid-type]
    top_p: float = Field(1.0, gt=0, le=1, description="only the most probable tokens, with this probability")
    seed: Whole = Field(0, ge=0, le=2**31 - 1, description="the same seed gives the same texts")
    stream: bool = Field(False, description="answer with events: `frame` each step, then `done` or `error`")

    @property
    def given(self) -> dict[str, Any]:
        """What was said of how noise becomes text; the model decides the rest."""
        return self.model_dump(include={field.name for field in fields(Sampling)}, exclude_unset=True)


class Chosen(Sampled):
    """Texts of which the most probable is kept."""

    never: Words = Field([], description="words that are not written")
    candidates: Candidates = 8


class Generate(Chosen):
    """Texts out of noise alone. Lengths are in tokens."""

    count: Whole = Field(1, ge=1, le=MOST_TEXTS)
    length: str | None = Field(None, max_length=9, pattern=r"^[0-9]+(-[0-9]+)?$", description="12, or 8-16")
    must: Words = Field([], description="words that every text has, in any order")
    candidates: Candidates = 1


class Infill(Chosen):
    """Texts with gaps: `___` of 1 to 8 tokens (more at an end), `[[5]]` of five, `[[2-6]]` of two to six."""

    templates: Texts


class Vary(Sampled):
    """Texts that are noised part of the way and written anew."""

    texts: Texts
    strength: float = Field(0.4, gt=0, le=1, description="near 0 a copy, 1 a new text")


class Blend(_Strict):
    """Texts from the first to the second, evenly apart in the noise they come from."""

    first: Text
    second: Text
    count: Whole = Field(5, ge=2, le=12, description="with both ends")
    steps: Whole = Field(64, ge=1, le=128, description="there, and back")


class Score(_Strict):
    """How improbable texts are."""

    texts: Texts


Prompts = BeforeValidator(lambda asked: [asked] if isinstance(asked, str) else asked, Text | Texts)


class Completion(Chosen):
    """The text between a prompt and a suffix, asked for and answered as OpenAI's completions are."""

    model: str = ""
    prompt: Annotated[Texts, Prompts] = Field([""], description="where it ends with a space, a word begins")
    suffix: Text = ""
    n: Whole = Field(1, ge=1, le=MOST_TEXTS)
    max_tokens: Annotated[int, Field(ge=1), BeforeValidator(whole)] | None = None
    seed: Whole = Field(default_factory=partial(randbelow, 2**31), ge=0, le=2**31 - 1)
    user: str = ""
    # These cannot be done: they may have the values that change nothing.
    best_of: float | None = Field(None, ge=1, le=1)
    echo: Literal[None, False] = None
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: None = None
    logprobs: None = None
    presence_penalty: float | None = Field(None, ge=0, le=0)
    stop: None = None
    stream: Literal[None, False] = None  # type: ignore[assignment]


class Line(BaseModel):
    """A text that was written."""

    text: str
    fills: list[str] | None = Field(default=None, description="what stands in each gap")
    widths: list[int] | None = Field(default=None, description="the tokens of each gap")
    nats: float | None = Field(default=None, description="of the text, as score has it; null: no candidates")
    fits: bool = Field(default=True, description="it has none of the words it was not to have")


class Lines(BaseModel):
    """The texts that were written, in the order in which they were asked for."""

    lines: list[Line]


class Scores(BaseModel):
    """Variational bounds of -log p, in nats, on noise that all texts share; exact if autoregressive."""

    nats: list[float]


class Problem(BaseModel):
    """What is wrong, in one line; in completions an object with it."""

    error: str | dict[str, str | None]


class Card(BaseModel):
    """The model, and what can be asked of it."""

    parameters: int
    vocabulary: int
    longest: int = Field(description="tokens of a text, at most")
    stream: bool = Field(description="trained on running text rather than lines")
    objective: str
    usual: dict[str, Any] = Field(description="how it writes where a request does not say")
    abilities: list[str] = Field(description="the routes it answers; `order`, where that matters")
    steps_trained: int
    tokens_trained: int
    bound: float | None = Field(description="nats a token of held-out text, at most")
    examples: list[str] = Field(description="texts that it wrote while it was trained, the newest")
