"""The description of the API (OpenAPI 3.1), made from answers.py and requests.py."""

from functools import cache
from importlib.metadata import version
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .answers import ANSWERS
from .requests import Card, Health, Problem

FAULTS = {
    "400": "this is not JSON",
    "401": "the token is missing or wrong",
    "408": "the request did not arrive in time",
    "409": "this model cannot do it, or it is too much at once",
    "413": "the request is too large",
    "415": "this is not application/json",
    "422": "a value is not what it has to be",
    "500": "the server failed",
    "503": "too many requests are under way (see Retry-After), or the server is shutting down",
}
EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["frame", "done", "error"]},
        "data": {"type": "string", "description": "JSON, in one line"},
    },
    "required": ["event", "data"],
}

TEXT = {"text/plain": {"schema": {"type": "string"}}}


@cache
def document() -> dict[str, Any]:
    """The whole description, as JSON has it."""
    answers = {name: get_type_hints(do)["return"] for name, (do, _) in ANSWERS.items()}
    models = {Card, Health, Problem, *answers.values(), *(asked for _, asked in ANSWERS.values())}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda m: m.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    paths = {f"/v1/{name}": {"post": _post(name, answers[name])} for name in ANSWERS}
    paths |= {
        "/v1/model": {"get": _get("The model, and what can be asked of it", _json(Card))},
        "/v1/health": {"get": {**_get("Whether the server is there", _json(Health)), "security": []}},
        "/v1/metrics": {"get": _get("Counters in Prometheus' text format", TEXT)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "simple-diffusion-lm", "version": version("simple-diffusion-lm")},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _post(name: str, answer: type[BaseModel]) -> dict[str, Any]:
    _, asked = ANSWERS[name]
    content = _json(answer)
    if "stream" in asked.model_fields:
        content["text/event-stream"] = {"schema": EVENT}
    return {
        "summary": (asked.__doc__ or "").split("\n")[0],
        "operationId": name,
        "requestBody": {"required": True, "content": _json(asked)},
        "responses": _responses("what was asked for", content, *FAULTS),
    }


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(summary, content, "401")}


def _responses(description: str, content: dict[str, Any], *faults: str) -> dict[str, Any]:
    problems = {status: {"description": FAULTS[status], "content": _json(Problem)} for status in faults}
    return {"200": {"description": description, "content": content}, **problems}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    """The content of a body that is this model."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
