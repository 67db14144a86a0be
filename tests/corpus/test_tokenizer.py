import ast
import inspect
import io
import random
import re
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as spm
import torch
from hypothesis import given, settings, strategies as st
from json_tokenizers import gpt2, llama

from simple_diffusion_lm.corpus import tokenizer as module
from simple_diffusion_lm.corpus.tokenizer import Tokenizer, train_tokenizer
from simple_diffusion_lm.errors import UserError

ALPHABET = "adeghimnoprstuw \t0123456789.é▁，ﾒ"
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
    assert (tokenizer.border_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.pieces.unk_id()) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.special_ids == [0, 1, 2, 3]
    assert len(tokenizer.fingerprint) == 64


def test_digits_are_pieces_of_their_own(tokenizer: Tokenizer) -> None:
    assert tokenizer.spell(tokenizer.encode("a 2034")) == [" a", " ", "2", "0", "3", "4"]


KINDS = ("bpe", "chars", "large", "bytes", "gpt2", "llama")
ANY_TEXT = ("large", "bytes", "gpt2")  # of these kinds: they spell in bytes what has no piece


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, lines: list[str]) -> tuple[str, Tokenizer]:
    """A tokenizer of each kind, trained on the same lines; `large` is BPE on an alphabet of thousands."""
    name = request.param
    if name in ("gpt2", "llama"):
        pytest.importorskip("tokenizers")
        return name, Tokenizer({"gpt2": gpt2, "llama": llama}[name]([*lines, ALPHABET]))
    others = "".join(map(chr, range(0x4E00, 0x5000))) if name == "large" else ""
    return name, train_tokenizer([*lines, ALPHABET, others], None, stream=False, seed=0, kind=name)


def alphabet_of(kind: str) -> str:
    """What it was trained on; Llama's own space is no character to it."""
    return ALPHABET.replace("▁", "") if kind == "llama" else ALPHABET


any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufdd0"), max_size=20)
texts = st.one_of(in_alphabet, any_text, st.text("漢字カナｱ，ไทยน้ำ½é▁\t \n<>s|/endoftx", max_size=20))


@settings(max_examples=300)
@given(text=texts)
def test_what_is_encoded_comes_back_as_it_was(kind: tuple[str, Tokenizer], text: str) -> None:
    """Any text of its alphabet, or of any; what would not is refused where a user types it."""
    name, tokenizer = kind
    for stream in (False, True):
        if name in ANY_TEXT or set(text) <= {*alphabet_of(name), *"\n" * stream}:
            tokenizer.check(text, stream)
            ids = tokenizer.encode(text, stream)
            assert tokenizer.decode(ids, stream) == text
            assert not {*ids} - {tokenizer.eos_id} & {*tokenizer.special_ids}
            if not stream and module.BROKEN not in text:
                assert "".join(tokenizer.spell(ids)) == (f" {text}" if text else "")
        else:
            try:
                tokenizer.check(text, stream)
            except UserError as refusal:
                (lost,) = re.findall(r": the tokenizer has no piece for (.+): write", str(refusal))
                assert ast.literal_eval(lost) in text
            else:
                assert tokenizer.decode(tokenizer.encode(text, stream), stream) == text


@settings(max_examples=200)
@given(before=in_alphabet, after=texts)
def test_a_text_after_another_has_no_space_of_its_own(
    kind: tuple[str, Tokenizer], before: str, after: str
) -> None:
    name, tokenizer = kind
    if name in ANY_TEXT or set(before + after) <= {*alphabet_of(name), "\n"}:
        added = tokenizer.encode_after(after, stream=True)
        ids = tokenizer.encode(f"a{before}", stream=True) + added
        assert tokenizer.decode(ids, stream=True) == f"a{before}{after}"
        assert tokenizer.decode_after(added, stream=True) == after


def test_a_tokenizer_that_folds_spaces_has_pieces_that_begin_with_one(folding: Path) -> None:
    tokenizer = Tokenizer.load(folding)
    assert tokenizer.spell(tokenizer.encode("a  man 2")) == [" a", " man", " ", "2"]
    assert tokenizer.decode_after(tokenizer.encode_after(" 2")) == " 2"


def test_what_looks_like_a_special_token_is_text(kind: tuple[str, Tokenizer]) -> None:
    _, tokenizer = kind
    for text in ("<|endoftext|>", "</s>", "<unk>", "<pad>"):
        unknown = {tokenizer.pieces.unk_id()}
        assert set(tokenizer.encode(text)) - unknown <= set(range(len(tokenizer))) - {*tokenizer.special_ids}


OWN_SPECIALS = ("<|endoftext|>", "<unk>", "<s>", "</s>", "<pad>")


