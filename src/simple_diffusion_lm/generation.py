"""Text out of a trained run: the API people use from Python, and the command line's."""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Unpack

from .errors import UserError
from .filling import Wish
from .model import flow
from .model.continuous import Continuous
from .model.objective import Objective
from .model.slots import Generate, Slot
from .sealing import sealed
from .text.corpus import Prepared, open_prepared
from .text.templates import Gap, Template
from .text.tokenizer import Ids, Tokenizer
from .training import checkpoint
from .training.config import Config
from .training.objectives import OBJECTIVES
from .training.processes import pick_device
from .writer import LEFT_TO_RIGHT, Sampling, Writer, Written


def about_run(run: str | Path) -> dict[str, Any]:
    """What config.json says of a run, or of the run that a checkpoint is in (see run.describe).

    Raises UserError when there is none, or it is not what was written.
    """
    run = checkpoint.run_of(Path(run))
    try:
        about: dict[str, Any] = json.loads((run / "config.json").read_text())
        Config(**about["config"])
        checkpoint.identity(about)
        if about != sealed(about):
            raise ValueError("not what was written")
    except FileNotFoundError:
        raise UserError(f"{run}: no run here (config.json is missing)") from None
    except OSError as error:
        raise UserError(f"{run}: cannot read config.json ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{run}/config.json is damaged or of another version") from None
    return about


