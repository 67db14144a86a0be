"""Text to ids and back with any SentencePiece model; and how one is trained on any text."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsInt

import numpy as np

from ..core import data
from ..errors import UserError

SPACE = "▁"  # as pieces spell it
APART = "\ue000"  # a character that no piece has: it separates a text from what stands before it
HOW_TO_TRAIN = "give another, or train one with bos_id=0, eos_id=1, pad_id=2, unk_id=3"
DEFAULT_VOCAB = 4096
SAMPLE_LINES = 500_000  # of a very large text about this many are used to train: more change few merges,
SAMPLE_CHARACTERS = 50_000_000  # and no more than about this many
LINE = re.compile("(?s).{1,1000}")  # SentencePiece skips lines over 4192 bytes, and a character may have 4


class Tokenizer(data.Tokenizer):
    """A SentencePiece model, from the bytes of a .model file.

    Raises UserError if these bytes are no such model, or one without an EOS or unknown piece.
    """

    def __init__(self, model: bytes) -> None:
        try:
            super().__init__(model or b"-")  # SentencePiece takes no bytes at all for no argument
        except RuntimeError as error:
            no_unknown = "unk is not defined" in str(error)
            fault = "no unknown (UNK) piece" if no_unknown else "not a SentencePiece .model file"
            raise UserError(f"{fault}: {HOW_TO_TRAIN}") from None
        if self.eos_id < 0:
            raise UserError(f"no end-of-sentence (EOS) piece: {HOW_TO_TRAIN}")
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.unk_id: int = self.pieces.unk_id()  # of all characters that have no piece
        self.space_id: int = self.pieces.piece_to_id(SPACE)  # a space alone; unk_id if it has no piece

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a .model file. Raises UserError, with the path, if that is impossible or it is not usable."""
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot read this tokenizer: {error.strerror}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without EOS. Raises UserError if it is not Unicode (half a surrogate pair)."""
        if not is_unicode(text):
            raise UserError("the text is not valid Unicode: give it as UTF-8")
        return super().encode(text)

    def encode_after(self, text: str) -> list[int]:
        """The ids of a text that continues another one. No space is put before it."""
        return self.encode(APART + text)[len(self.encode(APART)) :]

    def decode_after(self, ids: list[int], stream: bool = False) -> str:
        """The text that these ids add to a text before them; a new word begins with its space."""
        begins_word = any(piece.startswith(SPACE) for piece in self.spell(ids[:1]))
        return " " * begins_word + self.decode(ids, stream)

    def spell(self, ids: Iterable[SupportsInt]) -> list[str]:
        """The vocabulary's own spelling of each id, with SPACE for a space."""
        return [self.pieces.id_to_piece(i) for i in map(int, ids)]


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8; half a surrogate pair cannot."""
    return text.encode(errors="ignore").decode() == text


def train_tokenizer(
    lines: Iterable[str], vocab_size: int | None, *, stream: bool, seed: int, share: float = 1
) -> Tokenizer:
    """Trains a BPE model as the document does.

    Args:
        lines: the text; it is read once.
        vocab_size: the number of pieces; None: DEFAULT_VOCAB, or as many as the text allows.
        stream: running text, whose characters and spaces are kept as they are. Otherwise characters are
            normalised (SentencePiece's nmt_nfkc) and runs of spaces become one.
        seed: of the random choice of lines.
        share: of the lines that are used; of a very large text a sample is enough.

    Raises UserError if there is no text, or vocab_size is larger or smaller than the text allows.
    """
    rng = np.random.default_rng(seed % 2**63)
    pieces = (piece for line in lines for piece in LINE.findall(line) if not piece.isspace())
    sample = [piece for piece in pieces if share == 1 or rng.random() < share]
    if not sample:
        raise UserError("there is no text to train a tokenizer on: every line is empty")
    # All characters of a small alphabet get a piece: SentencePiece's own 0.9995, meant for alphabets of
    # thousands, would drop the rare letters of a small corpus and so every word that has one.
    coverage = 1.0 if len(set().union(*sample)) <= 256 else 0.9995
    try:
        trained = data.Tokenizer.train(
            sample,
            DEFAULT_VOCAB if vocab_size is None else vocab_size,
            hard_vocab_limit=vocab_size is not None,
            character_coverage=coverage,
            normalization_rule_name="identity" if stream else "nmt_nfkc",
            remove_extra_whitespaces=not stream,
        )
    except RuntimeError as error:
        message = " ".join(str(error).split())
        large = re.search(r"size too high \((\d+)\).*<= (\d+)", message)
        small = re.search(r"required_chars\. (-?\d+) vs (\d+)", message)
        if not (found := large or small):
            raise UserError(f"SentencePiece cannot train on this text: {message}") from None
        fault = "large for this text" if large else "small for the characters of this text"
        advice = f"give --vocab-size {found[2]} or {'less' if large else 'more'}"
        raise UserError(f"vocabulary of {found[1]} is too {fault}: {advice}") from None
    return Tokenizer(trained.model)
