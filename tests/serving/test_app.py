"""The API as its users meet it: over HTTP, at a port."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from servers import serving
from small_models import small

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.generate import Sampling
from simple_diffusion_lm.core.sampler import SAMPLERS
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.serving import app as app_module
from simple_diffusion_lm.serving.answers import ANSWERS, Model
from simple_diffusion_lm.serving.app import make_app
from simple_diffusion_lm.serving.shared import Gone
from simple_diffusion_lm.writing.model import DiffusionLM
from simple_diffusion_lm.writing.templates import Gap

FEW: dict[str, Any] = {"steps": 4, "seed": 3}


@pytest.fixture(scope="module")
def model(toy_run: Path) -> DiffusionLM:
    return DiffusionLM.from_pretrained(toy_run)


def texts(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [line["text"] for line in response.json()["lines"]]


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """[kind, content] of server-sent events."""
    blocks = response.text.strip().split("\n\n")
    pairs = [block.split("\n") for block in blocks]
    return [(kind.removeprefix("event: "), json.loads(data[6:])) for kind, data in pairs]


def head(path: str, length: int) -> bytes:
    """The head of a request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def test_answers_are_those_of_the_library(client: httpx.Client, model: DiffusionLM) -> None:
    asked = {"count": 3, "length": "5-9", "candidates": 2, **FEW}
    expected = model.generate(3, length=Gap(5, 9), candidates=2, **FEW)
    assert texts(client.post("/v1/generate", json=asked)) == expected
    template = "yesterday the ___ ."
    infilled = client.post("/v1/infill", json={"templates": [template], **FEW})
    assert texts(infilled) == model.infill([template], **FEW)
    line = "every morning the old woman feeds her goats ."
    varied = client.post("/v1/vary", json={"texts": [line], "strength": 0.5, **FEW})
    assert texts(varied) == model.vary([line], 0.5, **FEW)
    blended = client.post("/v1/blend", json={"first": line, "second": line, "count": 2, "steps": 4})
    assert texts(blended) == model.blend(line, line, 2, 4)
    scored = client.post("/v1/score", json={"texts": [line]}).json()["nats"]
    assert scored == pytest.approx(model.score([line]))


def test_streams_tell_every_step_of_their_own_texts_and_end_with_the_answer(client: httpx.Client) -> None:
    def streamed(seed: int) -> tuple[Any, list[list[list[dict[str, Any]]]]]:
        """The answer; for each text, for each step, its tokens."""
        *frames, (kind, answer) = events(
            client.post("/v1/generate", json={**asked, "seed": seed, "stream": True})
        )
        assert [kind for kind, _ in frames] == ["frame"] * len(frames)
        assert kind == "done"
        lines = [frame["lines"] for _, frame in frames]
        return answer, [[line[n] for line in lines if n in line] for n in ("0", "1")]

    def best(steps: list[list[dict[str, Any]]]) -> list[float]:
        return [share for tokens in steps for token in tokens for _, share in token["likely"][:1]]

    asked = {"count": 2, "steps": 6}
    with ThreadPoolExecutor(8) as pool:  # which share their steps
        found = list(pool.map(streamed, range(8)))
    for seed, (answer, texts) in enumerate(found):
        assert answer == client.post("/v1/generate", json={**asked, "seed": seed}).json()
        _, alone = streamed(seed)
        for line, steps, steps_alone in zip(answer["lines"], texts, alone, strict=True):
            assert len(steps) == len(steps_alone) == 6
            assert "".join(token["text"] for token in steps[-1]).strip() == line["text"]
            assert best(steps) == pytest.approx(best(steps_alone), abs=1e-3)


def test_many_at_once_get_what_each_would_have_got_alone(client: httpx.Client, served: Model) -> None:
    settings: list[dict[str, Any]] = [{}, {"temperature": 1.5}, {"never": ["the"]}]
    asked = [{"steps": 8, "seed": seed, **settings[seed % 3]} for seed in range(24)]
    alone = [texts(client.post("/v1/generate", json=each)) for each in asked]
    before = served.loop.steps
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda each: texts(client.post("/v1/generate", json=each)), asked))
    assert together == alone
    # And they shared steps: alone they take 24 * 8. How many come together depends on the machine's load.
    assert served.loop.steps - before < 24 * 8 * 3 / 4