class DiffusionLM:
    """A trained model with its tokenizer: text in, text out.

    Attributes:
        model, tokenizer: the parts.
        length_weights: how many training examples had each length (index: tokens, EOS included).
        stream: trained on running text, where EOS ends a line and not the example.
        config: the run's configuration, None for a model put together by hand.
        progress: how far the run had come (training/state.py), None likewise.
        writer: what writes lines for the methods here, and can say more of them.
    """

    def __init__(
        self,
        model: Objective,
        tokenizer: Tokenizer,
        length_weights: Sequence[int],
        *,
        stream: bool,
        config: Config | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.length_weights = list(length_weights)
        self.stream = stream
        self.config = config
        self.progress = progress
        self.writer = Writer(model, tokenizer, self.length_weights, stream=stream)

    @classmethod
    def from_pretrained(cls, run: str | Path) -> "DiffusionLM":
        """Reads a run directory, or a checkpoint's own directory.

        Of a run, the newest whole checkpoint, or an earlier one that was better on held-out text.

        Raises UserError when there is none, or its files do not belong together.
        """
        found = checkpoint.to_use(Path(run))
        run = checkpoint.run_of(Path(run))
        about = about_run(run)
        tokenizer = Tokenizer.load(run / "tokenizer.model")
        if tokenizer.fingerprint != about["tokenizer"]:
            raise UserError(
                f"{run}/tokenizer.model is not the one this run was trained with: put that back"
            )
        if found is None:
            raise UserError(f"{run}: no whole checkpoint yet; train it first (sdlm train)")
        if found.manifest.get("run") != checkpoint.identity(about):
            raise UserError(f"{run}/config.json is not that of {found.path.name}: put that back")
        config = Config(**about["config"])
        model = OBJECTIVES[config.objective](config, about["vocab_size"])
        model.load_state_dict(found.model_for(model))
        model.to(pick_device()).eval()
        return cls(
            model,
            tokenizer,
            about["lengths"],
            stream=about["stream"],
            config=config,
            progress=found.manifest["progress"],
        )

    def writing_with(self, generate: Generate) -> "DiffusionLM":
        """The same model, whose texts are written by another function than its own `generate`."""
        other = copy(self)
        parts = (self.model, self.tokenizer, self.length_weights)
        other.writer = Writer(*parts, stream=self.stream, generate=generate)
        return other

    @staticmethod
    def trained_on(run: str | Path) -> Prepared:
        """The corpus a run was trained on, if that is still where it was; else UserError."""
        about = about_run(run)
        data = open_prepared(about["prepared"])
        if data.meta["key"] != about["corpus"]:
            raise UserError(f"{about['prepared']} is not the corpus {run} was trained on")
        return data

    def generate(
        self,
        count: int = 1,
        *,
        length: Gap | int | None = None,
        must: Sequence[str] = (),
        never: Sequence[str] = (),
        candidates: int = 1,
        seed: int = 0,
        **sampling: Unpack[Sampling],
    ) -> list[str]:
        """Generates texts from noise.

        length is in tokens, without EOS, exact or a range; None: as training texts have it.
        Every text has the words of `must`, in any order and at any place, and none of `never`.
        Of several candidates for a text, the most probable is kept.
        The same seed gives the same texts: number n of it whatever the count and the batch size.

        Raises UserError for an unknown sampler or a number out of range, and for what is asked in
        vain of a model that writes from left to right.
        """
        wish = self.wish(Gap(length, length) if isinstance(length, int) else length, must)
        written = self.write([wish] * count, candidates, never, seed, **sampling)
        return [line.text for line in written]

    def infill(
        self,
        templates: Sequence[str],
        *,
        never: Sequence[str] = (),
        candidates: int = 8,
        seed: int = 0,
        **sampling: Unpack[Sampling],
    ) -> list[str]:
        """Fills the gaps of each template: `___`, or `[[5]]` or `[[2-6]]` tokens.

        Given text comes back as it was typed. A text that ends with a gap is a prompt, one that
        begins with a gap a suffix. Lengths that are left open are tried, one for each candidate,
        and the most probable line is kept.

        Raises UserError for a template that does not read or is too long for the model, and as
        `generate` does.
        """
        wishes = [Wish.of(template) for template in templates]
        return [line.text for line in self.write(wishes, candidates, never, seed, **sampling)]

    def wish(self, length: Gap | None = None, must: Sequence[str] = ()) -> Wish:
        """What generate asks for. Raises UserError where the model writes from left to right."""
        if self.model.writes_length and (length is not None or must):
            raise UserError(LEFT_TO_RIGHT)
        return Wish(Template(("", ""), (Gap(),)), length or Gap(), tuple(must))

    def write(
        self,
        wishes: Sequence[Wish],
        candidates: int,
        never: Sequence[str] = (),
        seed: int = 0,
        **sampling: Unpack[Sampling],
    ) -> Iterator[Written]:
        """What generate and infill do, with all there is to say of each line (see writer.py).

        As they are done: some thousand at a time.
        """
        return self.writer.write(wishes, candidates, never, seed, **sampling)

    def vary(
        self,
        texts: Sequence[str],
        strength: float = 0.4,
        seed: int = 0,
        **sampling: Unpack[Sampling],
    ) -> list[str]:
        """Each text noised part of the way and written anew: near 0 a copy, at 1 a new text.

        Raises UserError for another strength, for a model without noise, and as `generate` does.
        """
        self._continuous()
        if not 0 < strength <= 1:
            raise UserError(f"the strength must be above 0 and at most 1, not {strength}")
        end = self.writer.end
        slots = [Slot.of(self._ids_of(text), end, n, (seed, n)) for n, text in enumerate(texts)]
        found = self.writer.run(slots, self.writer.vocabulary(), strength=strength, **sampling)
        return [self.decode(found[number]) for number in range(len(texts))]

    def blend(self, first: str, second: str, count: int = 5, steps: int = 64) -> list[str]:
        """`count` texts from the first to the second, evenly apart in the noise they come from.

        Both are taken to noise along the probability flow, where nothing is drawn, and what lies
        between them is taken back. Raises UserError as `vary` does.
        """
        model, end = self._continuous(), self.writer.end
        both = self._ids_of(first), self._ids_of(second)
        blended = flow.blend(model, both, end, self.writer.vocabulary(), count, steps)
        return [self.decode(ids) for ids in blended]

    def score(self, texts: Sequence[str]) -> list[float]:
        """-log p of each text, in nats, as the model writes it from left to right (scoring.py)."""
        return self.writer.nats([self._ids_of(text) + self.writer.eos for text in texts])

    def decode(self, ids: Ids) -> str:
        """The text of ids: one line, or running text in stream mode."""
        return self.writer.decode(ids)

    def _continuous(self) -> Continuous:
        if not isinstance(self.model, Continuous):
            raise UserError("only continuous diffusion varies and blends texts")
        return self.model

    def _ids_of(self, text: str) -> list[int]:
        """The ids of a text without EOS. Raises UserError where the model knows no such length."""
        ids = self.tokenizer.encode(text)
        room = self.writer.longest - len(self.writer.end)
        if not 1 <= len(ids) <= room:
            raise UserError(
                f"{text!r} has {len(ids)} tokens; the model was trained on texts of 1 to {room}"
            )
        return ids
