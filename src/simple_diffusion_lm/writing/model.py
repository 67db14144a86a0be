"""Text out of a trained run: the API people use from Python, and the command line's."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..core import Config
from ..core.generate import Sampling
from ..core.train import Progress
from ..corpus.prepare import Prepared, open_prepared
from ..errors import UserError
from ..runs.run import about_run, load_run
from .blend import blend
from .guidance import diffusion_of
from .requests import Row
from .templates import Gap, Template
from .writer import LEFT_TO_RIGHT, Request, Writer, check

VARIES = "varies and blends texts"


class DiffusionLM(Writer):
    """A trained model with its tokenizer: text in, text out.

    generate, infill and vary take these options too:
        steps, sampler, temperature: see core.generate.Sampling.
        batch_size: texts at a time, 64 by default.
        guidance: see guidance.py.
        watch: is called after each step with the texts as they are (requests.Watch).

    Attributes (more in Writer):
        config: the run's configuration, None for a model put together by hand.
        progress: how far the run had come, None likewise.
    """

    config: Config | None = None
    progress: Progress | None = None

    @classmethod
    def from_pretrained(cls, run: str | Path) -> "DiffusionLM":
        """Reads a run's directory, or that of one of its checkpoints (see runs.run.load_run).

        Raises UserError when there is none, or its files do not belong together.
        """
        found = load_run(run)
        model = cls(found.model, found.tokenizer, found.about["lengths"], stream=found.about["stream"])
        model.config, model.progress = found.config, found.progress
        return model

    @staticmethod
    def trained_on(run: str | Path) -> Prepared:
        """The corpus a run was trained on, if that is still where it was; else UserError."""
        about = about_run(run)
        data = open_prepared(about["prepared"])
        if data.meta["key"] != about["corpus"]:
            raise UserError(f"{about['prepared']} is not the corpus {run} was trained on")
        return data

    def writing_with(self, write_rows: Callable[..., Iterable[tuple[int, list[int]]]]) -> "DiffusionLM":
        """The same model, but this is called instead of requests.write_rows, without the model."""
        other = copy(self)
        other.write_rows = write_rows
        return other

    def generate(
        self,
        count: int = 1,
        *,
        length: Gap | int | None = None,
        must: Sequence[str] = (),
        never: Sequence[str] = (),
        candidates: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """Generates texts from noise.

        length is in tokens, without EOS, exact or a range; None: as training texts have it. Every text
        has the words of `must`, in any order, and none of `never`. Of several candidates for a text, the
        most probable is kept. Text n of a seed is the same whatever the count and the batch size.

        Raises UserError for an unknown sampler or a number out of range, and for what a model that
        writes from left to right cannot do.
        """
        request = self.request(Gap(length, length) if isinstance(length, int) else length, must)
        sampling, others = split(options)
        written = self.write([request] * count, candidates, never, seed, sampling, **others)
        return [line.text for line in written]

    def infill(
        self,
        templates: Sequence[str],
        *,
        never: Sequence[str] = (),
        candidates: int = 8,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """Fills the gaps of each template: `___`, or `[[5]]` or `[[2-6]]` tokens.

        Given text comes back as it was typed. Where lengths are left open, each candidate has others,
        and the most probable line is kept. Raises UserError for a template that does not read or is too
        long for the model, and as `generate` does.
        """
        requests = [Request.of(template) for template in templates]
        sampling, others = split(options)
        return [line.text for line in self.write(requests, candidates, never, seed, sampling, **others)]

    def request(self, length: Gap | None = None, must: Sequence[str] = ()) -> Request:
        """What generate asks for. Raises UserError where the model writes from left to right."""
        if self.model.writes_length and (length is not None or must):
            raise UserError(LEFT_TO_RIGHT)
        return Request(Template(("", ""), (Gap(),)), length or Gap(), tuple(must))

    def vary(self, texts: Sequence[str], strength: float = 0.4, seed: int = 0, **options: Any) -> list[str]:
        """Each text noised part of the way and written anew: near 0 a copy, at 1 a new text.

        Raises UserError for another strength, for a model without noise, and as `generate` does.
        """
        diffusion_of(self.model, VARIES)
        if not 0 < strength <= 1:
            raise UserError(f"the strength must be above 0 and at most 1, not {strength}")
        rows = [Row.of(self._ids_of(text), self.end, n, seed) for n, text in enumerate(texts)]
        sampling, others = split(options)
        found = self.run(rows, self.forbidden(), sampling, strength=strength, **others)
        return [self.decode(found[number]) for number in range(len(texts))]

    def blend(self, first: str, second: str, count: int = 5, steps: int = 64) -> list[str]:
        """`count` texts from the first to the second, evenly apart in the noise they come from.

        Both are taken to noise along the probability flow, where nothing is drawn, and what lies
        between them is taken back. Raises UserError as `vary` does.
        """
        model = diffusion_of(self.model, VARIES)
        check(Sampling(steps))
        both = self._ids_of(first), self._ids_of(second)
        return [self.decode(ids) for ids in blend(model, both, self.end, self.forbidden(), count, steps)]

    def score(self, texts: Sequence[str]) -> list[float]:
        """-log p of each text with its end, in nats: exact, or the bound (see Writer.nats)."""
        return self.nats([self._ids_of(text) + self.end for text in texts])

    def _ids_of(self, text: str) -> list[int]:
        """The ids of a text without EOS. Raises UserError where the model knows no such length."""
        ids, room = self.tokenizer.encode(text), self.longest - len(self.end)
        if 1 <= len(ids) <= room:
            return ids
        raise UserError(f"{text!r} has {len(ids)} tokens; the model was trained on texts of 1 to {room}")


def split(options: dict[str, Any]) -> tuple[Sampling, dict[str, Any]]:
    """Options as users give them: those that make a Sampling, and the others."""
    own = {field.name: options.pop(field.name) for field in fields(Sampling) if field.name in options}
    return Sampling(**own), options