@pytest.mark.parametrize(
    ("name", "asked", "status", "words"),
    [
        ("generate", "{", 400, "JSON"),
        ("generate", '{"steps": 1000000000}', 422, "steps"),
        ("generate", '{"length": "-1"}', 422, "length"),
        ("generate", '{"length": "900"}', 409, "length"),
        ("generate", '{"length": "9-3"}', 409, "9-3"),
        ("generate", '{"steps": 2, "stps": 3}', 422, "stps"),
        ("generate", '{"count": 32, "candidates": 32, "steps": 512}', 409, "too many"),
        ("generate", '{"temperature": NaN}', 422, "temperature"),
        ("infill", '{"templates": []}', 422, "templates"),
        ("infill", '{"templates": ["a [[0-"]}', 409, "[["),
        ("vary", '{"texts": [""], "strength": 0.4}', 409, "tokens"),
        ("vary", '{"texts": ["a"], "strength": 0}', 422, "strength"),
        ("score", '{"texts": ["' + "a" * 3000 + '"]}', 422, "texts"),
        ("score", '{"texts": ["' + "a" * 200_000 + '"]}', 413, "bytes"),
        ("score", '{"texts": ["\\ud800"]}', 400, "unicode"),
        ("generate", '{"te\\nxt": 1}', 422, "te xt"),
        ("score", "[" * 90_000, 400, "body"),
    ],
)
def test_what_cannot_be_is_one_line(
    client: httpx.Client, name: str, asked: str, status: int, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    began = time.monotonic()
    response = client.post(f"/v1/{name}", content=asked, headers=headers)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]
    assert "\n" not in response.json()["error"]
    assert str(status) in responses_of(client, name)
    assert time.monotonic() - began < 2
    assert client.get("/v1/health").json() == {"status": "ok"}


def responses_of(client: httpx.Client, name: str) -> dict[str, Any]:
    """What the description says of the answers of a route, by status."""
    return client.get("/openapi.json").json()["paths"][f"/v1/{name}"]["post"]["responses"]


def test_whole_numbers_may_have_a_point(client: httpx.Client) -> None:
    asked = client.post("/v1/generate", json={"steps": 4.0, "seed": 3.0, "candidates": 1.0})
    assert texts(asked) == texts(client.post("/v1/generate", json=FEW))


def test_other_routes_and_kinds_are_refused(client: httpx.Client) -> None:
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/app.py").status_code == 404
    assert client.get("/v1/generate").status_code == 405
    assert client.post("/v1/generate", content="{}").status_code == 415


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_break_it(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/infill", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.json()["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=4
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), JSON, min_size=1))
def test_no_json_breaks_it(client: httpx.Client, asked: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/score", content=json.dumps(asked), headers=headers)
    assert response.status_code in (400, 422)
    assert len(response.json()["error"].splitlines()) == 1


def test_the_page_and_all_it_asks_for_come_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for answer in (page, client.get("/page/app.js"), client.get("/v1/nothing"), client.post("/v1/score")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("app.js", "stage.js", "changes.js", "style.css", "icon.svg"):
        assert client.get(f"/page/{name}").status_code == 200


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("generate", {"count": 32, "stream": True}),
        ("generate", {"count": 32}),
        ("vary", {"texts": ["the goats sleep ."] * 32, "strength": 1}),
    ],
)
def test_a_client_that_leaves_is_not_written_for(
    client: httpx.Client, served: Model, address: str, name: str, asked: dict[str, Any]
) -> None:
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"steps": 512, **asked}).encode()
    before = served.loop.steps
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head(f"/v1/{name}", len(body)) + body)
        while served.loop.steps < before + 3:
            time.sleep(0.01)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        before = served.loop.steps
        time.sleep(0.3)
        if served.loop.steps == before:
            break
    assert served.loop.steps == before
    assert under_way(client) == 0
    assert texts(client.post("/v1/generate", json=FEW))


