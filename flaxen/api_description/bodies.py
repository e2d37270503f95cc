"""JSON schemas of bodies, made of the classes that read them. Deliberately does not know routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from flaxen.api_description.operation import Schema, ref
from flaxen.server.generation.fields_without_effect import STREAM_OPTIONS, Rule

_NULL = {"type": "null"}
_STRINGS = {"type": "array", "items": {"type": "string"}}
_IDS = {"type": "array", "items": {"type": "integer"}}
# A text, texts, token ids, or lists of these.
_PROMPTS = {"anyOf": [{"type": "string"}, _STRINGS, _IDS, {"type": "array", "items": _IDS}]}
# The same, and texts beside lists of ids.
_TEXT_OR_IDS = {"anyOf": [{"type": "string"}, _IDS]}
_INPUTS = {"anyOf": [{"type": "string"}, _IDS, {"type": "array", "items": _TEXT_OR_IDS}]}
_PART = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"enum": ["text", "input_text", "output_text", "refusal"]}},
}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, _NULL]},
    },
}
_MESSAGES: Schema = {"type": "array", "minItems": 1, "items": _MESSAGE}
CHATS: Schema = {"type": "array", "minItems": 1, "items": _MESSAGES}
_DOCUMENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    ]
}
# The content of Anthropic's messages is a string, or a list of blocks of many kinds.
BLOCK_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["user", "assistant", "system"]},
            "content": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "object", "required": ["type"]}},
                ]
            },
        },
        "additionalProperties": False,
    },
}
# Fields that may have more forms than the types of their classes say.
_FORMS: Mapping[str, Schema] = {
    "prompt": _PROMPTS,
    "input": _INPUTS,
    "stop": {"anyOf": [{"type": "string"}, _STRINGS, _NULL]},
    "messages": _MESSAGES,
}
_MORE_FORMS: Mapping[str, Schema] = {"documents": {"type": "array", "items": _DOCUMENT}}


class Schemas:
    """Makes schemas of bodies, and collects those that they refer to."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}  # by name

    def body(
        self,
        *classes: type[BaseModel],
        without_effect: Mapping[str, Rule] | None = None,
        forms: Mapping[str, Schema] | None = None,
    ) -> Schema:
        """The schema of a body that is read by these classes.

        Args:
          classes: each reads some of the body's fields.
          without_effect: fields that are read and then dropped.
          forms: of fields whose classes do not say theirs; those of prompts are known.
        """
        properties: dict[str, Any] = {}
        required: list[str] = []
        for each in classes:
            schema = each.model_json_schema(ref_template=str(ref("{model}")["$ref"]))
            for name, found in schema.pop("$defs", {}).items():
                self.found[name] = _plain(found)
            own = _plain(schema)
            properties |= own.get("properties", {})
            required += own.get("required", [])
        for name, form in {**_FORMS, **(forms or {})}.items():
            if name in properties:
                nullable = name not in required and _NULL not in form.get("anyOf", ())
                properties[name] = {"anyOf": [form, _NULL]} if nullable else form
        properties |= {
            name: _of_rule(rule)
            for name, rule in (without_effect or {}).items()
            if name not in properties
        }
        return _object(properties, required)

    def reranked(
        self, *classes: type[BaseModel], without_effect: Mapping[str, Rule] | None = None
    ) -> Schema:
        """The schema of a body with documents."""
        return self.body(*classes, without_effect=without_effect, forms=_MORE_FORMS)

    def nested(self, outer: frozenset[str], inner: str, flat: Schema) -> Schema:
        """The schema of a body whose fields but `outer` stand in the object `inner`.

        Args:
          outer: names of the fields that are not inside.
          inner: the name of the object.
          flat: the schema of the same fields in one object.
        """
        fields = flat["properties"]
        sampling = {name: form for name, form in fields.items() if name not in outer}
        beside = {name: form for name, form in fields.items() if name in outer}
        beside[inner] = {"anyOf": [_object(sampling, []), _NULL]}
        return _object(beside, flat["required"])


def _object(properties: Mapping[str, Any], required: list[str]) -> Schema:
    # A field that nobody knows may be null, which means that it is not given.
    whole: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": _NULL,
        "required": required,
    }
    return whole


def _of_rule(rule: Rule) -> Schema:
    return {"description": f"Only values that change nothing here are accepted: {rule.why}."}


def _plain(schema: Any, name: str = "") -> Any:
    """A schema of pydantic's without the titles and defaults that say nothing, and with nulls in
    place of unknown fields.
    """
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if name == "properties":  # here the keys are names of fields
        return {field: _plain(form) for field, form in schema.items()}
    made = {key: _plain(each, key) for key, each in schema.items() if key not in _SILENT}
    if schema.get("additionalProperties") is False:
        made["additionalProperties"] = _NULL
        if schema.get("title") == "StreamOptions":
            made["properties"] |= {key: _of_rule(rule) for key, rule in STREAM_OPTIONS.items()}
    return made


_SILENT = ("title", "default")
