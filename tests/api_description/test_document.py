"""The description is of the routes that are there, and of the bodies as they are read."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from flaxen.api_description.document import make_document
from flaxen.api_description.routes import add_description
from flaxen.control_routes.routes import control_routes
from flaxen.job_routes import mount
from flaxen.responses_routes.responses import Responses
from flaxen.server.app import (
    ADAPTER_ROUTES,
    ALIASES,
    DEV_ROUTES,
    INVOCATIONS,
    ROUTES,
    create_app,
)
from flaxen.server.config import ServerConfig
from flaxen.serving.more_routes import more_routes
from tests.server.clients import get, post
from tests.server.fakes import FakeEngine, byte_tokenizer

MORE_ROUTES = more_routes(Responses())
NOBODY: Any = None  # the engine that is controlled: no route is called
ROUTES_OF_ALL = [
    *ROUTES, *MORE_ROUTES, *ALIASES, INVOCATIONS, *ADAPTER_ROUTES, *DEV_ROUTES,
    *control_routes(NOBODY), *mount._FILES, *mount._JOBS, *mount._BATCHES, ("GET", "/openapi.json"),
]  # fmt: skip
HELLO = [{"role": "user", "content": "Hi"}]


def make_app(**config: Any) -> Any:
    own = ServerConfig(**config)
    app = create_app(FakeEngine(), byte_tokenizer(), own, more_routes=MORE_ROUTES)
    add_description(app, own)
    return app


APP = make_app()
DOCUMENT = get(APP, "/openapi.json").json()


def test_every_route_is_described() -> None:
    document = make_document(ROUTES_OF_ALL, ServerConfig())
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert len(operations) == len(set(ROUTES_OF_ALL))
    assert [each for each in operations if "docs/server.md" in each["summary"]] == []
    ids = [each["operationId"] for each in operations]
    assert len(set(ids)) == len(ids)


def test_the_largest_pages_are_those_of_the_routes() -> None:
    paths = make_document(ROUTES_OF_ALL, ServerConfig())["paths"]
    job = "/v1/fine_tuning/jobs/{job_id}"
    for path, most in (
        ("/v1/files", 10_000), ("/v1/batches", 100), ("/v1/chat/completions", 100),
        (f"{job}/events", 1000), (f"{job}/checkpoints", 1000),
    ):  # fmt: skip
        [limit] = [each for each in paths[path]["get"]["parameters"] if each["name"] == "limit"]
        assert limit["schema"] == {"type": "integer", "minimum": 0, "maximum": most}


def test_only_the_routes_that_are_there_are_described() -> None:
    described = {
        (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    there = {*ROUTES, *MORE_ROUTES, *ALIASES, INVOCATIONS, ("GET", "/openapi.json")}
    assert described == {(method, path.replace(":path", "")) for method, path in there}


def test_every_reference_leads_somewhere() -> None:
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert names - set(DOCUMENT["components"]["schemas"]) == set()
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("keys", [(), ("s3cret",)])
def test_keys_are_told_and_not_needed_for_it(keys: tuple[str, ...]) -> None:
    answer = get(make_app(api_keys=keys, root_path="/llm"), "/openapi.json")
    document = answer.json()
    assert document["servers"] == [{"url": "/llm"}]
    assert ("security" in document) is bool(keys)
    chat, health = (document["paths"][path] for path in ("/v1/chat/completions", "/health"))
    assert ("401" in chat["post"]["responses"]) is bool(keys)
    assert "401" not in health["get"]["responses"]
    assert health["get"].get("security") == ([] if keys else None)
    assert "s3cret" not in answer.text


def resolved(schema: Any) -> Any:
    return {**schema, "components": DOCUMENT["components"]}


def is_valid(path: str, body: Any) -> bool:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    return jsonschema.Draft202012Validator(
        resolved(content["application/json"]["schema"])
    ).is_valid(body)


CHAT, COMPLETION, GENERATE = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate"
ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": HELLO, "max_tokens": 3.0, "stop": "a", "tools": [], "unknown": None}),
    (
        CHAT,
        {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True, "x": None}},
    ),
    (COMPLETION, {"prompt": [[1, 2], [3]], "stop": ["a"], "logit_bias": {"5": 1}}),
    (COMPLETION, {"prompt": "a", "suffix": "", "stop": None, "max_tokens": None}),
    (GENERATE, {"token_ids": [1], "sampling_params": {"max_tokens": 1, "detokenize": True}}),
    ("/tokenize", {"prompt": "a"}),
    ("/tokenize", {"messages": HELLO, "prompt": None}),
    ("/detokenize", {"tokens": [1]}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {}),
    (CHAT, {"messages": []}),
    (CHAT, {"messages": [{"content": "a"}]}),
    (CHAT, {"messages": HELLO, "unknown": 1}),
    (CHAT, {"messages": HELLO, "temperature": "1"}),
    (CHAT, {"messages": HELLO, "n": 1.5}),
    (CHAT, {"messages": HELLO, "stream": True, "stream_options": {"x": 1}}),
    (COMPLETION, {"prompt": {"a": 1}}),
    (COMPLETION, {"prompt": "a", "messages": HELLO}),
    (COMPLETION, {"prompt": "a", "stop": 5}),
    (GENERATE, {"token_ids": [1], "max_tokens": 5}),
    (GENERATE, {"token_ids": [1], "sampling_params": {"model": "x"}}),
    ("/tokenize", {"prompt": [1]}),
    ("/detokenize", {"tokens": ["1"]}),
]


@pytest.mark.parametrize(("path", "body"), ACCEPTED, ids=str)
def test_what_is_accepted_is_described(path: str, body: dict[str, Any]) -> None:
    assert is_valid(path, body)
    answer = post(APP, path, body)
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
        schema = resolved(content["application/json"]["schema"])
        jsonschema.Draft202012Validator(schema).validate(answer.json())


@pytest.mark.parametrize(("path", "body"), REFUSED, ids=str)
def test_what_is_not_described_is_refused(path: str, body: dict[str, Any]) -> None:
    assert not is_valid(path, body)
    answer = post(APP, path, body)
    assert answer.status_code == 400, answer.text
    error = DOCUMENT["components"]["schemas"]["Error"]
    jsonschema.Draft202012Validator(error).validate(answer.json())
