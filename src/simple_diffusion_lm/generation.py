"""Text out of a trained run: the API people use from Python, and the command line's."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .diffusion.sampler import SAMPLERS
from .errors import UserError
from .model.objective import Objective
from .model.slots import Settings, Slot, Vocabulary
from .text.corpus import Prepared, open_prepared
from .text.templates import parse
from .text.tokenizer import Ids, Tokenizer
from .training import checkpoint
from .training.config import Config
from .training.objectives import OBJECTIVES
from .training.processes import gathered, rank, world

WORD_START = "▁"  # how SentencePiece writes the space before a word
LONGEST_GAP = 8  # tokens, where the template leaves its length open


class DiffusionLM:
    """A trained model with its tokenizer: text in, text out.

    Attributes:
        model, tokenizer: the parts.
        length_weights: how many training examples had each length (index: tokens, EOS included).
        stream: trained on running text, where EOS ends a line and not the example.
        config: the run's configuration, None for a model put together by hand.
    """

    def __init__(
        self,
        model: Objective,
        tokenizer: Tokenizer,
        length_weights: Sequence[int],
        *,
        stream: bool,
        config: Config | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.length_weights = list(length_weights)
        self.stream = stream
        self.config = config
        banned = torch.zeros(len(tokenizer), dtype=torch.bool)
        banned[tokenizer.special_ids] = True
        if stream:
            banned[tokenizer.eos_id] = False  # a line break like any other token
        pieces = tokenizer.pieces(range(len(tokenizer)))
        continues = torch.tensor([not piece.startswith(WORD_START) for piece in pieces])
        last = None if stream else tokenizer.eos_id
        self._vocabulary = Vocabulary(banned, continues, last)

    @classmethod
    def from_pretrained(cls, run: str | Path) -> "DiffusionLM":
        """Reads the newest whole checkpoint of a run directory.

        Raises UserError when there is none, or its files do not belong together.
        """
        run = Path(run)
        try:
            about = json.loads((run / "config.json").read_text())
            config = Config(**about["config"])
            lengths, stream, vocab_size = about["lengths"], about["stream"], about["vocab_size"]
        except FileNotFoundError:
            raise UserError(f"{run}: no run here (config.json is missing)") from None
        except OSError as error:
            raise UserError(f"{run}: cannot read config.json ({error.strerror})") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{run}/config.json is damaged or of another version") from None
        tokenizer = Tokenizer.load(run / "tokenizer.model")
        if tokenizer.fingerprint != about["tokenizer"]:
            raise UserError(
                f"{run}/tokenizer.model is not the one this run was trained with: put that back"
            )
        found = checkpoint.newest(run)
        if found is None:
            raise UserError(f"{run}: no whole checkpoint yet; train it first (sdlm train)")
        model = OBJECTIVES[config.objective](config, vocab_size)
        model.load_state_dict(found.model())
        model.eval()
        return cls(model, tokenizer, lengths, stream=stream, config=config)

    @staticmethod
    def trained_on(run: str | Path) -> Prepared:
        """The corpus a run was trained on, if that is still where it was; else UserError."""
        about = json.loads((Path(run) / "config.json").read_text())
        data = open_prepared(about["prepared"])
        if data.meta["key"] != about["corpus"]:
            raise UserError(f"{about['prepared']} is not the corpus {run} was trained on")
        return data

    def generate(
        self,
        count: int = 1,
        *,
        length: int | None = None,
        steps: int = 64,
        sampler: str = "ancestral",
        temperature: float = 0.9,
        seed: int = 0,
        batch_size: int = 64,
    ) -> list[str]:
        """Generates texts from noise.

        length is in tokens, without EOS; None draws one for each text from the training lengths.
        Text number n of a seed is the same whatever the count and the batch size.

        Raises UserError for an unknown sampler or a number out of range, and for a length that is
        asked of a model that writes its own.
        """
        if self.model.writes_length and length is not None:
            raise UserError("an autoregressive model ends its lines itself: leave out the length")
        slots = []
        for number in range(count):
            size = self._draw_length(seed, number) if length is None else self._with_eos(length)
            nowhere = torch.zeros(size, dtype=torch.bool)
            slots.append(Slot(nowhere.long(), nowhere, nowhere, number))
        return self._run(slots, steps, sampler, temperature, seed, batch_size)

    def infill(
        self,
        templates: Sequence[str],
        *,
        steps: int = 64,
        sampler: str = "ancestral",
        temperature: float = 0.9,
        seed: int = 0,
        batch_size: int = 64,
    ) -> list[str]:
        """Fills the gaps of each template: `___`, or `[[5]]` or `[[2-6]]` tokens.

        Gaps of open length get one such that the whole is as long as training texts are, of at
        most LONGEST_GAP tokens each.

        Raises UserError for a template that does not read or is too long for the model, and as
        `generate` does.
        """
        if self.model.writes_length:
            raise UserError("an autoregressive model writes from left to right: it fills no gaps")
        slots = [self._fill_slot(t, seed, number) for number, t in enumerate(templates)]
        return self._run(slots, steps, sampler, temperature, seed, batch_size)

    def _run(
        self,
        slots: list[Slot],
        steps: int,
        sampler: str,
        temperature: float,
        seed: int,
        batch_size: int,
    ) -> list[str]:
        if sampler not in SAMPLERS:
            raise UserError(f"no sampler {sampler!r}: the samplers are {', '.join(SAMPLERS)}")
        if steps < 2:
            raise UserError(f"sampling takes at least 2 steps, not {steps}")
        if temperature <= 0:
            raise UserError(f"the temperature must be above 0, not {temperature}")
        settings = Settings(SAMPLERS[sampler], steps, temperature, seed)
        own = slots[rank() :: world()]
        done = self.model.generate(own, settings, self._vocabulary, batch_size)
        texts = gathered({number: self.decode(ids) for number, ids in done})
        return [texts[slot.number] for slot in slots]

    def decode(self, ids: Ids) -> str:
        """The text of ids: one line, or running text in stream mode."""
        decode = self.tokenizer.decode_stream if self.stream else self.tokenizer.decode
        return decode(ids)

    @property
    def longest(self) -> int:
        """The most tokens the model has seen in one text, EOS included."""
        return len(self.length_weights) - 1

    def _draw_length(self, seed: int, number: int) -> int:
        if self.model.writes_length:
            return self.longest
        weights = np.array(self.length_weights, dtype=float)
        rng = np.random.default_rng([seed, number])
        return int(rng.choice(len(weights), p=weights / weights.sum()))

    def _with_eos(self, length: int) -> int:
        size = length if self.stream else length + 1
        if not length >= 1 or size > self.longest:
            most = self.longest - (0 if self.stream else 1)
            raise UserError(f"the length must be between 1 and {most} tokens, not {length}")
        return size

    def _fill_slot(self, template: str, seed: int, number: int) -> Slot:
        """Tokens of the given parts, with gaps of drawn lengths between them."""
        read = parse(template)
        parts = [self.tokenizer.encode(text.strip()) for text in read.texts]
        fewest = np.array([gap.fewest for gap in read.gaps], dtype=int)
        most = np.array([gap.most or LONGEST_GAP for gap in read.gaps], dtype=int)
        given = sum(map(len, parts)) + (0 if self.stream else 1)
        least = given + int(fewest.sum())
        if least > self.longest:
            raise UserError(
                f"template {template!r} needs {least} tokens; the model was trained on "
                f"texts of at most {self.longest}"
            )
        rng = np.random.default_rng([seed, number])
        widths = fewest.copy()
        weights = np.array(self.length_weights[least : given + int(most.sum()) + 1]) + 1e-6
        for _ in range(int(rng.choice(len(weights), p=weights / weights.sum()))):
            widths[rng.choice(np.flatnonzero(widths < most))] += 1
        ids: list[int] = list(parts[0])
        given_at = [True] * len(ids)
        gap_starts = []
        for width, part in zip(widths.tolist(), parts[1:], strict=True):
            gap_starts.append(len(ids))
            ids += [0] * width + part
            given_at += [False] * width + [True] * len(part)
        if not self.stream:
            ids.append(self.tokenizer.eos_id)
            given_at.append(True)
        word_start = torch.zeros(len(ids), dtype=torch.bool)
        word_start[gap_starts] = True
        return Slot(torch.tensor(ids), torch.tensor(given_at), word_start, number)
