"""Completions as OpenAI's own client asks for them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from servers import serving

from simple_diffusion_lm.serving.answers import Model
from simple_diffusion_lm.serving.app import make_app

if TYPE_CHECKING:
    from openai import OpenAI

openai = pytest.importorskip("openai")
FEW: dict[str, Any] = {"extra_body": {"steps": 4}}
LINE = ("yesterday the ", " slept .")


@pytest.fixture(scope="module")
def ai(address: str) -> "OpenAI":
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def texts(answer: Any) -> list[str]:
    return [choice.text for choice in answer.choices]


def test_the_model_is_listed(ai: "OpenAI", toy_run: Path) -> None:
    (model,) = ai.models.list()
    assert (model.id, model.object) == (toy_run.name, "model")
    assert 0 <= time.time() - model.created < 3600
    assert ai.completions.create(model=model.id, prompt="", **FEW).model == model.id


def test_a_completion_is_what_infill_puts_into_the_gap(ai: "OpenAI", client: httpx.Client) -> None:
    before, after = LINE
    answer = ai.completions.create(model="mine", prompt=before, suffix=after, n=3, seed=5, **FEW)
    asked = {"templates": [f"{before}___{after}"] * 3, "seed": 5, "steps": 4}
    lines = client.post("/v1/infill", json=asked).json()["lines"]
    assert texts(answer) == [line["fills"][0] for line in lines]
    assert [before + text + after for text in texts(answer)] == [line["text"] for line in lines]
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", "mine", "cmpl-")
    assert [(c.index, c.finish_reason) for c in answer.choices] == [(n, "stop") for n in range(3)]


def test_without_text_it_is_what_generate_writes(ai: "OpenAI", client: httpx.Client) -> None:
    answer = ai.completions.create(model="", prompt="", n=2, seed=5, **FEW)
    asked = {"count": 2, "candidates": 8, "seed": 5, "steps": 4}
    lines = client.post("/v1/generate", json=asked).json()["lines"]
    assert texts(answer) == [line["text"] for line in lines]


def test_marks_of_templates_are_text_in_a_prompt(ai: "OpenAI", client: httpx.Client) -> None:
    answer = ai.completions.create(model="", prompt="a [[3]] ___ b ", seed=5, **FEW)
    asked = {"templates": ["a \\[[3]] \\___ b ___"], "seed": 5, "steps": 4}
    lines = client.post("/v1/infill", json=asked).json()["lines"]
    assert texts(answer) == [line["fills"][0] for line in lines]


def test_tokens_are_counted_and_limited(ai: "OpenAI", client: httpx.Client, served: Model) -> None:
    prompts = ["yesterday the ", "every morning the old woman feeds her "]
    few = {"candidates": 1, "steps": 4}
    answer = ai.completions.create(model="", prompt=prompts, max_tokens=2, n=8, seed=1, extra_body=few)
    asked = {"templates": [f"{prompt}[[1-2]]" for prompt in prompts for _ in range(8)], "seed": 1, **few}
    widths = [line["widths"] for line in client.post("/v1/infill", json=asked).json()["lines"]]
    reasons = ["length" if width == [2] else "stop" for width in widths]
    assert [choice.finish_reason for choice in answer.choices] == reasons
    assert set(reasons) == {"stop", "length"}

    def count(*some: str) -> int:
        return sum(len(served.lm.tokenizer.encode(text)) for text in some)

    usage = answer.usage
    assert usage.prompt_tokens == count(*prompts)
    assert usage.completion_tokens == count(*texts(answer))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_without_a_seed_the_texts_are_others_each_time(ai: "OpenAI") -> None:
    found = {texts(ai.completions.create(model="", prompt="", **FEW))[0] for _ in range(4)}
    assert len(found) > 1


def test_what_changes_nothing_is_accepted(ai: "OpenAI") -> None:
    plain = ai.completions.create(model="", prompt="the ", seed=1, **FEW)
    nothing: dict[str, Any] = {"best_of": 1, "echo": False, "frequency_penalty": 0.0, "logit_bias": None}
    nothing |= {"logprobs": None, "presence_penalty": 0, "stop": None, "stream": False, "top_p": 1.0}
    answer = ai.completions.create(model="", prompt="the ", seed=1, user="me", **nothing, **FEW)
    assert texts(answer) == texts(plain)


def test_of_a_small_top_p_only_what_is_most_probable_is_left(ai: "OpenAI") -> None:
    """In each pass: what that is depends on the noise too."""
    asked = {"model": "", "prompt": "the ", "max_tokens": 1, **FEW, "temperature": 2.0}
    found = [
        {texts(ai.completions.create(seed=seed, top_p=top_p, **asked))[0] for seed in range(12)}
        for top_p in (0.001, 1.0)
    ]
    assert len(found[0]) < len(found[1])


def test_the_key_is_the_token(toy_run: Path) -> None:
    with serving(make_app(Model(toy_run), token="secret")) as address:
        mine, other = (openai.OpenAI(base_url=f"{address}/v1", api_key=key) for key in ("secret", "other"))
        assert mine.completions.create(model="", prompt="", **FEW).choices
        with pytest.raises(openai.AuthenticationError, match="token"):
            other.completions.create(model="", prompt="", **FEW)


def test_limits_of_numbers_are_described(client: httpx.Client) -> None:
    about = client.get("/openapi.json").json()["components"]["schemas"]["Completion"]["properties"]
    assert about["max_tokens"]["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert about["best_of"]["anyOf"][0] == {"type": "number", "minimum": 1, "maximum": 1}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"stop": "."}, "stop"),
        ({"echo": True}, "echo"),
        ({"best_of": 4}, "best_of"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"stream": True}, "stream"),
        ({"temperature": 0}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"frequency_penalty": False}, "frequency_penalty"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": "the " * 400}, "tokens"),
        ({"prompt": "the " * 900}, "prompt"),
        ({"n": 32, "extra_body": {"steps": 512}}, "too many"),
        ({"extra_body": {"stps": 4}}, "stps"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(ai: "OpenAI", asked: dict[str, Any], word: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)) as refused:
        ai.completions.create(**{"model": "", "prompt": "the ", **asked})
    assert word in refused.value.body["message"]
    assert "\n" not in refused.value.body["message"]
    assert refused.value.type == "invalid_request_error"
