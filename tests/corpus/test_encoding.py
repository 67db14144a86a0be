import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as spm
from corpora import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simple_diffusion_lm.corpus import encoding
from simple_diffusion_lm.corpus import prepare as preparing
from simple_diffusion_lm.corpus.encoding import Encoder, has_independent_words
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.corpus.tokenizer import Tokenizer

PARTS = [f"{part}.{kind}.bin" for part in ("train", "valid") for kind in ("ids", "offsets")]

# Letters and words that are known; spaces of many kinds; what normalising joins, splits, drops or
# turns into spaces; what no vocabulary here knows.
awkward = st.sampled_from([*"aemn 1é.,\t▁漢΅ﬁ½㌀™", "\u00a0", "\u200b", "\u3000", " man", "dog "])
some_lines = st.lists(st.lists(awkward, max_size=15).map("".join), max_size=8)


def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer, lambda number, line: False, stream=False)


def trained(lines: list[str], **settings: object) -> Tokenizer:
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=5,
        **{"model_type": "bpe", "vocab_size": 120, "hard_vocab_limit": False, **settings},
    )  # fmt: skip
    return Tokenizer(model.getvalue())


@pytest.fixture(scope="session")
def tokenizers(tokenizer: Tokenizer, stream_tokenizer: Tokenizer, lines: list[str]):
    """Each, and whether it encodes words apart."""
    return [
        (tokenizer, True),
        (stream_tokenizer, True),
        (trained(lines, byte_fallback=True, vocab_size=380), True),
        (trained(lines, normalization_rule_name="nmt_nfkc_cf"), True),
        (trained(lines, model_type="unigram", vocab_size=60), False),
        (trained(lines, user_defined_symbols=["man▁sits"]), False),
        (trained(lines, split_by_whitespace=False), False),
        (trained(lines, add_dummy_prefix=False), False),
        (trained(lines, treat_whitespace_as_suffix=True), False),
    ]


def test_words_are_encoded_apart_only_where_that_is_sound(tokenizers) -> None:
    assert [has_independent_words(t) for t, _ in tokenizers] == [apart for _, apart in tokenizers]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=some_lines)
def test_lines_by_their_words_are_the_ids_of_whole_lines(
    tokenizers, lines: list[str], extra: list[str]
) -> None:
    for tokenizer, _ in tokenizers:
        encode = encoder(tokenizer).encode
        for some in (lines[:3], extra, extra):  # the last from memory
            decoded = [np.frombuffer(ids, np.uint16).tolist() for ids in encode(some)]
            assert decoded == [tokenizer.encode(line) for line in some]


def test_memory_of_words_is_bounded(
    tokenizer: Tokenizer, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoder(tokenizer).encode(lines)
    monkeypatch.setattr(encoding, "WORDS", 5)
    monkeypatch.setattr(encoding, "WORD_CHARACTERS", 4)
    bounded = encoder(tokenizer)
    assert bounded.encode(lines) == whole
    assert 0 < len(bounded.words) <= 5
    assert max(map(len, bounded.words)) <= 4


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=some_lines, stream=st.booleans(), size=st.integers(1, 300))
def test_any_number_of_workers_and_any_chunks_write_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    model: Path,
    lines: list[str],
    extra: list[str],
    stream: bool,
    size: int,
) -> None:
    tmp = tmp_path_factory.mktemp("workers")
    file = write(tmp / "c.txt", [*lines, *extra, "", *lines[:5]])

    def written(workers: int, characters: int) -> list[object]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "cores", lambda: workers)
            patch.setattr(preparing, "PARALLEL_CHARACTERS", 0)
            patch.setattr(preparing, "CHUNK_CHARACTERS", characters)
            out = tmp / f"{workers}-{characters}"
            prepared = prepare([file], out, tokenizer=model, stream=stream, quiet=True)
        return [prepared.meta, *((out / name).read_bytes() for name in PARTS)]

    whole = written(1, 10**6)
    assert written(1, size) == whole
    assert written(2, size) == whole
    assert written(3, 100) == whole
