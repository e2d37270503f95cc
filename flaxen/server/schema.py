"""Bodies of JSON by pydantic: the types that fields share, and one parser with our errors.

Deliberately does not know limits, engines, or the fields of the routes that generate.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from flaxen.server.errors import ApiError, invalid


class StrictBody(BaseModel):
    """A body, or a part of one: "5" is not a number and true is not 1. Unknown fields are refused,
    never dropped.
    """

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


def whole(value: Any) -> Any:
    """Converts 3.0 to 3: JSON has one kind of number, and some clients always write a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wholes(values: Any) -> Any:
    """Converts each item of a list, which may have a million."""
    if not isinstance(values, list) or float not in set(map(type, values)):
        return values
    return [whole(value) for value in values]


def _metadata(pairs: dict[str, Any]) -> dict[str, Any]:
    for name, value in pairs.items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 512:
            raise invalid(
                "metadata must map keys of at most 64 characters to strings of at most 512; "
                f"{shorten(name)} does not",
                "metadata",
            )
    if len(pairs) > 16:
        raise invalid(f"metadata must have at most 16 keys, got {len(pairs)}", "metadata")
    return pairs


Whole = Annotated[int, BeforeValidator(whole)]
Wholes = Annotated[list[int], BeforeValidator(_wholes)]
# What a client notes about what is kept, within OpenAI's limits.
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_metadata),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]


class LoadAdapterBody(StrictBody):
    """The fields of /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str
    load_inplace: bool | None = None


class UnloadAdapterBody(StrictBody):
    """The fields of /v1/unload_lora_adapter."""

    lora_name: str


_Body = TypeVar("_Body", bound=BaseModel)


def parse(
    body_class: type[_Body],
    fields: Mapping[str, Any],
    *,
    context: Mapping[str, Any] | None = None,
    where: str = "",
) -> _Body:
    """Checks the fields' names and types. An unknown field that is null counts as not given.

    Args:
      body_class: the fields that there are.
      fields: the JSON object.
      context: this server's limits, for validators that ask for them.
      where: the object's place in the body, as "input[0].", for errors.

    Raises:
      ApiError: 400 with the first wrong field as its param.
    """
    known = body_class.model_fields
    given = {name: value for name, value in fields.items() if value is not None or name in known}
    try:
        return body_class.model_validate(given, context=context)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
    param = where + _param(problem["loc"])
    if problem["type"] == "extra_forbidden":
        raise invalid(
            f"unknown field {param!r}: this server would have to ignore it, and refuses instead; "
            "remove it, or see docs/server.md for the fields there are",
            param,
            "unknown_parameter",
        )
    if problem["type"] == "missing":
        raise invalid(f"the field {param!r} is required", param, "missing_required_parameter")
    code = "invalid_value" if problem["type"] == "invalid_value" else "invalid_type"
    wanted = _wanted(problem)
    raise must_be(param, wanted, problem["input"], code)


def _wanted(problem: ErrorDetails) -> str:
    """What a field must be. For most types pydantic says it in its message alone, which is shown:
    nothing is decided by its words."""
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "an object"
    message = problem["msg"].removeprefix("Input should be ")
    return message.replace("String should match pattern", "a text that matches")


def must_be(param: str, wanted: str, value: object, code: str = "invalid_value") -> ApiError:
    """A 400: a field is not what it must be."""
    return invalid(f"{param} must be {wanted}, got {shorten(value)}", param, code)


def shorten(value: object) -> str:
    """Shortens a value for an error message to at most a line of what the client sent."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def _param(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") -> "messages[0].role", as OpenAI names it."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            # The key is the client's own text: it is shown, so it is shortened.
            name += ("." if name else "") + part[:80]
    return name
