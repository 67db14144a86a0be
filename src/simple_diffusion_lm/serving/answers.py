"""What the server does with each request, in a thread of the request's own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from pydantic import BaseModel

from ..errors import UserError
from ..filling import Wish
from ..generation import DiffusionLM
from ..model.continuous import Continuous
from ..model.guidance import Guidance
from ..model.slots import Frame, Slots, Watch
from ..run_log import read_metrics
from ..text.templates import parse_length
from ..watching import Onlooker
from ..writer import Written
from .requests import (
    MOST_WORK,
    Blend,
    Card,
    Generate,
    Infill,
    Line,
    Lines,
    Sampling,
    Score,
    Scores,
    Vary,
)
from .shared import SharedLoop

Tell = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class Asked:
    """A request under way: the model as it sees it, and whom to tell of each step, if anyone."""

    model: DiffusionLM
    tell: Tell | None

    def sampling(self, request: Sampling, texts: int, never: list[str]) -> dict[str, object]:
        """What the model is to be called with. Raises UserError when it is too much."""
        if texts * request.steps > MOST_WORK:
            raise UserError(
                f"{texts} texts (candidates counted) in {request.steps} steps are too many: "
                f"their product may be {MOST_WORK:,}"
            )
        options = request.model_dump(include={"steps", "sampler", "temperature", "seed"})
        guidance = Guidance(request.guide_given, request.guide_previous)
        return {**options, "guidance": guidance, "watch": self.tell and self.watch(never)}

    def watch(self, never: list[str]) -> Watch:
        """Tells of every step: each text's tokens, and what is probable where."""
        writer, tell = self.model.writer, self.tell
        assert tell is not None
        onlooker = Onlooker(writer, never)

        def look(group: Slots, frame: Frame) -> None:
            lines = {
                number: [
                    {
                        "text": token.text,
                        "state": "given" if token.given else "written" if token.written else "open",
                        "likely": [[text, round(share, 4)] for text, share in token.likely],
                    }
                    for token in line
                ]
                for number, line in onlooker(group, frame).items()
            }
            tell({"lines": lines})

        return look


def generate(asked: Asked, request: Generate) -> Lines:
    model = asked.model
    length = None if request.length is None else parse_length(request.length)
    wish = model.wish(length, request.must)
    options = asked.sampling(request, request.count * request.candidates, request.never)
    return _lines(
        model.write([wish] * request.count, request.candidates, request.never, **options)  # type: ignore[arg-type]
    )


def infill(asked: Asked, request: Infill) -> Lines:
    wishes = [Wish.of(template) for template in request.templates]
    options = asked.sampling(request, len(wishes) * request.candidates, request.never)
    return _lines(asked.model.write(wishes, request.candidates, request.never, **options))  # type: ignore[arg-type]


def vary(asked: Asked, request: Vary) -> Lines:
    options = asked.sampling(request, len(request.texts), [])
    texts = asked.model.vary(request.texts, request.strength, **options)  # type: ignore[arg-type]
    return Lines(lines=[Line(text=text) for text in texts])


def blend(asked: Asked, request: Blend) -> Lines:
    texts = asked.model.blend(request.first, request.second, request.count, request.steps)
    return Lines(lines=[Line(text=text) for text in texts])


def score(asked: Asked, request: Score) -> Scores:
    return Scores(nats=asked.model.score(request.texts))


def _lines(written: Iterable[Written]) -> Lines:
    return Lines(lines=[Line(**line._asdict()) for line in written])


# Name: what it does, and what it is asked with. What it answers is in their annotations.
ANSWERS: Mapping[str, tuple[Callable[..., BaseModel], type[BaseModel]]] = {
    "generate": (generate, Generate),
    "infill": (infill, Infill),
    "vary": (vary, Vary),
    "blend": (blend, Blend),
    "score": (score, Score),
}


class Model:
    """A run that answers any number of requests at once."""

    def __init__(self, run: Path) -> None:
        """Raises UserError as DiffusionLM.from_pretrained does."""
        self.lm = DiffusionLM.from_pretrained(run)
        self.loop = SharedLoop(self.lm.model)
        self.card = self._card(run)

    def answer(self, name: str, request: BaseModel, gone: Event, tell: Tell | None) -> BaseModel:
        """Raises UserError for what cannot be, and Gone once `gone` is set."""
        do, _ = ANSWERS[name]
        lm = self.lm.writing_with(partial(self.loop.generate, gone))
        return do(Asked(lm, tell), request)

    def _card(self, run: Path) -> Card:
        config, progress = self.lm.config, self.lm.progress
        assert config is not None
        assert progress is not None
        continuous = isinstance(self.lm.model, Continuous)
        return Card(
            parameters=sum(p.numel() for p in self.lm.model.parameters()),
            vocabulary=len(self.lm.tokenizer),
            longest=self.lm.writer.longest,
            stream=self.lm.stream,
            objective=config.objective,
            abilities=[name for name in ANSWERS if continuous or name not in ("vary", "blend")],
            steps_trained=progress["step"],
            tokens_trained=progress["tokens"],
            bound=_last_bound(run),
        )


def _last_bound(run: Path) -> float | None:
    """What the last validation found, where metrics.jsonl tells."""
    try:
        bounds = [record["bound"] for record in read_metrics(run, "valid") if "bound" in record]
    except UserError:
        return None
    return bounds[-1] if bounds else None
