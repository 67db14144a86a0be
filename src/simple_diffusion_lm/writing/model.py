"""A model trained, and text out of it: the API people use from Python, and the command line's."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

from ..core import Config
from ..core.generate import Sampling
from ..core.train import Progress
from ..corpus.prepare import Prepared, is_prepared, open_prepared, prepare
from ..devices.processes import device_named, use_device
from ..errors import UserError, check_count
from ..runs.checkpoint import is_exported, run_of
from ..runs.config import RECIPES, SIZES, with_objective, with_settings
from ..runs.export import CARD_LINES, export_run, find_run, push
from ..runs.run import about_run, load_run, run_training
from .blend import blend
from .guidance import diffusion_of
from .requests import Row
from .templates import Gap, Template, parse_length
from .watching import Onlooker, Shown, Unfolding
from .writer import LEFT_TO_RIGHT, Options, Request, Writer, check

VARIES = "varies and blends texts"


class SamplingOptions(Options, total=False):
    """The fields of core.generate.Sampling, and what else can be said of how to write."""

    steps: int
    sampler: str
    temperature: float
    order: str


class DiffusionLM(Writer):
    """A trained model with its tokenizer: text in, text out.

    What generate, infill, vary and unfold also take:

    - steps, sampler, temperature, order: see core.generate.Sampling.
    - seed: the same one gives the same texts; None: others each time.
    - batch_size: texts at a time, 64 by default.
    - top_p: of each position only the most probable tokens, with this probability together; 1 is all.
    - guidance: a score of texts that is to be high (guidance.Score).
    - watch: is called after each step with the texts as they are (requests.Watch); unfold has its own.

    Attributes:
        progress: how far the run had come, None for a model put together by hand.
        bound: nats a token of held-out text, at most, None likewise or where it was not measured.
        about, source: what is known of the run, in words, and where it is.
    """

    progress: Progress | None = None
    bound: float | None = None
    about: str = ""
    source: Path | None = None

    @classmethod
    def from_pretrained(cls, run: str | Path, device: str | None = None) -> "DiffusionLM":
        """Reads a run's directory, that of one of its checkpoints, or an exported model's. Where there is no
        such directory, `toy` is the model that the package has, and USER/NAME one of the Hugging Face Hub.
        device: cpu, cuda, cuda:1 or mps; by default the fastest there is.

        Raises UserError when there is none, or its files do not belong together (see runs.run.load_run).
        """
        source = find_run(run)
        loaded = load_run(source)
        network = loaded.model if device is None else loaded.model.to(device_named(device))
        model = cls(network, loaded.tokenizer, loaded.about["lengths"], stream=loaded.about["stream"])
        model.progress, model.bound, model.source = loaded.progress, loaded.bound, source
        bound = "" if loaded.bound is None else f", <= {loaded.bound:.3f} nats a token of held-out text"
        model.about = f"{run}, {model.config.objective}, {loaded.progress.step:,} steps{bound}"
        return model

    @property
    def config(self) -> Config:
        """What decided the run."""
        return self.model.config

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        return f"<DiffusionLM {self.about}: {parameters:,} parameters, {len(self.tokenizer):,} pieces>"

    def save_pretrained(self, out: str | Path, *, license: str = "unknown", half: bool = False) -> None:
        """Exports a model that from_pretrained read: a directory with weights, configuration, tokenizer and
        card. half: in bfloat16. Raises UserError where `out` is taken or cannot be written."""
        if self.source is None:
            raise UserError("only a model that from_pretrained read can be exported")
        export_run(self.source, Path(out), self.generate(CARD_LINES), license, half)

    def push_to_hub(self, name: str, *, license: str = "unknown", half: bool = False) -> str:
        """Exports it to the Hugging Face Hub as USER/NAME; returns the address. Raises UserError without the
        extra `hub`, and for what the hub refuses."""
        with TemporaryDirectory() as folder:
            out = Path(folder) / name.rpartition("/")[2]
            self.save_pretrained(out, license=license, half=half)
            return push(out, name)

    @staticmethod
    def trained_on(run: str | Path) -> Prepared:
        """The corpus a run was trained on, if it is inside the run (which may have been moved) or still where
        it was; else UserError."""
        about, inside = about_run(run), run_of(Path(run)) / "corpus"
        if is_exported(Path(run)):
            way = "take the run (sdlm evaluate --data FILE --samples 0 does without)"
            raise UserError(f"{run} is an exported model, which has no corpus: {way}")
        where = inside if is_prepared(inside) else about["prepared"]
        data = open_prepared(where)
        if data.meta["key"] != about["corpus"]:
            raise UserError(f"{where} is not the corpus {run} was trained on")
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
        length: Gap | tuple[int, int] | int | str | None = None,
        must: str | Sequence[str] = (),
        never: str | Sequence[str] = (),
        candidates: int = 1,
        seed: int | None = 0,
        **options: Unpack[SamplingOptions],
    ) -> list[str]:
        """Generates texts from noise.

        length is in tokens, without EOS: 12, "8-12" or (8, 12); None: as training texts have it. Every text
        has the words of `must`, in any order, and none of `never`. Of several candidates for a text, the
        most probable is kept. Text n of a seed is the same whatever the count and the batch size.
        options: steps, temperature and the others that DiffusionLM lists.

        Raises UserError for unknown samplers, numbers out of range, and what a left-to-right model cannot do.
        """
        check_count("the number of texts", count)
        room = Gap(*length) if isinstance(length, tuple | list) else None
        if room is None and length is not None:
            room = parse_length(str(length))
        sampling, others = self.split(options)
        requests = [self.request(room, several(must))] * count
        written = self.write(requests, candidates, several(never), seed_of(seed), sampling, **others)
        return [line.text for line in written]

    def infill(
        self,
        templates: str | Sequence[str],
        *,
        never: str | Sequence[str] = (),
        candidates: int = 8,
        seed: int | None = 0,
        **options: Unpack[SamplingOptions],
    ) -> list[str]:
        """Fills the gaps of each template (or of one): `___`, or `[[5]]` or `[[2-6]]` tokens.

        Given text comes back as it was typed. Where lengths are left open, each candidate has others,
        and the most probable line is kept. Raises UserError for a template that does not read or is too
        long for the model, and as `generate` does.
        """
        requests = [Request.of(template) for template in several(templates)]
        sampling, others = self.split(options)
        written = self.write(requests, candidates, several(never), seed_of(seed), sampling, **others)
        return [line.text for line in written]

    def unfold(
        self, template: str = "", *, seed: int | None = 0, **options: Unpack[SamplingOptions]
    ) -> Unfolding:
        """A text, or a template being filled, at each step out of the noise: see watching.Unfolding."""
        onlooker, steps = Onlooker(self), list[list[Shown]]()
        sampling, others = self.split(options)
        others["watch"] = lambda *seen: steps.extend(onlooker(*seen).values())
        # Not self.run: where there are several processes, one alone may want to see this.
        run = partial(self.run_here, forbidden=self.forbidden(), sampling=sampling, **others)
        self._attempt({0: Request.of(template)}, 1, (seed_of(seed), 0), (), run)
        return Unfolding(steps)

    def request(self, length: Gap | None = None, must: Sequence[str] = ()) -> Request:
        """What generate asks for. Raises UserError where the model writes from left to right."""
        if self.model.writes_length and (length is not None or must):
            raise UserError(LEFT_TO_RIGHT)
        self.tokenizer.check(" ".join(must), self.stream)
        return Request(Template(("", ""), (Gap(),)), length or Gap(), tuple(filter(None, must)))

    def vary(
        self,
        texts: str | Sequence[str],
        strength: float = 0.4,
        seed: int | None = 0,
        **options: Unpack[SamplingOptions],
    ) -> list[str]:
        """Each text noised part of the way and written anew: near 0 a copy, at 1 a new text.
        Raises UserError for another strength, for a model without noise, and as `generate` does."""
        diffusion_of(self.model, VARIES)
        if not 0 < strength <= 1:
            raise UserError(f"the strength must be above 0 and at most 1, not {strength}")
        texts, chosen = several(texts), seed_of(seed)
        rows = [Row.of(self._ids_of(text), self.end, n, chosen) for n, text in enumerate(texts)]
        sampling, others = self.split(options)
        found = self.run(rows, self.forbidden(), sampling, strength=strength, **others)
        return [self.decode(found[number]) for number in range(len(texts))]

    def blend(self, first: str, second: str, count: int = 5, steps: int = 64) -> list[str]:
        """`count` texts from the first to the second, evenly apart in the noise they come from.

        Both are taken to noise along the probability flow, where nothing is drawn, and what lies
        between them is taken back. Raises UserError as `vary` does.
        """
        model = diffusion_of(self.model, VARIES)
        check(Sampling(steps))
        check_count("the number of texts", count)
        both = self._ids_of(first), self._ids_of(second)
        found = blend(model, both, self.end, self.forbidden(), count, steps, self.heed)
        return [self.decode(ids) for ids in found]

    def score(self, texts: str | Sequence[str]) -> list[float]:
        """-log p of each text with its end, in nats: exact, or the bound (see Writer.nats)."""
        return self.nats([self._ids_of(text) + self.end for text in several(texts)])

    def split(self, options: Any) -> tuple[Sampling, Any]:
        """Options as users give them: of how it writes, and others. Raises UserError for what is neither."""
        own = {field.name: options.pop(field.name) for field in fields(Sampling) if field.name in options}
        if unknown := [name for name in options if name not in Options.__annotations__]:
            known = ", ".join(SamplingOptions.__annotations__)
            raise UserError(f"no option {unknown[0]!r}: the options are {known}")
        watch = options.get("watch")
        if watch is not None and not callable(watch):
            raise UserError("watch is a function, which is called after each step; see also unfold")
        return self.sampling(own), options

    def _ids_of(self, text: str) -> list[int]:
        """The ids of a text without EOS. Raises UserError where the model knows no such length or letter."""
        self.tokenizer.check(text, self.stream)
        ids, room = self.tokenizer.encode(text, self.stream), self.longest - len(self.end)
        if 1 <= len(ids) <= room:
            return ids
        raise UserError(f"{text!r} has {len(ids)} tokens; the model was trained on texts of 1 to {room}")


def several(texts: str | Sequence[str]) -> Sequence[str]:
    """One text is a list of one, not of its characters."""
    return [texts] if isinstance(texts, str) else texts


def seed_of(seed: int | None) -> int:
    """None is a seed of nobody's choice. numpy takes no negative ones."""
    return secrets.randbelow(2**31) if seed is None else seed % 2**63


