"""Bodies drawn from the description: no fault of the server's, and only answers as described."""

from __future__ import annotations

import asyncio
import string
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api_description.test_document import APP, DOCUMENT
from tests.server.clients import http_client

PATHS = [
    path for path, methods in DOCUMENT["paths"].items() if "requestBody" in methods.get("post", {})
]
TEXT = st.text(string.printable, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e9, 1e9) | TEXT
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2)
)


def drawn_from(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema; small ones, because most limits are of the server and not of the form."""
    if "$ref" in schema:
        return drawn_from(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return st.one_of([drawn_from(each) for each in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "array":
        least = schema.get("minItems", 0)
        return st.lists(drawn_from(schema.get("items", {})), min_size=least, max_size=least + 2)
    if kind == "object" and "properties" in schema:
        fields = {name: drawn_from(form) for name, form in schema["properties"].items()}
        required = {name: fields.pop(name) for name in schema.get("required", ())}
        names = st.sampled_from(sorted(fields) or [""])
        return st.lists(names, max_size=min(4, len(fields)), unique=True).flatmap(
            lambda names: st.fixed_dictionaries(required | {name: fields[name] for name in names})
        )
    simple: dict[str | None, st.SearchStrategy[Any]] = {
        "null": st.none(), "boolean": st.booleans(), "integer": st.integers(-2, 300),
        "number": st.floats(-3, 3), "string": TEXT,
        "object": st.dictionaries(TEXT, SCALARS, max_size=2),
    }  # fmt: skip
    return simple.get(kind, ANYTHING)


async def ask(path: str, bodies: list[Any]) -> list[Any]:
    async with http_client(APP) as client:
        return [await client.post(path, json=body) for body in bodies]


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_answers_are_as_described(path: str, data: st.DataObject) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    bodies = data.draw(st.lists(drawn_from(schema), min_size=5, max_size=5))
    # The same with one field that is something else.
    for body in list(bodies):
        if schema.get("properties"):
            name = data.draw(st.sampled_from(sorted(schema["properties"])))
            bodies.append(body | {name: data.draw(ANYTHING)})
    for body, answer in zip(bodies, asyncio.run(ask(path, bodies)), strict=True):
        status = str(answer.status_code)
        assert status in operation["responses"], (body, answer.text)
        assert status[0] in "24", (body, answer.text)
        if not validator.is_valid(body):
            assert status[0] == "4", (body, answer.text)
        kind = answer.headers["content-type"].partition(";")[0]
        form = operation["responses"][status]["content"][kind]["schema"]
        if kind == "application/json":
            described = {**form, "components": DOCUMENT["components"]}
            jsonschema.Draft202012Validator(described).validate(answer.json())