def test_a_blend_whose_client_left_ends(
    client: httpx.Client, address: str, served: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sampled in the loop that requests share, and would run to its end in a thread of its own."""
    heed, given_up = served.loop.heed, []

    def watched(gone: Event) -> None:
        try:
            heed(gone)
        except Gone as error:
            given_up.append(error)
            raise

    monkeypatch.setattr(served.loop, "heed", watched)
    host, port = address.removeprefix("http://").split(":")
    texts = {"first": "every morning the old woman feeds her goats .", "second": "the goats sleep ."}
    body = json.dumps({**texts, "count": 12, "steps": 128}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head("/v1/blend", len(body)) + body)
        while under_way(client) == 0:
            time.sleep(0.01)
    while under_way(client):
        time.sleep(0.01)
    assert len(given_up) == 1


def under_way(client: httpx.Client) -> int:
    return int(client.get("/v1/load").json()["under_way"])


def test_more_than_it_takes_is_turned_away(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MOST_REQUESTS", 2)
    with serving(make_app(Model(toy_run))) as address, ThreadPoolExecutor(12) as pool:
        asked = {"count": 16, "steps": 64}
        found = list(
            pool.map(lambda _: httpx.post(f"{address}/v1/generate", json=asked, timeout=60), range(12))
        )
    statuses = [response.status_code for response in found]
    assert set(statuses) == {200, 503}
    turned_away = found[statuses.index(503)]
    assert turned_away.headers["retry-after"] == "1"
    assert "try again" in turned_away.json()["error"]


def test_a_token_opens_what_it_guards(toy_run: Path) -> None:
    with serving(make_app(Model(toy_run), token="secret")) as address:
        assert httpx.get(f"{address}/v1/health").status_code == 200
        assert httpx.get(f"{address}/").status_code == 200
        refused = httpx.post(f"{address}/v1/generate", json=FEW)
        assert refused.status_code == 401
        assert "token" in refused.json()["error"]
        for wrong in ("Bearer secre", "Bearer", "secret", "Basic secret"):
            headers = {"Authorization": wrong}
            assert httpx.post(f"{address}/v1/generate", json=FEW, headers=headers).status_code == 401
        assert httpx.get(f"{address}/v1/load").status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert texts(httpx.post(f"{address}/v1/generate", json=FEW, headers=right))


def test_only_its_own_names_are_answered_to(toy_run: Path) -> None:
    with serving(make_app(Model(toy_run), hosts=["127.0.0.1"])) as address:
        assert httpx.get(address).status_code == 200
        assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400


def test_a_request_that_does_not_arrive_is_let_go(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.3)
    with serving(make_app(Model(toy_run))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head("/v1/score", 99) + b"{")
            assert b"408" in connection.recv(4096)
        long = {"count": 32, "steps": 256, "stream": True}  # what has arrived may take its time
        began = time.monotonic()
        answer = httpx.post(f"{address}/v1/generate", json=long, timeout=60)
        assert time.monotonic() - began > 0.3
        assert events(answer)[-1][0] == "done"


def test_a_request_that_is_too_large_may_come_in_pieces(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * 40_000
            time.sleep(0.1)

    headers = {"Content-Type": "application/json"}
    refused = client.post("/v1/score", content=pieces(), headers=headers)
    assert refused.status_code == 413


def test_the_page_is_there_while_many_wait(client: httpx.Client, served: Model, address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"steps": 512}).encode()
    before = served.loop.steps
    with ExitStack() as held:
        for _ in range(60):
            connection = held.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(head("/v1/generate", len(body)) + body)
        while served.loop.steps < before + 30:
            time.sleep(0.01)
        assert client.get("/", timeout=1).status_code == 200
        assert served.loop.steps < before + 400, "they were done before"


def test_a_failure_is_said_and_the_next_request_answered(toy_run: Path) -> None:
    model = Model(toy_run)
    end = model.lm.end
    with serving(make_app(model)) as address:
        model.lm.end = None  # type: ignore[assignment]
        for stream in (False, True):
            failed = httpx.post(f"{address}/v1/generate", json={**FEW, "stream": stream}, timeout=60)
            assert failed.status_code == (200 if stream else 500)
            assert "the server failed" in (events(failed)[-1][1] if stream else failed.json())["error"]
        model.lm.end = end
        assert texts(httpx.post(f"{address}/v1/generate", json=FEW, timeout=60))
        load = httpx.get(f"{address}/v1/load", timeout=60).json()
    assert load.pop("steps") > 0
    assert load == {"under_way": 0, "waiting": 0, "texts": 1}
    assert not model.loop.thread.is_alive()


def test_the_description_describes_what_there_is(client: httpx.Client, toy_run: Path) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    names = [answer.__name__ for answer in ANSWERS]
    assert set(described["paths"]) == {
        f"/v1/{name}" for name in ["model", "models", "health", "load", *names]
    }
    card = client.get("/v1/model").json()
    assert set(card) == set(described["components"]["schemas"]["Card"]["properties"])
    assert card["abilities"] == names
    samples = (toy_run / "samples.txt").read_text().splitlines()
    assert card["examples"] == [line.split("\t")[1] for line in samples[-4:]] != []
    for name in names:
        responses = responses_of(client, name)
        assert set(responses) == {"200", "400", "408", "409", "413", "415", "422", "500", "503"}
        for status in set(responses) - {"200"}:
            assert responses[status]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
        streams = name in ("generate", "infill", "vary")
        assert ("text/event-stream" in responses["200"]["content"]) == streams


def test_the_description_says_what_wants_a_token(served: Model, client: httpx.Client) -> None:
    for app, token in ((make_app(served), False), (make_app(served, token="secret"), True)):
        for path, about in app.openapi()["paths"].items():
            for route in about.values():
                assert ("401" in route["responses"]) == (token and path != "/v1/health")
                assert route.get("security") == ([{"token": []}] if token and path != "/v1/health" else None)


def test_the_description_has_every_limit(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("Generate", "Infill", "Vary", "Blend"):
        for field, about in schemas[name]["properties"].items():
            if about.get("type") in ("integer", "number"):
                above = {"minimum", "exclusiveMinimum"} & set(about)
                assert above, f"{name}.{field}"
                assert "maximum" in about, f"{name}.{field}"


def test_the_description_of_sampling_is_that_of_the_core(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("Generate", "Infill", "Vary"):
        about = schemas[name]["properties"]
        for field, default in asdict(Sampling()).items():
            assert about[field]["default"] == default
            assert about[field]["description"][:20] in (Sampling.__doc__ or "")
        assert about["sampler"]["enum"] == list(SAMPLERS)


def test_running_text_of_any_length_is_not_any_work(toy_text: Path, tmp_path: Path) -> None:
    """What is longer than the window counts by its windows, before anything of that length is made."""
    data = prepare([toy_text], tmp_path / "corpus", vocab_size=300, stream=True, quiet=True)
    run_training(small(Config(), steps=1, samples=0, window=16), data, tmp_path / "run", quiet=True)
    with serving(make_app(Model(tmp_path / "run"))) as address, httpx.Client(base_url=address) as client:
        asked: list[tuple[str, dict[str, Any]]] = [
            ("infill", {"templates": ["a [[999999999]]"]}),
            ("generate", {"length": "100000000"}),
            ("generate", {"length": "1-9999999"}),
            ("infill", {"templates": ["the farmer " * 180 + "[[1]]"] * 32}),  # given text counts too
        ]
        for name, request in asked:
            refused = client.post(f"/v1/{name}", json={**request, **FEW})
            assert (refused.status_code, "too many" in refused.text) == (409, True)
        assert len(texts(client.post("/v1/generate", json={"length": "40", **FEW}))) == 1
