"""The structure that an output must have: a JSON schema, a regular expression, a grammar.

Deliberately does not know: how a structure becomes a `Grammar`, tokenizers. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flaxen.protocol.errors import FieldError

StructureKind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]

_KINDS: tuple[StructureKind, ...] = (
    "json",
    "json_object",
    "regex",
    "choice",
    "grammar",
    "structural_tag",
)
_FLAGS = ("json_object", "disable_any_whitespace", "disable_additional_properties")


@dataclass(frozen=True, kw_only=True)
class StructuredOutputs:
    """What an output must look like, with vLLM's names: exactly one of the first six fields.

    Equal values are equal structures, and they can be hashed: `json` and `structural_tag` are texts
    of JSON once this is made. The order of an object's properties is kept, because outputs have it.

    Raises:
      FieldError: none or several of the six are given, or a value has the wrong type. `field` is
        the path of the wrong value, such as "structured_outputs.json".
    """

    json: str | Mapping[str, Any] | None = None  # a JSON schema, or its text
    json_object: bool = False  # any JSON object
    regex: str | None = None  # of the whole output
    choice: Sequence[str] | None = None  # the output is one of these; a tuple once this is made
    grammar: str | None = None  # in Lark's notation, or in that of llama.cpp (GBNF)
    # Text in which certain beginnings ask for a structure until their end, or its text in JSON:
    # {"structures": [{"begin", "schema", "end"}], "triggers": […]}, or {"format": {…}}.
    structural_tag: str | Mapping[str, Any] | None = None

    # Of `json` and `json_object`: a regular expression of the white space between two tokens of
    # JSON; None is at most one line break or space, and an indentation.
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False  # no white space between tokens of JSON
    # Objects of `json` have no other properties than those that are listed, unless their own
    # additionalProperties says something else.
    disable_additional_properties: bool = False

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, f"must be true or false, got {getattr(self, name)!r}")
        given = self._given()
        if len(given) != 1:
            raise FieldError(
                "structured_outputs",
                f"structured_outputs needs exactly one of {', '.join(_KINDS)}, got "
                f"{' and '.join(given) or 'none'}",
            )
        for name in ("json", "structural_tag"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _object_text(name, getattr(self, name)))
        for name in ("regex", "grammar"):
            if getattr(self, name) is not None:
                _checked_text(name, getattr(self, name))
        if self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))
        self._check_json_options()

    def _check_json_options(self) -> None:
        pattern = self.whitespace_pattern
        if pattern is not None and not isinstance(pattern, str):
            raise _wrong("whitespace_pattern", f"must be a regular expression, got {pattern!r}")
        if pattern is not None and self.disable_any_whitespace:
            raise _wrong(
                "whitespace_pattern", "can't be combined with disable_any_whitespace: give one"
            )
        is_json = self.kind in ("json", "json_object")
        if (pattern is not None or self.disable_any_whitespace) and not is_json:
            name = "disable_any_whitespace" if pattern is None else "whitespace_pattern"
            raise _wrong(name, f"needs json or json_object, and {self.kind} is given")
        if self.disable_additional_properties and self.kind != "json":
            raise _wrong("disable_additional_properties", f"needs json, and {self.kind} is given")

    def _given(self) -> list[StructureKind]:
        return [name for name in _KINDS if getattr(self, name) not in (None, False)]

    @property
    def kind(self) -> StructureKind:
        """Which of the six is given."""
        return self._given()[0]

    @property
    def text(self) -> str:
        """The text of the one that is given; `choice` as a list in JSON, `json_object` as the
        schema of an object.
        """
        if self.json_object:
            return '{"type": "object"}'
        value = getattr(self, self.kind)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _wrong(name: str, problem: str) -> FieldError:
    return FieldError(f"structured_outputs.{name}", f"{name} {problem}")


def _object_text(name: str, value: object) -> str:
    """The text of an object of JSON, which is given as a text or as a mapping."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(read, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise _wrong(name, "is nested too deeply: give a flatter one") from None
    except (TypeError, ValueError) as error:
        raise _wrong(name, f"must be JSON, and is not: {error}") from None
    if not isinstance(read, Mapping):
        raise _wrong(name, f"must be an object of JSON, got a {type(read).__name__}")
    return _checked_text(name, text)


def _checked_text(name: str, text: object) -> str:
    """Refuses what is no text, and half characters (lone surrogates), which no token has."""
    if not (isinstance(text, str) and text):
        raise _wrong(name, f"must be a text that is not empty, got {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(name, f"holds half a character at position {error.start}") from None
    return text


def _choices(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise _wrong("choice", f"must be a list of at least one text, got {value!r}")
    return tuple(_checked_text("choice", text) for text in value)
