import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as spm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion_lm.corpus import tokenizer as module
from simple_diffusion_lm.corpus.tokenizer import Tokenizer, train_tokenizer
from simple_diffusion_lm.errors import UserError

ALPHABET = "adeghimnoprstuw 0123456789.é"
in_alphabet = st.text(ALPHABET, max_size=40)


def other_model(lines: list[str], **options: int) -> bytes:
    """A model that was not trained by this package."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=100,
        model_type="bpe",
        minloglevel=5,
        **options,
    )
    return model.getvalue()


def test_the_specials_are_where_the_document_puts_them(tokenizer: Tokenizer) -> None:
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 2, 3)
    assert tokenizer.special_ids == [0, 1, 2, 3]
    assert len(tokenizer.fingerprint) == 64


def test_digits_are_pieces_of_their_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.spell(tokenizer.encode("a 2034")) == ["▁a", "▁", "2", "0", "3", "4"]


@settings(max_examples=200)
@given(text=in_alphabet)
def test_lines_come_back_with_their_spaces_normalised(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_ids)
    assert tokenizer.decode(ids) == " ".join(text.split())


@settings(max_examples=200)
@given(lines=st.lists(in_alphabet, min_size=1, max_size=5))
def test_running_text_comes_back_exactly(stream_tokenizer: Tokenizer, lines: list[str]) -> None:
    stream = [i for line in lines for i in (*stream_tokenizer.encode(line), stream_tokenizer.eos_id)]
    assert stream_tokenizer.decode(stream[:-1], stream=True) == "\n".join(lines)


def test_decoding_ends_at_eos_and_leaves_out_specials(tokenizer: Tokenizer) -> None:
    man, runs = tokenizer.encode("a man"), tokenizer.encode("runs")
    bos, eos, pad, unk = range(4)
    assert tokenizer.decode([bos, *man, unk, pad, *runs, eos, *man]) == "a man runs"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([*man, eos, eos, *runs, eos], stream=True) == "a man\n\nruns\n"


def test_ids_may_be_arrays(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a man")
    for array in (np.array(ids, np.uint16), torch.tensor(ids)):
        assert tokenizer.decode(array) == tokenizer.decode(array, stream=True) == "a man"
        assert tokenizer.spell(array) == ["▁a", "▁man"]


def test_a_model_is_loaded_as_it_was_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer.model)
    assert Tokenizer.load(path).fingerprint == tokenizer.fingerprint


def test_a_model_without_padding_is_filled_with_eos(lines: list[str]) -> None:
    tokenizer = Tokenizer(other_model(lines))
    assert tokenizer.pad_id == tokenizer.eos_id == 2


def test_unusable_models_are_refused_in_a_line(lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no end-of-sentence \(EOS\) piece: give another"):
        Tokenizer(other_model(lines, eos_id=-1))
    for garbage in (b"", b"garbage"):
        path = tmp_path / "x.model"
        path.write_bytes(garbage)
        with pytest.raises(UserError, match=r"x\.model: not a SentencePiece \.model file: give"):
            Tokenizer.load(path)
    with pytest.raises(UserError, match=r"missing\.model: cannot read this tokenizer: No such"):
        Tokenizer.load(tmp_path / "missing.model")
    with pytest.raises(UserError, match="cannot read this tokenizer: Is a directory"):
        Tokenizer.load(tmp_path)


def test_half_a_surrogate_pair_is_not_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="not valid Unicode"):
        tokenizer.encode("a \udcff")


def test_the_vocabulary_is_capped_to_what_the_text_allows(lines: list[str]) -> None:
    capped = train_tokenizer(lines, None, stream=False, seed=0)
    assert 40 < len(capped) < module.DEFAULT_VOCAB
    assert len(train_tokenizer(lines, 60, stream=False, seed=0)) == 60
    with pytest.raises(UserError, match=rf"5000 is too large .* --vocab-size {len(capped)} or less$"):
        train_tokenizer(lines, 5000, stream=False, seed=0)
    with pytest.raises(UserError, match=r"20 is too small .* give --vocab-size \d+ or more$"):
        train_tokenizer(lines, 20, stream=False, seed=0)
    for size in (0, -1):
        with pytest.raises(UserError):
            train_tokenizer(lines, size, stream=False, seed=0)


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_no_text_trains_no_tokenizer(lines: list[str]) -> None:
    with pytest.raises(UserError, match="no text to train a tokenizer on"):
        train_tokenizer(lines, None, stream=False, seed=0)


def test_a_very_large_text_is_sampled_evenly(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{i:05}" for i in range(10_000)]
    samples: list[list[str]] = []
    record = lambda sample, *_, **__: samples.append(sample) or tokenizer  # noqa: E731
    monkeypatch.setattr(module.data.Tokenizer, "train", record)
    for seed, share in ((0, 0.1), (0, 0.1), (1, 0.1), (0, 1)):
        train_tokenizer(lines, None, stream=False, seed=seed, share=share)
    first, again, other, whole = samples
    assert first == again != other
    assert 900 < len(first) < 1100
    assert first == sorted(set(first))
    assert whole == lines
    thirds = [sum(low <= int(line) < low + 3334 for line in first) for low in (0, 3334, 6668)]
    assert min(thirds) > 0.7 * max(thirds)


def test_a_line_of_any_length_is_trained_on(lines: list[str]) -> None:
    text = " ".join(lines * 20)
    assert len(text.encode()) > 50_000
    tokenizer = train_tokenizer([text], None, stream=False, seed=0)
    assert "▁women" in tokenizer.spell(range(len(tokenizer)))
