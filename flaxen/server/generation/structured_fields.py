"""The fields that say what an answer must look like: OpenAI's `response_format`, and others.

Knows: every name that they have, and which of them mean the same. Deliberately does not know: how a
structure becomes a grammar, sampling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flaxen.protocol import FieldError, Grammar, StructuredOutputs
from flaxen.server.context import Context
from flaxen.server.errors import ApiError, invalid
from flaxen.server.generation.bodies import CommonBody
from flaxen.server.lanes import deadline
from flaxen.server.schema import must_be

_COMPILE_S = 30.0  # including the wait for a turn
_FORMATS = "text, json_object, json_schema or structural_tag"
# vLLM's older names and llama.cpp's, and the fields of structured_outputs that they mean.
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "structural_tag": "structural_tag",
    "grammar": "grammar",
    "json_schema": "json",
}
_STRUCTURE_FIELDS = frozenset(
    (*_GUIDED.values(), "whitespace_pattern", "disable_any_whitespace",
     "disable_additional_properties")
)  # fmt: skip


async def grammar_of(
    structure: StructuredOutputs | None, where: str, context: Context
) -> Callable[[], Grammar] | None:
    """The function that makes a structure's grammars, without delaying other requests.

    Args:
      structure: None for no structure, and no grammar.
      where: the field that asks for it, for errors.
      context: has the compiler and its thread.

    Raises:
      ApiError: 400, the structure can't be done; 429 and 503, too many wait to be compiled.
    """
    if structure is None:
        return None
    if (found := context.grammars.find(structure)) is not None:
        return found
    try:
        async with deadline("compiling a grammar", _COMPILE_S):
            return await context.grammar_lane.run(lambda: context.grammars.compile(structure))
    except FieldError as error:
        raise invalid(f"{where}: {error}", where) from None
    except ValueError as error:  # the model has no end of a sequence
        raise invalid(str(error), where) from None


def read_structure(common: CommonBody) -> tuple[StructuredOutputs | None, str]:
    """The structure that a body asks for, and the field that does; None and "" if none does.

    Raises:
      ApiError: 400, several fields ask for one, or a value is wrong.
    """
    asked = [name for name in _GUIDED if getattr(common, name) not in (None, False)]
    if common.structured_outputs is not None:
        asked.append("structured_outputs")
    format_fields, format_path = _read_format(common.response_format)
    if format_fields is not None:
        asked.append("response_format")
    if not asked:
        if common.guided_whitespace_pattern is not None:
            raise invalid(
                "guided_whitespace_pattern needs guided_json or another field that asks for JSON",
                "guided_whitespace_pattern",
            )
        return None, ""
    if len(asked) > 1:
        raise invalid(
            f"{' and '.join(asked)} both say what the answer must look like: send one of them",
            asked[-1],
        )
    [name] = asked
    if name == "response_format":
        assert format_fields is not None
        fields, where = format_fields, format_path
    elif name == "structured_outputs":
        fields, where = _known_fields(common.structured_outputs or {}), name
    else:
        fields, where = {_GUIDED[name]: getattr(common, name)}, name
    if common.guided_whitespace_pattern is not None:
        fields["whitespace_pattern"] = common.guided_whitespace_pattern
    try:
        return StructuredOutputs(**fields), where
    except FieldError as error:
        raise _wrong(error, where) from None


def _wrong(error: FieldError, where: str) -> ApiError:
    """The error of a value, by the name that the client gave it."""
    if where == "structured_outputs":
        return invalid(str(error), error.field)
    return invalid(f"{where}: {error}", where)


def _known_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in given.items() if value is not None}
    for name in fields:
        if name not in _STRUCTURE_FIELDS:
            raise invalid(
                f"unknown field structured_outputs.{name[:80]}: there are "
                f"{', '.join(sorted(_STRUCTURE_FIELDS))}",
                f"structured_outputs.{name[:80]}",
                "unknown_parameter",
            )
    return fields


def _read_format(given: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, str]:
    """The fields of the structure that a `response_format` means, and their path; None for text."""
    if given is None:
        return None, ""
    path = "response_format"
    fields = {name: value for name, value in given.items() if value is not None}
    kind = fields.pop("type", None)
    match kind:
        case "text":
            _allow_only(fields, (), path)
            return None, ""
        case "json_object":
            # llama.cpp's clients put a schema here.
            _allow_only(fields, ("schema",), path)
            if "schema" in fields:
                return {"json": _object(fields["schema"], f"{path}.schema")}, f"{path}.schema"
            return {"json_object": True}, path
        case "json_schema":
            _allow_only(fields, ("json_schema",), path)
            path = f"{path}.json_schema"
            return _read_json_schema(_object(fields.get("json_schema"), path), path)
        case "structural_tag":
            return {"structural_tag": fields}, path
    raise must_be(f"{path}.type", _FORMATS, kind)


def _read_json_schema(given: Mapping[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """OpenAI's `json_schema`. Its schema is followed exactly, whether it is `strict` or not."""
    fields = {name: value for name, value in given.items() if value is not None}
    _allow_only(fields, ("name", "description", "schema", "strict"), path)
    for name, kind, wanted in (
        ("name", str, "a string"),
        ("description", str, "a string"),
        ("strict", bool, "true or false"),
    ):
        if name in fields and not isinstance(fields[name], kind):
            raise must_be(f"{path}.{name}", wanted, fields[name])
    if "schema" not in fields:
        return {"json_object": True}, path
    return {"json": _object(fields["schema"], f"{path}.schema")}, f"{path}.schema"


def _allow_only(fields: Mapping[str, Any], names: tuple[str, ...], path: str) -> None:
    for name in fields:
        if name not in names:
            raise invalid(
                f"unknown field {path}.{name[:80]}: there are {', '.join(('type', *names))}",
                f"{path}.{name[:80]}",
                "unknown_parameter",
            )


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise must_be(path, "an object", json.dumps(value))
    return value