def train(
    corpus: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    recipe: str = "modern",
    size: str | None = None,
    stream: bool = False,
    quiet: bool = False,
    device: str | None = None,
    **settings: Any,
) -> DiffusionLM:
    """Trains a model on text files in the directory `out`, and returns it. The same call again resumes.

    corpus: one file or several, or a directory that `prepare` made. recipe, size: names in RECIPES and SIZES.
    stream: running text. device: as for from_pretrained, and for this process from then on. settings:
    fields of core.Config, as layers=6 or minutes=5 (20 without a budget).
    Raises UserError for what cannot be trained, and as run_training does.
    """
    if recipe not in RECIPES or (size is not None and size not in SIZES):
        known = f"the recipes are {', '.join(RECIPES)}, the sizes {', '.join(SIZES)}"
        raise UserError(f"no recipe {recipe!r} of size {size!r}: {known}")
    own = with_objective(RECIPES[recipe], settings.get("objective", Config.objective))
    config = with_settings(own, (SIZES[size] if size else {}) | settings)
    files = [corpus] if isinstance(corpus, str | Path) else corpus
    if len(files) == 1 and is_prepared(files[0]):
        data = open_prepared(files[0])
        if stream and not data.stream:
            raise UserError(f"{files[0]} is prepared as lines: prepare the files anew with stream=True")
    else:
        data = prepare(files, Path(out) / "corpus", stream=stream, seed=config.seed, quiet=quiet)
    use_device(device)
    run_training(config, data, Path(out), quiet=quiet)
    return DiffusionLM.from_pretrained(out)
