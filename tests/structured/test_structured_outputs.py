"""Which values StructuredOutputs takes, and what it makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.protocol import FieldError, StructuredOutputs

_SCHEMA = {"type": "object", "properties": {"b": {}, "a": {"const": "ü"}}}


def test_a_schema_and_its_text_are_one_value() -> None:
    as_text = '{"type":"object",  "properties":{"b":{},"a":{"const":"\\u00fc"}}}'
    value = StructuredOutputs(json=_SCHEMA)
    assert value == StructuredOutputs(json=as_text)
    assert hash(value) == hash(StructuredOutputs(json=as_text))
    assert (value.kind, value.text) == (
        "json",
        '{"type": "object", "properties": {"b": {}, "a": {"const": "ü"}}}',
    )


def test_the_order_of_properties_counts() -> None:
    assert StructuredOutputs(json={"a": 1, "b": 2}) != StructuredOutputs(json={"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"json": {}}, "json", "{}"),
        ({"json_object": True}, "json_object", '{"type": "object"}'),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["yes", "no"]}, "choice", '["yes", "no"]'),
        ({"grammar": 'start: "a"'}, "grammar", 'start: "a"'),
        ({"structural_tag": {"format": {}}}, "structural_tag", '{"format": {}}'),
        ({"regex": "a", "json_object": False, "json": None}, "regex", "a"),
    ],
)
def test_each_kind_has_a_text(fields: dict[str, Any], kind: str, text: str) -> None:
    value = StructuredOutputs(**fields)
    assert (value.kind, value.text) == (kind, text)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({}, None, "needs exactly one of json, json_object, .* got none"),
        ({"regex": "a", "json": {}}, None, "got json and regex"),
        ({"json": []}, "json", "json must be an object of JSON, got a list"),
        ({"json": "{"}, "json", "json must be JSON, and is not: Expecting"),
        ({"json": {"a": float("nan")}}, "json", "json must be JSON, and is not: Out of range"),
        ({"json": {"a": {1}}}, "json", "json must be JSON, and is not: Object of type set"),
        ({"json": '{"a":' * 100_000}, "json", "json is nested too deeply"),
        ({"json": {"a": "\ud800"}}, "json", "json holds half a character at position 7"),
        ({"json_object": 1}, "json_object", "json_object must be true or false, got 1"),
        ({"regex": ""}, "regex", "regex must be a text that is not empty, got ''"),
        ({"grammar": 7}, "grammar", "grammar must be a text that is not empty, got 7"),
        ({"choice": "yes"}, "choice", "choice must be a list of at least one text, got 'yes'"),
        ({"choice": []}, "choice", r"choice must be a list of at least one text, got \[\]"),
        ({"choice": ["a", ""]}, "choice", "choice must be a text that is not empty, got ''"),
        ({"structural_tag": "[]"}, "structural_tag", "structural_tag must be an object of JSON"),
        (
            {"json": {}, "whitespace_pattern": 1},
            "whitespace_pattern",
            "whitespace_pattern must be a regular expression, got 1",
        ),
        (
            {"json": {}, "whitespace_pattern": " ", "disable_any_whitespace": True},
            "whitespace_pattern",
            "whitespace_pattern can't be combined with disable_any_whitespace: give one",
        ),
        (
            {"regex": "a", "whitespace_pattern": " "},
            "whitespace_pattern",
            "whitespace_pattern needs json or json_object, and regex is given",
        ),
        (
            {"regex": "a", "disable_any_whitespace": True},
            "disable_any_whitespace",
            "disable_any_whitespace needs json or json_object, and regex is given",
        ),
        (
            {"json_object": True, "disable_additional_properties": True},
            "disable_additional_properties",
            "disable_additional_properties needs json, and json_object is given",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    fields: dict[str, Any], field: str | None, message: str
) -> None:
    with pytest.raises(FieldError, match=message) as error:
        StructuredOutputs(**fields)
    path = "structured_outputs" if field is None else f"structured_outputs.{field}"
    assert error.value.field == path
