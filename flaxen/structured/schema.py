"""A JSON schema as the matcher takes it: without what has no effect.

The matcher refuses what it can't do by its name. What JSON Schema itself lets validators ignore is
taken out here, so that it is not refused. Deliberately does not know: tokens, grammars.
"""

from __future__ import annotations

import re
from typing import Any

# Formats that JSON Schema defines; the matcher knows some, and refuses the others by their names.
# Any other format, such as OpenAPI's int32, only tells people something.
_FORMATS = frozenset(
    ("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname",
     "ipv4", "ipv6", "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template",
     "json-pointer", "relative-json-pointer", "regex")
)  # fmt: skip
# Values with which a keyword forbids nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "minProperties": (0,),
    "unevaluatedProperties": (True,),
    "unevaluatedItems": (True,),
    "propertyNames": (True, {}, {"type": "string"}),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "patternProperties": ({},),
    "not": (False,),
}
_DRAFT = re.compile(r"https?://json-schema\.org/(draft-0[3467]|draft/20(19-09|20-12))/schema#?")
_DRAFT_3 = "http://json-schema.org/draft-03/schema"
# Keywords whose values are schemas by names, or lists of schemas, or data.
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DATA = frozenset(("const", "enum", "default", "examples", "example", "required"))


def prepare_schema(schema: dict[str, Any], *, closes_objects: bool) -> dict[str, Any]:
    """Returns the schema without keywords that have no effect. The schema itself is not changed.

    Args:
      schema: a JSON schema.
      closes_objects: objects whose properties are listed have no others, unless they say so.

    Raises:
      ValueError: the schema can't be done; the message names the keyword.
      RecursionError: it is nested too deeply.
    """
    prepared = _prepared(schema, closes_objects)
    assert isinstance(prepared, dict)
    draft = schema.get("$schema")
    if isinstance(draft, str) and draft.rstrip("#") == _DRAFT_3:
        raise ValueError("$schema names draft 3: write the schema in a draft from 4 to 2020-12")
    if not (isinstance(draft, str) and _DRAFT.fullmatch(draft)):
        prepared.pop("$schema", None)  # an unknown one means the newest draft, to validators too
    return prepared


def _prepared(value: Any, closes_objects: bool) -> Any:
    if isinstance(value, list):
        return [_prepared(each, closes_objects) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for keyword, given in value.items():
        if keyword in _DATA:
            found[keyword] = given
        elif keyword in _NAMED and isinstance(given, dict):
            if given or keyword not in _WITHOUT_EFFECT:
                found[keyword] = {
                    name: _prepared(each, closes_objects) for name, each in given.items()
                }
        elif not _has_no_effect(keyword, given):
            found[keyword] = _prepared(given, closes_objects)
    least = found.get("minProperties", 0)
    if isinstance(least, int) and least > 1:
        if len(set(_names(found.get("required")))) < least:
            raise ValueError(
                f"minProperties {least} needs as many required properties, because the names of "
                "others may be repeated: require them, or set it to 1"
            )
        del found["minProperties"]  # the required properties are enough
    if closes_objects and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def _names(required: Any) -> list[str]:
    """The names in `required`; in draft 4's predecessors it is a boolean."""
    return (
        [each for each in required if isinstance(each, str)] if isinstance(required, list) else []
    )


def _has_no_effect(keyword: str, given: Any) -> bool:
    if keyword == "format":
        return isinstance(given, str) and given not in _FORMATS
    # 0 is False in Python, and not in JSON.
    return any(
        given == each and isinstance(given, bool) == isinstance(each, bool)
        for each in _WITHOUT_EFFECT.get(keyword, ())
    )
