"""The API's description (OpenAPI 3.1), made from what answers.py and requests.py say."""

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


@cache
def document() -> dict[str, Any]:
    """The whole description, as JSON has it."""
    answers = {name: get_type_hints(do)["return"] for name, (do, _) in ANSWERS.items()}
    models = {Card, Health, Problem, *answers.values(), *(asked for _, asked in ANSWERS.values())}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda m: m.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    paths = {f"/v1/{name}": {"post": _asking(name, answers[name])} for name in ANSWERS}
    paths |= {
        "/v1/model": {"get": _getting("The model, and what can be asked of it", Card)},
        "/v1/health": {"get": {**_getting("Whether the server is there", Health), "security": []}},
        "/v1/metrics": {"get": _getting("Counters in Prometheus' text format", None)},
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


def _asking(name: str, answer: type[BaseModel]) -> dict[str, Any]:
    _, asked = ANSWERS[name]
    content: dict[str, Any] = {"application/json": {"schema": _reference(answer)}}
    if "stream" in asked.model_fields:
        content["text/event-stream"] = {"schema": EVENT}
    body = {"required": True, "content": {"application/json": {"schema": _reference(asked)}}}
    return {
        "summary": (asked.__doc__ or "").split("\n")[0],
        "operationId": name,
        "requestBody": body,
        "responses": {
            "200": {"description": "what was asked for", "content": content},
            **{status: _fault(status) for status in FAULTS},
        },
    }


def _getting(summary: str, answer: type[BaseModel] | None) -> dict[str, Any]:
    """Of an answer that is plain text, if it is no model's."""
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if answer is not None:
        content = {"application/json": {"schema": _reference(answer)}}
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}, "401": _fault("401")},
    }


def _fault(status: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(Problem)}}
    return {"description": FAULTS[status], "content": content}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
