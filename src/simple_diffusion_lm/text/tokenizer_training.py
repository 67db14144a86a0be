"""Trains a tokenizer on a text."""

import io
import re
from collections.abc import Iterable, Iterator

import numpy as np
import sentencepiece as spm

from ..errors import UserError
from .tokenizer import Tokenizer

DEFAULT_VOCAB = 4096

# What a tokenizer is trained on, at most: past this a larger sample changes few merges.
SAMPLE_LINES = 500_000
SAMPLE_CHARACTERS = 50_000_000
# SentencePiece skips lines of more than 4192 bytes; a character is at most 4 bytes.
LINE_CHARACTERS = 1_000
SMALL_ALPHABET = 256  # characters


def train_tokenizer(
    lines: Iterable[str], vocab_size: int | None, *, stream: bool, seed: int
) -> Tokenizer:
    """Trains a BPE model as the document does, on a sample where the text is very large.

    Args:
        lines: the text; read once.
        vocab_size: the number of pieces; None: DEFAULT_VOCAB, or as many as the text allows.
        stream: running text, whose characters and spaces are kept as they are. Otherwise they
            are normalised (SentencePiece's nmt_nfkc) and runs of spaces become one.
        seed: of the sample.

    Raises:
        UserError: there is no text, or vocab_size is larger or smaller than the text allows.
    """
    sample = _sample_lines(lines, np.random.default_rng(seed % 2**63))
    if not sample:
        raise UserError("there is no text to train a tokenizer on: every line is empty")
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="bpe",
            vocab_size=DEFAULT_VOCAB if vocab_size is None else vocab_size,
            hard_vocab_limit=vocab_size is not None,
            user_defined_symbols=[str(digit) for digit in range(10)],
            bos_id=0,
            eos_id=1,
            pad_id=2,
            unk_id=3,
            character_coverage=_coverage(sample),
            normalization_rule_name="identity" if stream else "nmt_nfkc",
            remove_extra_whitespaces=not stream,
            minloglevel=5,
        )
    except RuntimeError as error:
        raise _training_error(str(error)) from None
    return Tokenizer(model.getvalue())


def _sample_lines(lines: Iterable[str], rng: np.random.Generator) -> list[str]:
    """All pieces of text, or a random share of them: halved whenever it outgrows the bounds."""
    kept: list[str] = []
    characters, share = 0, 1.0
    for piece in _pieces_of_text(lines):
        if share < 1 and rng.random() >= share:
            continue
        kept.append(piece)
        characters += len(piece)
        while len(kept) > SAMPLE_LINES or characters > SAMPLE_CHARACTERS:
            stays = rng.random(len(kept)) < 0.5
            kept = [kept[i] for i in np.flatnonzero(stays)]
            characters = sum(map(len, kept))
            share /= 2
    return kept


def _coverage(sample: list[str]) -> float:
    """The share of characters that get a piece: all of a small alphabet, so none is unknown.

    SentencePiece's own 0.9995 would drop the rare letters of a small corpus, and with them every
    word that has one; it is meant for alphabets of thousands, and kept for those.
    """
    return 1.0 if len(set().union(*sample)) <= SMALL_ALPHABET else 0.9995


def _pieces_of_text(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        for start in range(0, len(line), LINE_CHARACTERS):
            piece = line[start : start + LINE_CHARACTERS]
            if not piece.isspace():
                yield piece


def _training_error(message: str) -> UserError:
    """SentencePiece's failure, as something to do."""
    if too_large := re.search(r"size too high \((\d+)\).*<= (\d+)", message):
        asked, largest = too_large.groups()
        return UserError(
            f"vocabulary of {asked} is too large for this text: give --vocab-size {largest} or less"
        )
    if too_small := re.search(r"required_chars\. (-?\d+) vs (\d+)", message):
        asked, smallest = too_small.groups()
        return UserError(
            f"vocabulary of {asked} is too small for the characters of this text: "
            f"give --vocab-size {smallest} or more"
        )
    return UserError(f"SentencePiece cannot train on this text: {' '.join(message.split())}")
