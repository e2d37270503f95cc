"""Keywords without effect are left out, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.structured.schema import prepare_schema


@pytest.mark.parametrize(
    ("schema", "prepared"),
    [
        ({"uniqueItems": False}, {}),
        ({"uniqueItems": True}, {"uniqueItems": True}),
        ({"minProperties": 0, "minLength": 0}, {"minLength": 0}),
        ({"not": False, "propertyNames": {"type": "string"}}, {}),
        ({"format": "int32"}, {}),
        ({"format": "email"}, {"format": "email"}),
        ({"properties": {"format": {"format": "path"}}}, {"properties": {"format": {}}}),
        ({"properties": {"not": False}}, {"properties": {"not": False}}),
        ({"const": {"uniqueItems": False}}, {"const": {"uniqueItems": False}}),
        ({"anyOf": [{"uniqueItems": False}, True]}, {"anyOf": [{}, True]}),
        ({"patternProperties": {}, "properties": {}}, {"properties": {}}),
        ({"minProperties": 2, "required": ["a", "b"]}, {"required": ["a", "b"]}),
        ({"minProperties": 1}, {"minProperties": 1}),
        ({"$schema": "http://example.org/my-own"}, {}),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            {"$schema": "http://json-schema.org/draft-07/schema#"},
        ),
    ],
    ids=str,
)
def test_what_has_no_effect_is_left_out(schema: dict[str, Any], prepared: dict[str, Any]) -> None:
    assert prepare_schema(schema, closes_objects=False) == prepared


def test_objects_are_closed_unless_they_say_otherwise() -> None:
    schema = {
        "properties": {"a": {"properties": {}, "additionalProperties": True}, "b": {}},
        "$defs": {"c": {"properties": {}}},
    }
    closed = prepare_schema(schema, closes_objects=True)
    assert closed["additionalProperties"] is False
    assert closed["properties"] == schema["properties"]
    assert closed["$defs"]["c"] == {"properties": {}, "additionalProperties": False}
