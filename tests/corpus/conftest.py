import itertools
from pathlib import Path

import pytest

from simple_diffusion_lm.core import data
from simple_diffusion_lm.corpus.tokenizer import Tokenizer, train_tokenizer

SUBJECTS = ("a man", "two women", "the old dog", "3 children", "a red fox", "my sister")
VERBS = ("runs", "sits", "is waiting", "looks up", "sings")
PLACES = ("by the river .", "in 1 of 20 cafés .", "on a bench , alone .", "at home .", "near us !")


@pytest.fixture(scope="session")
def lines() -> list[str]:
    """150 different lines."""
    return [" ".join(words) for words in itertools.product(SUBJECTS, VERBS, PLACES)]


@pytest.fixture(scope="session")
def tokenizer(lines: list[str]) -> Tokenizer:
    return train_tokenizer(lines, None, stream=False, seed=0)


@pytest.fixture(scope="session")
def stream_tokenizer(lines: list[str]) -> Tokenizer:
    return train_tokenizer([*lines, "  indented\tand  spaced"], None, stream=True, seed=0)


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    path = tmp_path / "given.model"
    path.write_bytes(tokenizer.model)
    return path


@pytest.fixture
def folding(lines: list[str], tmp_path: Path) -> Path:
    """A tokenizer from elsewhere, which normalises characters and spaces (nmt_nfkc)."""
    path = tmp_path / "folding.model"
    path.write_bytes(data.Tokenizer.train(lines, 200, hard_vocab_limit=False).model)
    return path


@pytest.fixture
def corpus(tmp_path: Path, lines: list[str]) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