def test_ids_of_no_text_are_told_apart(kind: tuple[str, Tokenizer], lines: list[str]) -> None:
    """BOS, EOS and padding are there, whatever the file has, and no text has them."""
    _, tokenizer = kind
    used = {i for line in lines for i in tokenizer.encode(line)}
    assert {tokenizer.border_id, tokenizer.eos_id, tokenizer.pad_id} <= set(tokenizer.special_ids)
    assert used.isdisjoint(tokenizer.special_ids)
    assert max(used) < len(tokenizer)
    assert all(i in tokenizer.special_ids for i, text in enumerate(tokenizer.texts) if text in OWN_SPECIALS)
    assert tokenizer.border_id != tokenizer.eos_id
    parts = [text for text in tokenizer.texts if module.BROKEN in text]
    assert len(set(parts)) == len(parts)  # bytes can be told from each other where they are shown


def test_indentation_is_of_few_pieces() -> None:
    code = [line for line in inspect.getsource(inspect).split("\n") if line.strip()]
    tokenizer = train_tokenizer(code, None, stream=True, seed=0)
    ids = [tokenizer.encode(line) for line in code]
    assert [tokenizer.decode(line) for line in ids] == code
    spaces = sum(text == " " for line in ids for text in tokenizer.spell(line))
    assert spaces < 0.05 * sum(map(len, ids))
    assert " " * 8 in tokenizer.texts


def test_short_lines_are_of_several_pieces() -> None:
    """A name that is one piece could only be copied. Longer lists would fill a vocabulary of thousands."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    for count in (200, 20_000):
        names = ["".join(rng.choice(syllables, rng.integers(2, 5))) for _ in range(count)]
        tokenizer = train_tokenizer(names, None, stream=False, seed=0)
        lengths = [len(tokenizer.encode(name)) for name in names]
        assert np.mean(lengths) >= 4
        assert np.mean(np.array(lengths) == 1) < 0.02


def test_letters_of_a_large_alphabet_have_pieces_or_bytes() -> None:
    """The default fits it, however large."""
    rng = np.random.default_rng(0)
    letters = [chr(0x4E00 + i) for i in range(6000)]
    shares = 1 / np.arange(10, 6010)
    lines = ["".join(rng.choice(letters, 20, p=shares / shares.sum())) for _ in range(3000)]
    tokenizer = train_tokenizer(lines, None, stream=False, seed=0)
    assert [tokenizer.decode(tokenizer.encode(line)) for line in lines] == lines
    assert tokenizer.decode(tokenizer.encode("🐈‍⬛")) == "🐈‍⬛"


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
        assert tokenizer.spell(array) == [" a", " man"]


def test_a_model_is_loaded_as_it_was_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / tokenizer.name
    path.write_bytes(tokenizer.model)
    assert path.name == "tokenizer.model"
    for where in (path, tmp_path, str(tmp_path)):  # a file, or the directory it is in
        assert Tokenizer.load(where).fingerprint == tokenizer.fingerprint


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
    for garbage in (b"{", b"{}", b'{"model": {}}', b'{"model": 3}'):
        pytest.importorskip("tokenizers")
        path.write_bytes(garbage)
        with pytest.raises(UserError, match=r"x\.model: not a tokenizer\.json that tokenizers can read"):
            Tokenizer.load(path)
    with pytest.raises(
        UserError, match=r"missing\.model: no tokenizer \(bpe, chars, bytes, a file\): No such"
    ):
        Tokenizer.load(tmp_path / "missing.model")
    with pytest.raises(UserError, match=r"no tokenizer \(.*\): Is a directory"):
        Tokenizer.load(tmp_path)


def test_half_a_surrogate_pair_is_not_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="not valid Unicode"):
        tokenizer.encode("a \udcff")


def test_the_vocabulary_is_capped_to_what_the_text_allows(lines: list[str]) -> None:
    capped = train_tokenizer(lines, None, stream=False, seed=0)
    assert 40 < len(capped) <= len("".join(lines)) / module.OFTEN
    words = ["".join(random.Random(i).sample(ALPHABET[:17], 7)) for i in range(600)]
    assert len(train_tokenizer([" ".join(words)], None, stream=True, seed=0)) <= 600 * 8 / module.OFTEN
    with pytest.raises(UserError, match=r"5000 does not fit .* --vocab-size \d+ or less$") as most:
        train_tokenizer(lines, 5000, stream=False, seed=0)
    with pytest.raises(UserError, match=r"20 does not fit .* give --vocab-size \d+ or more$") as fewest:
        train_tokenizer(lines, 20, stream=False, seed=0)
    for told in (most, fewest):  # what is advised can be done
        size = int(re.findall(r"size (\d+)", str(told.value))[0])
        assert len(train_tokenizer(lines, size, stream=False, seed=0)) == size
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
    record = lambda sample, *_, **__: samples.append(list(sample)) or tokenizer  # noqa: E731
    monkeypatch.setattr(module.data.Tokenizer, "train", record)
    for seed, share in ((0, 0.1), (0, 0.1), (1, 0.1), (0, 1)):
        train_tokenizer(lines, None, stream=True, seed=seed, share=share)
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
    assert " women" in tokenizer.texts
