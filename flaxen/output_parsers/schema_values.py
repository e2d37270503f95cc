"""Turns an argument that a model wrote as plain text into the value that its schema asks for.

Some formats write strings without quotes, so that only the tool's schema tells "5" from 5.
Deliberately does not know any format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.output_parsers.json_text import load

_PYTHON = {"True": True, "False": False, "None": None}


def read_value(text: str, name: str, schema: Mapping[str, Any]) -> Any:
    """The value of an argument.

    Args:
      text: as the model wrote it.
      name: the argument's name.
      schema: of all arguments of the tool.

    Returns:
      The text itself if the schema allows a string; else what it means in JSON or, as models also
      write, as Python's True, False or None; the text if it means nothing.
    """
    properties = schema.get("properties")
    given = properties.get(name) if isinstance(properties, Mapping) else None
    types = _types(given, schema, depth=0)
    word = text.strip()
    if "null" in types and word in ("null", "None"):
        return None
    if "string" in types:
        return text
    if word in _PYTHON:
        return _PYTHON[word]
    value = load(word)
    return text if value is None and word != "null" else value


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> set[str]:
    """The names of the types that a schema allows; none if it says nothing of them."""
    if not isinstance(schema, Mapping) or depth > 8:
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        return _types(_find(root, reference), root, depth + 1)
    own = schema.get("type")
    types = {each for each in (own if isinstance(own, list) else [own]) if isinstance(each, str)}
    if not types:
        values = schema.get("enum", [schema["const"]] if "const" in schema else ())
        if isinstance(values, list):
            types = {"string" for value in values if isinstance(value, str)}
    for name in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(name)
        for branch in branches if isinstance(branches, list) else ():
            types |= _types(branch, root, depth + 1)
    return types


def _find(root: Any, reference: str) -> Any:
    """What a reference like "#/$defs/Unit" names; None if there is no such place."""
    found = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
