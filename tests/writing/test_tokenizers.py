"""From own text to text, with every tokenizer, in scripts with spaces and without."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from json_tokenizers import gpt2, llama
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.generate import Sampling
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.corpus.tokenizer import BROKEN
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.writing.model import DiffusionLM
from simple_diffusion_lm.writing.templates import Gap
from simple_diffusion_lm.writing.watching import Onlooker

ENGLISH = [f"the {a} {b} {c} ." for a in ("old", "grey") for b in ("dog", "hotdog") for c in ("ran", "sat")]
CHINESE = [f"{a}{b}在{c}。" for a in "黑白小" for b in "猫狗人" for c in ("家里睡觉", "公园", "Python 上写")]
THAI = [f"{a}{b}น้ำ" for a in ("แมว", "หมา", "คน") for b in ("ดื่ม", "ชอบ", "เห็น")]
STEPS = {"steps": 3, "seed": 4}


@pytest.fixture(scope="module", params=["bpe", "chars", "bytes", "gpt2", "llama"])
def model(request, tmp_path_factory):
    """A run of two steps on lines of several scripts, moved away from all that it was made from."""
    place, lines = tmp_path_factory.mktemp(request.param), [*ENGLISH, *CHINESE, *THAI] * 3
    (place / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = request.param
    if tokenizer in ("gpt2", "llama"):
        pytest.importorskip("tokenizers")
        made = {"gpt2": gpt2, "llama": llama}[tokenizer](lines)
        tokenizer = place / "tokenizer.json"
        tokenizer.write_bytes(made)
    data = prepare([place / "text.txt"], place / "corpus", tokenizer=tokenizer, quiet=True)
    assert data.meta["parts"]["train"]["changed"] == data.meta["parts"]["valid"]["changed"] == 0
    run_training(small(Config(), steps=2, samples=2, crop=96), data, place / "made" / "run", quiet=True)
    run = shutil.move(place / "made" / "run", tmp_path_factory.mktemp("moved"))
    assert (Path(run) / data.tokenizer.name).exists()
    assert data.tokenizer.name.endswith(".json") == (request.param in ("gpt2", "llama"))
    shutil.rmtree(place)
    return DiffusionLM.from_pretrained(run)


def test_words_of_any_script_are_in_every_text_or_in_none(model):
    for must, never in ((["dog", "old"], ["the", "sat"]), (["猫"], ["狗", "睡觉"]), (["น้ำ", "หมา"], ["แมว"])):
        options = {"length": "12-30", "candidates": 2, "never": never, **STEPS}
        for text in model.generate(3, must=must, **options):
            if must[0] == "dog":  # a word, not a part of one
                assert {*must} <= {*text.split(" ")}
                assert not {*never} & {*text.lower().split(" ")}
            else:
                assert all(word in text for word in must)
                assert not any(word in text for word in never)


def test_a_word_stands_between_others_as_its_script_has_it(model):
    """Spaces around dog; none that nobody wrote around 猫, which is given whole."""
    encoded, _ = model.choose_lengths(model.request(must=["猫"]), np.random.default_rng(0), 0.5)
    assert encoded.template.texts == ("", "猫", "")
    assert model.tokenizer.decode_after(encoded.given[1]) == "猫"
    encoded, _ = model.choose_lengths(model.request(must=["dog"]), np.random.default_rng(0), 0.5)
    assert model.tokenizer.decode_after(encoded.given[1]) == " dog"


def test_gaps_are_filled_in_text_that_comes_back_as_typed(model):
    templates = ["the ___ dog [[2]] .", "the do___", "黑___在[[3]]。", "___น้ำ", "the  old[[1]] ."]
    around = [("the ", " dog ", " ."), ("the do", "", ""), ("黑", "在", "。"), ("", "", "น้ำ")]
    filled = model.infill(templates, candidates=2, **STEPS)
    for text, (start, middle, end) in zip(filled, [*around, ("the  old", "", " .")], strict=True):
        assert text.startswith(start)
        assert text.endswith(end)
        assert middle in text[len(start) :]
    assert filled[1][6:7] != " "  # a word that has begun goes on


@pytest.mark.parametrize("before", ["the ", "the"])
def test_a_gap_of_five_characters_has_five(model, before):
    """With tokens that are characters, a space before a gap is given, not the first of them."""
    alone = model.tokenizer.has_spaces_alone
    assert alone == all(text[:1] != " " for text in model.tokenizer.texts if text.strip())
    filled = model.infill([f"{before}[[5]] ."], candidates=1, **STEPS)[0]
    if alone and len(model.tokenizer) < 100:  # characters; of bytes one may be a part of a character
        assert len(filled) == len(before) + 5 + 2
        assert filled[len(before)] != " "


@pytest.mark.parametrize("length", [1, 7])
def test_a_length_is_in_tokens(model, length):
    (line,) = model.write([model.request(Gap(length, length))], 1, (), 0, Sampling(2))
    assert line.widths == [length]


def test_what_is_watched_is_what_is_written(model):
    """Whole characters, whatever number of tokens they are of, and each with its probability."""
    frames, texts, onlooker = {}, [*ENGLISH[:1], *CHINESE[:2], *THAI[:1]], Onlooker(model)

    def watch(batch, frame):
        frames.update(onlooker(batch, frame))

    filled = model.infill([f"{text}[[2]]" for text in texts], candidates=1, watch=watch, **STEPS)
    for number, (text, line) in enumerate(zip(texts, filled, strict=True)):
        shown = "".join(token.text for token in frames[number])
        assert shown.strip().startswith(text)
        if BROKEN not in shown + line:
            assert shown.strip() == line.strip()
        assert all(token.probability > 0 for token in frames[number])


def test_texts_are_varied_and_scored(model):
    texts = [ENGLISH[0], CHINESE[0], THAI[0]]
    for text, varied in zip(texts, model.vary(texts, 1e-6, **STEPS), strict=True):
        # The model is small: letters used alike stand so close that one may turn into the other.
        assert len(varied) == len(text)
        assert sum(a != b for a, b in zip(text, varied, strict=True)) <= 1
    assert all(nats > 0 for nats in model.score(texts))
