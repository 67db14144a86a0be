"""Words to ids and back: a SentencePiece model."""

import hashlib
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import numpy as np
import sentencepiece as spm
from jaxtyping import Integer
from torch import Tensor

from ..errors import UserError

SPACE = "▁"  # as pieces spell it
APART = "\ue000"  # a character that no piece has: it keeps what follows from what stands before

HOW_TO_TRAIN = "give another, or train one with bos_id=0, eos_id=1, pad_id=2, unk_id=3"

Ids = Iterable[int] | Integer[np.ndarray, " L"] | Integer[Tensor, " L"]


class Tokenizer:
    """A SentencePiece model.

    Args:
        model: the serialised model, the bytes of a .model file.

    Attributes:
        model: those bytes.
        fingerprint: their SHA-256, in hexadecimal.
        bos_id, eos_id, pad_id, unk_id: the specials; bos_id is -1 where the model has none.
        space_id: the piece that is a space alone.

    Raises:
        UserError: these bytes are no SentencePiece model, or it has no EOS or unknown piece.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._sp = spm.SentencePieceProcessor()
        try:
            self._sp.LoadFromSerializedProto(model)
        except RuntimeError as error:
            no_unknown = model and "unk is not defined" in str(error)
            fault = "no unknown (UNK) piece" if no_unknown else "not a SentencePiece .model file"
            raise UserError(f"{fault}: {HOW_TO_TRAIN}") from None
        self.bos_id: int = self._sp.bos_id()
        self.eos_id: int = self._sp.eos_id()
        self.unk_id: int = self._sp.unk_id()
        if self.eos_id < 0:
            raise UserError(f"no end-of-sentence (EOS) piece: {HOW_TO_TRAIN}")
        self.space_id: int = self._sp.piece_to_id(SPACE)  # unk_id where there is none
        # SentencePiece's own default is a model without padding. Padding is always masked, so
        # that any id can fill it.
        self.pad_id: int = self._sp.pad_id() if self._sp.pad_id() >= 0 else self.eos_id

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a .model file.

        Raises:
            UserError: the file is missing, unreadable or not a usable model; names the path.
        """
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot read this tokenizer: {error.strerror}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self.model,)

    def __len__(self) -> int:
        """The size of the vocabulary, V."""
        return self._sp.get_piece_size()

    @property
    def special_ids(self) -> list[int]:
        """The ids that never are text: BOS, EOS, padding, unknown, other control pieces."""
        return [i for i in range(len(self)) if self._sp.is_control(i) or self._sp.is_unknown(i)]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without EOS.

        Raises:
            UserError: the text is not valid Unicode (half a surrogate pair).
        """
        return self._sp.encode(_checked(text))

    def encode_after(self, text: str) -> list[int]:
        """The ids of a text that goes on after another, as it is: no space is put before it."""
        return self.encode(APART + text)[len(self.encode(APART)) :]

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """The ids of each line, without EOS. Raises as `encode`."""
        return self._sp.encode([_checked(line) for line in lines], num_threads=1)

    def normalize(self, lines: list[str]) -> list[str]:
        """Lines as they are before they are cut into pieces, with SPACE for a space."""
        return self._sp.normalize(lines)

    def encodes_words_apart(self) -> bool:
        """Whether the pieces of a word never depend on the words around it.

        So it is where a word begins with its space, no piece goes on past one, and scores are
        whole numbers, BPE's ranks. Sums of other scores round differently in a longer text.
        """
        begins = self.normalize(["a a"]) == [f"{SPACE}a{SPACE}a"] and self.space_id != self.unk_id
        ends = not any(
            SPACE in piece[1:] or " " in piece for piece in self.pieces(range(len(self)))
        )
        return begins and ends and all(self._sp.get_score(i).is_integer() for i in range(len(self)))

    def sample(self, text: str, alpha: float, seed: int) -> list[int]:
        """The ids of a random segmentation of the text, without EOS; the same for the same seed.

        BPE-dropout, https://arxiv.org/abs/1910.13267: each merge is left out with probability
        alpha, in [0, 1]. Raises as `encode`.
        """
        _checked(text)
        spm.set_random_generator_seed(seed)
        return self._sp.encode(text, enable_sampling=True, alpha=alpha, nbest_size=-1)

    def decode(self, ids: Ids) -> str:
        """The text up to the first EOS, specials left out."""
        text_ids = takewhile(lambda i: i != self.eos_id, map(int, ids))
        return self._sp.decode([i for i in text_ids if i != self.unk_id])

    def decode_after(self, ids: list[int], *, stream: bool) -> str:
        """The text that ids add after another: that of a new word begins with its space."""
        text = self.decode_stream(ids) if stream else self.decode(ids)
        begins_word = any(piece.startswith(SPACE) for piece in self.pieces(ids[:1]))
        return " " + text if begins_word else text

    def decode_stream(self, ids: Ids) -> str:
        """Running text: every EOS is the end of a line."""
        lines: list[list[int]] = [[]]
        for i in map(int, ids):
            if i == self.eos_id:
                lines.append([])
            else:
                lines[-1].append(i)
        return "\n".join(self.decode(line) for line in lines)

    def pieces(self, ids: Ids) -> list[str]:
        """The vocabulary's own spelling of each id, ▁ for a space."""
        return [self._sp.id_to_piece(i) for i in map(int, ids)]


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8; half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(text: str) -> str:
    if not is_unicode(text):
        raise UserError("the text is not valid Unicode: give it as UTF-8")
    return text
