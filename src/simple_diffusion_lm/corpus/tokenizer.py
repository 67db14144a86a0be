"""Text to ids and back with any tokenizer; and how one is trained on any text."""

import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, partial
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, SupportsInt

import numpy as np

from ..core import data
from ..errors import UserError, installed

TRAINED = ("bpe", "chars", "bytes")  # the tokenizers that are trained here
APART = "\ue000"  # a character that no piece has: it separates a text from what stands before it
BORDER = "\0"  # begins each document of running text; no text has this character
SPACE, STANDS_IN = "▁", "\ufdd0"  # SentencePiece's space; and what a text's own ▁ is to SentencePiece
BROKEN = "\ufffd"  # what bytes that are a part of a character are decoded to
HOW_TO_TRAIN = "give another, or train one with bos_id=0, eos_id=1, pad_id=2, unk_id=3"
DEFAULT_VOCAB = 4096
OFTEN = 20  # characters of the text for each piece, at least: what is rare is memorised
FEWEST = 4  # pieces of a mean line, at least: what is one piece cannot be made anew, nor have a gap
SAMPLE_CHARACTERS = 5_000_000  # of a large text are used to train, each of which may take 100 bytes
LINE = re.compile("(?s).{1,1000}")  # SentencePiece skips lines over 4192 bytes, and a character may have 4


