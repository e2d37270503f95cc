"""The structures of answers that call tools or reason first, in a model's format.

What the structure allows is what the format's parser reads. Deliberately does not know: how a
structure constrains an answer, HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from flaxen.output_parsers.layouts import NAME, NUMBER, Layout, Thoughts
from flaxen.output_parsers.tools import Tools
from flaxen.protocol import StructuredOutputs

Format = dict[str, Any]  # a format of a structural tag
_ANY_OBJECT = {"type": "object"}
# What may allow, or ask for, properties that are not in `properties`.
_OF_OTHERS = frozenset(
    ("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames",
     "minProperties", "allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef",
     "dependentRequired", "dependentSchemas", "dependencies")
)  # fmt: skip
_NUMBERS = "[0-9]{1,3}"
_BREAKS = "\\n{0,2}"  # between reasoning and a call


def required_calls(
    layout: Layout, tools: Tools, *, one_call: bool, thoughts: Thoughts | None, is_open: bool
) -> StructuredOutputs:
    """The structure of an answer that is one call or several, perhaps after reasoning.

    Args:
      layout: how the format writes calls.
      tools: those that may be called, with the schemas of their arguments.
      one_call: the answer has exactly one.
      thoughts: how the model writes reasoning before a call; None where it has none.
      is_open: the prompt has opened the reasoning.

    Raises:
      FieldError: a schema is nested too deeply.
    """
    elements = [] if thoughts is None else [_thoughts(thoughts, is_open)]
    elements += [_text(layout.begin), _calls(layout, tools, tools, one_call), _text(layout.end)]
    return StructuredOutputs(structural_tag={"format": _sequence(elements)})


def strict_calls(
    layout: Layout, tools: Tools, strict: Collection[str], *, one_call: bool
) -> StructuredOutputs | None:
    """The structure of an answer with or without calls, in which those of strict tools have valid
    arguments.

    Returns:
      None where nothing can be asked for: no tool is strict, or no marker tells a call from text.

    Raises:
      FieldError: a schema is nested too deeply.
    """
    if not strict or layout.trigger is None:
        return None
    tags = [_call(layout, name, schema, name in strict) for name, schema in tools.items()]
    if layout.begin:
        calls = _calls(layout, tools, strict, one_call)
        tags = [{"begin": layout.begin, "content": calls, "end": layout.end}]
    choice = {
        "type": "triggered_tags",
        "triggers": [layout.trigger],
        "tags": tags,
        "stop_after_first": one_call,
    }
    return StructuredOutputs(structural_tag={"format": choice})


def behind_thoughts(
    structure: StructuredOutputs, thoughts: Thoughts, *, is_open: bool
) -> StructuredOutputs | None:
    """The structure of an answer whose content has a structure, perhaps after reasoning.

    Returns:
      None where a structural tag can't say it: of grammars, tags and options of white space.
    """
    content: Format
    match structure.kind:
        case "json" | "json_object":
            content = {"type": "json_schema", "json_schema": json.loads(structure.text)}
        case "regex":
            content = {"type": "regex", "pattern": structure.text}
        case "choice":
            texts = json.loads(structure.text)
            content = {"type": "or", "elements": [_text(text) for text in texts]}
        case _:
            return None
    plain = StructuredOutputs(**{structure.kind: getattr(structure, structure.kind)})
    if plain != structure:
        return None
    elements = [_thoughts(thoughts, is_open), _text(thoughts.content_begin), content]
    return StructuredOutputs(structural_tag={"format": _sequence(elements)})


def _thoughts(thoughts: Thoughts, is_open: bool) -> Format:
    begin = "" if is_open else thoughts.begin
    block = {"type": "tag", "begin": begin, "content": _ANY_TEXT, "end": thoughts.end}
    if thoughts.breaks_behind:
        block = _sequence([block, {"type": "regex", "pattern": _BREAKS}])
    return block if is_open else {"type": "or", "elements": [block, _text("")]}


def _calls(layout: Layout, tools: Tools, strict: Collection[str], one_call: bool) -> Format:
    return {
        "type": "tags_with_separator",
        "separator": layout.between or "",
        "tags": [_call(layout, name, schema, name in strict) for name, schema in tools.items()],
        "at_least_one": True,
        "stop_after_first": one_call or layout.between is None,
    }


def _call(layout: Layout, name: str, schema: Mapping[str, Any], is_strict: bool) -> Format:
    before = layout.before.replace(NAME, name)
    arguments = {
        "type": "json_schema",
        "json_schema": _object(schema) if is_strict else _ANY_OBJECT,
    }
    begin, is_numbered, behind = before.partition(NUMBER)
    if is_numbered:
        number = {"type": "regex", "pattern": _NUMBERS}
        arguments = _sequence([number, _text(behind), arguments])
    return {"type": "tag", "begin": begin, "content": arguments, "end": layout.after}


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, which as that of a tool's arguments is of an object, with the listed ones alone
    unless it says more of others: a small model would make up arguments to the token limit.
    """
    made: dict[str, Any] = {"type": "object", **schema}
    listed, needed = schema.get("properties"), schema.get("required") or ()
    if not isinstance(listed, Mapping) or _OF_OTHERS & schema.keys():
        return made
    return made | {"additionalProperties": False} if set(needed) <= listed.keys() else made


def _sequence(elements: list[Format]) -> Format:
    return {"type": "sequence", "elements": elements}


def _text(value: str) -> Format:
    return {"type": "const_string", "value": value}


_ANY_TEXT: Format = {"type": "any_text"}
