"""What the server does with each request, in a thread of the request's own."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

from ..core.denoiser import Batch
from ..core.generate import Frame
from ..errors import UserError
from ..runs.checkpoint import run_of
from ..writing.model import DiffusionLM
from ..writing.requests import Watch
from ..writing.templates import Gap, Template, parse_length
from ..writing.watching import Onlooker, Shown
from ..writing.writer import Options, Request
from .requests import Blend, Card, Chosen, Completion, Generate, Infill, Lines, Sampled, Score, Scores, Vary
from .shared import SharedLoop

MOST_WORK = 32_768  # texts times steps of one request
Send = Callable[[dict[str, object]], None]


def generate(model: DiffusionLM, asked: Generate, send: Send | None) -> Lines:
    """Texts out of noise."""
    length = None if asked.length is None else parse_length(asked.length)
    return _write(model, [model.request(length, asked.must)] * asked.count, asked, send)


def infill(model: DiffusionLM, asked: Infill, send: Send | None) -> Lines:
    """Templates with their gaps filled."""
    return _write(model, [Request.of(template) for template in asked.templates], asked, send)


def vary(model: DiffusionLM, asked: Vary, send: Send | None) -> Lines:
    """Texts noised part of the way and written anew."""
    options = _options(model, asked, len(asked.texts), send)
    texts = model.vary(asked.texts, asked.strength, asked.seed, **asked.given, **options)
    return Lines.model_validate({"lines": [{"text": text} for text in texts]})


def blend(model: DiffusionLM, asked: Blend, send: Send | None) -> Lines:
    """Texts from the first to the second."""
    texts = model.blend(asked.first, asked.second, asked.count, asked.steps)
    return Lines.model_validate({"lines": [{"text": text} for text in texts]})


def score(model: DiffusionLM, asked: Score, send: Send | None) -> Scores:
    """What each text costs, in nats."""
    return Scores(nats=model.score(asked.texts))


def completions(model: DiffusionLM, asked: Completion, send: Send | None) -> dict[str, Any]:
    """What stands between a prompt and a suffix, in the form of OpenAI's completions."""
    gap, given = Gap(1, asked.max_tokens), [(prompt, asked.suffix) for prompt in asked.prompt]
    requests = [Request(Template(texts, (gap,))) for texts in given for _ in range(asked.n)]
    lines = _write(model, requests, asked, send).lines
    fills = ["".join(line.fills or ()) for line in lines]
    ends = ["length" if line.widths == [asked.max_tokens] else "stop" for line in lines]
    choices = [
        {"text": text, "index": index, "logprobs": None, "finish_reason": end}
        for index, (text, end) in enumerate(zip(fills, ends, strict=True))
    ]
    read, written = (sum(map(len, map(model.tokenizer.encode, some))) for some in (sum(given, ()), fills))
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    about = {"id": f"cmpl-{uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    return {**about, "model": asked.model, "choices": choices, "usage": usage}


# Each is a route of its name; what it is asked with and what it answers is in its annotations.
ANSWERS: tuple[Callable[..., Any], ...] = (generate, infill, vary, blend, score, completions)


def _write(model: DiffusionLM, requests: list[Request], asked: Chosen, send: Send | None) -> Lines:
    def tokens(request: Request) -> int:
        given = model.tokenizer.encode("".join((*request.template.texts, *request.must)), model.stream)
        return max(request.length.most or 0, len(given) + sum(gap.fewest for gap in request.template.gaps))

    # Running text may be longer than the window: each half of one more is as much work as a text.
    half, beyond = model.longest // 2, max(map(tokens, requests)) - model.longest
    windows = 1 + max(0, beyond + half - 1) // half
    options = _options(model, asked, len(requests) * asked.candidates * windows, send)
    sampling = model.sampling(asked.given)
    written = model.write(requests, asked.candidates, asked.never, asked.seed, sampling, **options)
    return Lines.model_validate({"lines": [line._asdict() for line in written]})


def _options(model: DiffusionLM, asked: Sampled, texts: int, send: Send | None) -> Options:
    """Raises UserError when it is too much at once."""
    steps = model.sampling(asked.given).steps
    if texts * steps > MOST_WORK:
        many = f"{texts} texts, candidates and windows counted, in {steps} steps"
        raise UserError(f"{many} are too many: their product may be {MOST_WORK:,}")
    return Options(top_p=asked.top_p, watch=None if send is None else _frames_to(send, model))


def _frames_to(send: Send, model: DiffusionLM) -> Watch:
    """Sends every step: the tokens of each text, and what is probable where."""
    onlooker = Onlooker(model)

    def shown(token: Shown) -> dict[str, object]:
        state = "given" if token.given else "written" if token.written else "open"
        likely = [[text, round(share, 4)] for text, share in token.likely]
        return {"text": token.text, "state": state, "likely": likely}

    def watch(batch: Batch, frame: Frame) -> None:
        seen = onlooker(batch, frame).items()
        send({"lines": {number: [shown(token) for token in line] for number, line in seen}})

    return watch


class Model:
    """A run that answers any number of requests at once."""

    def __init__(self, run: Path) -> None:
        """Raises UserError as DiffusionLM.from_pretrained does."""
        self.lm, self.began = DiffusionLM.from_pretrained(run), int(time.time())
        self.name = run_of(run).resolve().name
        self.loop = SharedLoop(self.lm.model)
        samples = run_of(run) / "samples.txt"
        lines = samples.read_text("utf-8", "replace").splitlines() if samples.exists() else []
        self.examples = [line.partition("\t")[2] for line in lines[-4:]]

    def for_request(self, gone: Event) -> DiffusionLM:
        """The model for one request, which raises Gone once `gone` is set (SharedLoop.write_rows)."""
        model = self.lm.writing_with(partial(self.loop.write_rows, gone))
        model.heed = partial(self.loop.heed, gone)  # type: ignore[method-assign]
        return model

    def models(self) -> dict[str, Any]:
        """The one that there is, as OpenAI's clients list them."""
        about = {"id": self.name, "object": "model", "created": self.began, "owned_by": "sdlm"}
        return {"object": "list", "data": [about]}

    def card(self) -> Card:
        """What the model is, and what can be asked of it."""
        progress, model = self.lm.progress, self.lm.model
        assert progress is not None
        routes = [answer.__name__ for answer in ANSWERS]
        can = [name for name in routes if model.is_guided or name not in ("vary", "blend")]
        return Card(
            parameters=sum(p.numel() for p in model.parameters()),
            vocabulary=len(self.lm.tokenizer),
            longest=self.lm.longest,
            stream=self.lm.stream,
            objective=self.lm.config.objective,
            usual=asdict(self.lm.sampling({})),
            abilities=[*can, "order"] if model.takes_turns else can,
            steps_trained=progress.step,
            tokens_trained=progress.tokens,
            bound=self.lm.bound,
            examples=self.examples,
        )
