"""Bodies that say what the answer must look like, and the grammars that engines get of them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from flaxen.protocol import StructuredOutputs
from tests.server.clients import make_app, post
from tests.server.fakes import END, VOCAB_SIZE, FakeEngine, byte_tokenizer
from tools.schema_collection import random_walk

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
ENGINE = FakeEngine()
APP = make_app(ENGINE)
GOOD: dict[str, dict[str, Any]] = {
    COMPLETION: {"prompt": "Hi"},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
TAGS = {"triggers": ["<f"], "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}]}
JSON = StructuredOutputs(json=SCHEMA)


def format_of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": kind, **fields}}


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    ("body", "structure"),
    [
        (format_of("text"), None),
        (format_of("text", x=None), None),
        (format_of("json_object"), StructuredOutputs(json_object=True)),
        (format_of("json_object", schema=SCHEMA), JSON),
        (format_of("json_schema", json_schema={"name": "n", "schema": SCHEMA}), JSON),
        (
            format_of(
                "json_schema",
                json_schema={"name": "n", "description": "d", "strict": True, "schema": SCHEMA},
            ),
            JSON,
        ),
        (
            format_of("json_schema", json_schema={"name": "n", "strict": None}),
            StructuredOutputs(json_object=True),
        ),
        (format_of("structural_tag", **TAGS), StructuredOutputs(structural_tag=TAGS)),
        ({"structured_outputs": {"json": SCHEMA}}, JSON),
        ({"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}}, JSON),
        ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutputs(choice=["a", "b"])),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
            StructuredOutputs(json=SCHEMA, disable_any_whitespace=True),
        ),
        ({"guided_json": SCHEMA}, JSON),
        ({"guided_json": json.dumps(SCHEMA), "guided_decoding_backend": "auto"}, JSON),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": "[ ]?"},
            StructuredOutputs(json=SCHEMA, whitespace_pattern="[ ]?"),
        ),
        ({"guided_json_object": True}, StructuredOutputs(json_object=True)),
        ({"guided_json_object": False}, None),
        ({"guided_regex": "a+"}, StructuredOutputs(regex="a+")),
        ({"guided_choice": ["a"]}, StructuredOutputs(choice=["a"])),
        ({"guided_grammar": 'start: "a"'}, StructuredOutputs(grammar='start: "a"')),
        ({"structural_tag": TAGS}, StructuredOutputs(structural_tag=TAGS)),
    ],
    ids=str,
)
def test_each_name_means_its_structure(
    path: str, body: dict[str, Any], structure: StructuredOutputs | None
) -> None:
    answer = post(APP, path, GOOD[path] | {"max_tokens": 2} | body)
    assert answer.status_code == 200, answer.text
    request = ENGINE.requests[-1]
    assert request.sampling.structured_outputs == structure
    assert (request.grammar is None) == (structure is None)


def test_the_grammar_is_that_of_the_structure() -> None:
    body = {"guided_choice": ["yes", "no"], "max_tokens": 9}
    assert post(APP, COMPLETION, GOOD[COMPLETION] | body).status_code == 200
    make_grammar = ENGINE.requests[-1].grammar
    assert make_grammar is not None
    tokens, has_ended, _ = random_walk(make_grammar(), (END,), VOCAB_SIZE, 1, 9)
    assert has_ended
    assert byte_tokenizer().decode(tokens) in ("yes", "no")


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (format_of("xml"), "response_format.type", "must be text, json_object, json_schema or"),
        ({"response_format": {}}, "response_format.type", "got None"),
        (format_of("text", schema={}), "response_format.schema", "unknown field"),
        (format_of("json_schema"), "response_format.json_schema", "must be an object, got 'null'"),
        (
            format_of("json_schema", json_schema={"schema": []}),
            "response_format.json_schema.schema",
            "must be an object",
        ),
        (
            format_of("json_schema", json_schema={"schema": {"uniqueItems": True}}),
            "response_format.json_schema.schema",
            'the keyword "uniqueItems" is not supported',
        ),
        (
            format_of("json_schema", json_schema={"name": 1}),
            "response_format.json_schema.name",
            "must be a string, got 1",
        ),
        (
            format_of("json_schema", json_schema={"strict": "yes"}),
            "response_format.json_schema.strict",
            "must be true or false",
        ),
        (
            format_of("json_schema", json_schema={"shema": {}}),
            "response_format.json_schema.shema",
            "unknown field",
        ),
        (format_of("structural_tag"), "response_format", "needs structures and triggers"),
        ({"structured_outputs": {}}, "structured_outputs", "needs exactly one of json"),
        (
            {"structured_outputs": {"json": {}, "regex": "a"}},
            "structured_outputs",
            "got json and regex",
        ),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "not empty"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn", "unknown field"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs", "the pattern is wrong"),
        ({"guided_json": "{"}, "guided_json", "guided_json: json must be JSON"),
        ({"guided_json": {"not": {}}}, "guided_json", 'the keyword "not" is not supported'),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "a part that no grammar can have"),
        ({"guided_choice": []}, "guided_choice", "at least one text"),
        ({"guided_grammar": "start: x"}, "guided_grammar", "grammar can't be followed"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "both say what"),
        (
            {"guided_regex": "a", **format_of("json_object")},
            "response_format",
            "guided_regex and response_format both say",
        ),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "needs guided_json"),
        (
            {"guided_regex": "a", "guided_whitespace_pattern": " "},
            "guided_regex",
            "whitespace_pattern needs json or json_object",
        ),
        (
            {"guided_json": {}, "guided_decoding_backend": "outlines"},
            "guided_decoding_backend",
            "llguidance alone",
        ),
    ],
    ids=str,
)
def test_a_wrong_structure_is_refused_by_the_name_that_it_was_given(
    path: str, body: dict[str, Any], param: str, message: str
) -> None:
    answer: httpx.Response = post(APP, path, GOOD[path] | body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
