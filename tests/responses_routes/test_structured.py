"""What a response must look like: what the engine is told, and what clients make of the answer."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from flaxen.protocol import StructuredOutputs
from tests.responses_routes.serving import TOOL, Server
from tests.server.clients import openai_client, run

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"type": "json_schema", "name": "it", "schema": SCHEMA, "strict": True}
SERVER = Server('{"a": 5}', template=PLAIN)


@pytest.mark.parametrize(
    ("asked", "structure"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, StructuredOutputs(json_object=True)),
        (NAMED, StructuredOutputs(json=SCHEMA)),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_engine_is_told_the_structure(
    asked: dict[str, Any], structure: StructuredOutputs | None
) -> None:
    response = SERVER.create(text={"format": asked})
    assert response["text"]["format"] == asked
    request = SERVER.engine.requests[-1]
    assert request.sampling.structured_outputs == structure
    assert (request.grammar is None) is (structure is None)


def test_vllms_field_is_taken_too() -> None:
    SERVER.create(structured_outputs={"choice": ["a", "b"]})
    asked = SERVER.engine.requests[-1].sampling.structured_outputs
    assert asked == StructuredOutputs(choice=("a", "b"))


def test_a_required_call_has_a_structure() -> None:
    SERVER.create(tools=[TOOL], tool_choice="required")
    asked = SERVER.engine.requests[-1].sampling.structured_outputs
    assert asked is not None
    assert asked.kind == "structural_tag"


class Answer(pydantic.BaseModel):
    a: int


def test_the_official_client_parses() -> None:
    async def work() -> Any:
        async with openai_client(SERVER.app) as client:
            asked: dict[str, Any] = {"model": "fake/model", "input": "Hi", "text_format": Answer}
            parsed = await client.responses.parse(**asked)
            async with client.responses.stream(**asked) as stream:
                return parsed, await stream.get_final_response()

    for response in run(work()):
        assert response.output_parsed == Answer(a=5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"format": NAMED | {"schema": {"type": "nothing"}}}}, "text.format.schema"),
        ({"text": {"format": NAMED | {"schema": 5}}}, "text.format.schema"),
        ({"text": {"format": NAMED | {"more": 1}}}, "text.format.more"),
        ({"text": {"format": NAMED | {"name": 1}}}, "text.format.name"),
        ({"text": {"format": "text"}}, "text.format"),
        ({"text": "x"}, "text"),
        ({"response_format": {"type": "text"}}, "response_format"),
        (
            {"text": {"format": NAMED}, "structured_outputs": {"regex": "a"}},
            "text.format",
        ),
        (
            {"tools": [TOOL | {"parameters": {"type": "nothing"}, "strict": True}],
             "tool_choice": "required"},
            "tools",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    error = SERVER.error(**body)
    assert error["param"] == param
    assert "response_format." not in error["message"]