class Tokenizer(data.Tokenizer):
    """A tokenizer, from the bytes of its file: a SentencePiece .model or a Hugging Face tokenizer.json.

    In running text (stream) a line break is EOS, and a document begins with BOS (padding, where that lacks).
    Raises UserError if these bytes are neither, or a model without an EOS or unknown piece.
    """

    def __init__(self, model: bytes) -> None:
        self.name = "tokenizer.json" if model[:1] == b"{" else "tokenizer.model"  # of its file
        try:
            # Of no bytes at all SentencePiece would make an empty model, without an error.
            super().__init__(model or b"-", hugging_face(model) if self.name == "tokenizer.json" else None)
        except RuntimeError as error:
            no_unknown = "unk is not defined" in str(error)
            fault = "no unknown (UNK) piece" if no_unknown else "not a SentencePiece .model file"
            raise UserError(f"{fault}: {HOW_TO_TRAIN}") from None
        if self.eos_id < 0:
            raise UserError(f"no end-of-sentence (EOS) piece: {HOW_TO_TRAIN}")
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.border_id: int = self.pieces.bos_id() if self.pieces.bos_id() >= 0 else self.pad_id

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a file, or a directory's. Raises UserError, with the path, if it cannot be read or used."""
        try:
            path = min(Path(path).glob("tokenizer.*"), default=Path(path))
            return cls(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: no tokenizer (bpe, chars, bytes, a file): {error.strerror}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def encode(self, text: str, stream: bool = False) -> list[int]:
        """The ids of a text, without EOS. Raises UserError if it is not Unicode (half a surrogate pair)."""
        if not is_unicode(text):
            raise UserError("the text is not valid Unicode: give it as UTF-8")
        if text.startswith(BORDER):
            return [self.border_id, *self.encode(text[1:], stream)]
        first, *rest = text.split("\n") if stream else [text]
        ids = super().encode(first.replace(SPACE, STANDS_IN))
        return ids + [i for line in rest for i in (self.eos_id, *self.encode(line))]

    def encode_after(self, text: str, stream: bool = False) -> list[int]:
        """The ids of a text that continues another one. No space is put before it."""
        return self.encode(APART + text, stream)[len(self.encode(APART)) :]

    def decode(self, ids: Iterable[SupportsInt], stream: bool = False) -> str:
        return super().decode(ids, stream).replace(STANDS_IN, SPACE)

    def decode_after(self, ids: list[int], stream: bool = False) -> str:
        """The text that these ids add to a text before them; a new word begins with its space."""
        space = " " if ids and self.texts[ids[0]].startswith(" ") else ""
        return space + self.decode(ids, stream)

    @cached_property
    def texts(self) -> list[str]:
        """The text that each id adds; of one that is part of a character its name in the vocabulary, too."""
        added = ((self._added([i]), self.pieces.id_to_piece(i)) for i in range(len(self)))
        return [t if t and BROKEN not in t else t + piece.replace(SPACE, " ") for t, piece in added]

    @cached_property
    def has_spaces_alone(self) -> bool:
        """Whether a space is a piece of its own, and none begins with one: characters, bytes."""
        return " " in self.texts and all(text[:1] != " " or text.isspace() for text in self.texts)

    def spell(self, ids: Iterable[SupportsInt]) -> list[str]:
        """The text of each of some ids in a row. A character of several stands at the last of them."""
        spelled = list[str]()
        for is_broken, run in groupby(map(int, ids), lambda i: BROKEN in self.texts[i]):
            some = list(run)
            if not is_broken:
                spelled += [self.texts[i] for i in some]
                continue
            whole = [self._added(some[:n]).rstrip(BROKEN) for n in range(len(some) + 1)]
            spelled += [now[len(old) :] for old, now in pairwise(whole)]
        return spelled

    def check(self, text: str, stream: bool = False) -> None:
        """Raises UserError for a character that no id stands for: it would be lost."""
        for c in text.replace("\n", "") if stream else text:
            ids = self.encode(c)
            if self.pieces.unk_id() in ids or not (c.isspace() or self.decode(ids)):
                raise UserError(f"{text!r}: the tokenizer has no piece for {c!r}: write as the corpus does")

    def _added(self, ids: list[int]) -> str:
        return self.decode(ids + ids)[len(self.decode(ids)) :]  # a text's first word loses its space


def hugging_face(content: bytes) -> SimpleNamespace:
    """A tokenizer.json, asked as a SentencePieceProcessor is. BOS and EOS are ids after its vocabulary."""
    library = installed("tokenizers", "a tokenizer.json needs tokenizers", "simple-diffusion-lm[tokenizers]")
    try:
        whole, model = library.Tokenizer.from_buffer(content), json.loads(content)["model"]
    except Exception as error:  # the library raises no class of its own
        raise UserError(f"not a tokenizer.json that tokenizers can read ({error})") from None
    whole.encode_special_tokens = True  # "<|endoftext|>" in a text is text
    whole.no_truncation()
    whole.no_padding()
    size = 1 + max(whole.get_vocab().values())
    special = {i for i, token in whole.get_added_tokens_decoder().items() if token.special}  # never text
    unknown = model.get("unk_id", whole.token_to_id(model.get("unk_token") or ""))
    twice = whole.decode(2 * whole.encode("a", add_special_tokens=False).ids)
    space = "" if twice == "a a" else " "  # before the first word, as SentencePiece puts one
    return SimpleNamespace(
        encode=lambda text: whole.encode(space + text, add_special_tokens=False).ids if text else [],
        decode=lambda ids: whole.decode([i for i in ids if i < size]).removeprefix(space),
        id_to_piece=lambda i: whole.id_to_token(i) or "",
        is_control=lambda i: i in special or whole.id_to_token(i) is None,
        is_unknown=lambda i: i == unknown,
        get_piece_size=lambda: size + 2,
        bos_id=lambda: size,
        eos_id=lambda: size + 1,
        pad_id=lambda: -1,
        unk_id=lambda: -1 if unknown is None else unknown,
    )


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8; half a surrogate pair cannot."""
    return text.encode(errors="ignore").decode() == text


def train_tokenizer(
    lines: Iterable[str], vocab_size: int | None, *, stream: bool, seed: int, kind: str = "", share: float = 1
) -> Tokenizer:
    """Trains a BPE tokenizer as the document does, or one of kind "chars" or "bytes". What they encode comes
    back as it was; of an alphabet of more than 256 characters what is rare is spelled in bytes.

    vocab_size: of BPE; None: DEFAULT_VOCAB, or fewer of little text (OFTEN) or of lines (not of running text,
    stream) that are short (FEWEST). share: of the lines that are used, a sample that the seed draws.
    Raises UserError if there is no text, or vocab_size is larger or smaller than the text allows.
    """
    if kind == "bytes":
        return _trained([" "], 300, model_type="char", byte_fallback=True)
    rng = np.random.default_rng(seed % 2**63)
    pieces = (piece for line in lines for piece in LINE.findall(line) if not piece.isspace())
    sample = [piece for piece in pieces if share == 1 or rng.random() < share]
    if not sample:
        raise UserError("there is no text to train a tokenizer on: every line is empty")
    covered = list(accumulate(sorted(Counter(chain.from_iterable(sample)).values(), reverse=True)))
    # SentencePiece's 0.9995, meant for alphabets of thousands, would drop rare letters of a small corpus.
    coverage, others = (1.0, 20) if len(covered) <= 256 else (0.9995, 300)  # a space, digits, bytes
    train = partial(_trained, sample, character_coverage=coverage, byte_fallback=others > 256)
    fewest = bisect_left(covered, coverage * covered[-1]) + others
    if kind == "chars":
        return train(fewest, model_type="char")
    if vocab_size is not None:
        if len(trained := train(max(fewest, vocab_size))) != vocab_size:
            allowed = f"{fewest} or more" if vocab_size < fewest else f"{len(trained)} or less"
            raise UserError(f"vocabulary of {vocab_size} does not fit this text: give --vocab-size {allowed}")
        return trained
    size, some = min(DEFAULT_VOCAB, covered[-1] // OFTEN), sample[:: len(sample) // 999 + 1]
    while True:
        trained = train(max(fewest, size))
        size = 2 * len(trained) // 3
        if stream or size < fewest or sum(len(trained.encode(line)) for line in some) >= FEWEST * len(some):
            return trained


def _trained(sample: list[str], vocab_size: int, **options: Any) -> Tokenizer:
    options |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
    options |= {"hard_vocab_limit": False, "normalization_rule_name": "identity"}
    lines = (line.removeprefix(BORDER).replace(SPACE, STANDS_IN) for line in sample)
    try:
        return Tokenizer(data.Tokenizer.train(lines, vocab_size, **options).model)
    except RuntimeError as error:
        raise UserError(f"SentencePiece cannot train on this text: {' '.join(str(error).split())}") from None
