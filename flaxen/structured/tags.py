"""Structural tags as a grammar in Lark's notation: text in which tags ask for a structure.

Both forms that vLLM takes are read: `structures` with `triggers`, and xgrammar's `format`.
Deliberately does not know: tokens (special ones are written by `Vocabulary.literal`), matching.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

TEXT = r"/(.|\n)*/"


@dataclass(frozen=True, kw_only=True)
class TagGrammar:
    """A grammar, and where it has JSON: directly after one of these texts."""

    lark: str
    json_begins: tuple[str, ...]


def tag_grammar(
    tag: Mapping[str, Any],
    *,
    literal: Callable[[str], str],
    schema: Callable[[Mapping[str, Any]], str],
) -> TagGrammar:
    """Makes the grammar of a structural tag.

    Args:
      tag: {"structures", "triggers"}, or {"format"}; "type" is ignored.
      literal: writes a text in Lark's notation.
      schema: writes a JSON schema as the text after `%json`.

    Raises:
      ValueError: the tag is wrong; the message names the field.
    """
    writer = _Writer(literal, schema)
    if "format" in tag:
        start = writer.write(_object(tag["format"], "format"), "format")
    elif "structures" in tag:
        start = writer.write(_old_form(tag), "")
    else:
        raise ValueError("structural_tag needs structures and triggers, or format")
    rules = "\n".join(f"{name}: {body}" for name, body in writer.rules.items())
    return TagGrammar(
        lark=f"%llguidance {{}}\nstart: {start}\n{rules}\n", json_begins=tuple(writer.json_begins)
    )


def _old_form(tag: Mapping[str, Any]) -> dict[str, Any]:
    """`structures` and `triggers` as the format of the same meaning."""
    tags = [
        {
            "begin": _text(each, "begin", f"structures[{i}]"),
            "content": {"type": "json_schema", "json_schema": each.get("schema", {})},
            "end": _text(each, "end", f"structures[{i}]"),
        }
        for i, each in enumerate(_objects(tag, "structures", ""))
    ]
    return {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}


@final
@dataclass
class _Writer:
    """Writes formats as expressions of Lark; what needs a name becomes a rule."""

    literal: Callable[[str], str]
    schema: Callable[[Mapping[str, Any]], str]
    rules: dict[str, str] = field(default_factory=dict)
    json_begins: dict[str, None] = field(default_factory=dict)

    def write(self, given: Mapping[str, Any], where: str, before: str = "") -> str:
        """The expression of a format.

        Args:
          given: the format.
          where: its path, for errors.
          before: the text that stands before it, as far as it is known.
        """
        kind = given.get("type")
        if kind == "const_string":
            return self.literal(_text(given, "value", where)) or '""'
        if kind == "json_schema":
            self.json_begins[before] = None
            return f"%json {self.schema(_object(given.get('json_schema', {}), where))}"
        if kind == "regex":
            return f"/{_text(given, 'pattern', where).replace('/', chr(92) + '/')}/"
        if kind == "any_text":
            return self._rule(TEXT)
        if kind == "sequence":
            return self._sequence(_objects(given, "elements", where), where, before)
        if kind == "or":
            choices = _objects(given, "elements", where)
            return self._either([self.write(each, where, before) for each in choices])
        if kind == "tag":
            return self._tag(given, where, before)
        if kind == "triggered_tags":
            return self._triggered(given, where)
        if kind == "tags_with_separator":
            return self._separated(given, where, before)
        raise ValueError(
            f"{_path(where, 'type')} {kind!r} is not one of const_string, json_schema, regex, "
            "any_text, sequence, or, tag, triggered_tags, tags_with_separator"
        )

    def _rule(self, body: str) -> str:
        name = f"rule{len(self.rules)}"
        self.rules[name] = body
        return name

    def _either(self, choices: Sequence[str]) -> str:
        return self._rule(" | ".join(choices))

    def _sequence(self, elements: Sequence[Mapping[str, Any]], where: str, before: str) -> str:
        parts = []
        for element in elements:
            parts.append(self.write(element, where, before))
            is_known = element.get("type") == "const_string"
            before = before + _text(element, "value", where) if is_known else ""
        return f"({' '.join(parts)})"

    def _tag(self, tag: Mapping[str, Any], where: str, before: str = "", skipped: str = "") -> str:
        """A tag without the beginning that its trigger has written."""
        begin, end = _text(tag, "begin", where), _text(tag, "end", where)
        content = _object(tag.get("content"), _path(where, "content"))
        written = begin.removeprefix(skipped)
        if content.get("type") == "any_text" and end:
            # Text up to the end, which is the first place where it occurs.
            return f"({self.literal(written)} {self._text_until(end)})"
        inner = self.write(content, where, before + begin)
        return f"({self.literal(written)} {inner} {self.literal(end)})"

    def _text_until(self, end: str) -> str:
        """Any text, and the first occurrence of the end. A special token is no text: nothing needs
        to look for it.
        """
        if self.literal(end).startswith("<["):
            return f"{self._rule(TEXT)} {self.literal(end)}"
        rule = self._rule(f"{TEXT} {self.literal(end)}")
        self.rules[f"{rule}[lazy]"] = self.rules.pop(rule)
        return rule

    def _triggered(self, given: Mapping[str, Any], where: str) -> str:
        tags = _objects(given, "tags", where)
        triggers = given.get("triggers")
        if not isinstance(triggers, list) or not all(isinstance(t, str) and t for t in triggers):
            raise ValueError(f"{_path(where, 'triggers')} must be a list of texts")
        choices = []
        for tag in tags:
            begin = _text(tag, "begin", where)
            trigger = next((each for each in triggers if begin.startswith(each)), None)
            if trigger is None:
                raise ValueError(
                    f"{_path(where, 'triggers')} must hold a beginning of {begin!r}, which begins "
                    "a tag"
                )
            choices.append(f"{self._text_until(trigger)} {self._tag(tag, where, '', trigger)}")
        choice = self._either(choices)
        count = "+" if given.get("at_least_one") else "*"
        if given.get("stop_after_first"):
            return choice if given.get("at_least_one") else f"({choice} | {self._rule(TEXT)})"
        return f"({choice}{count} {self._rule(TEXT)})"

    def _separated(self, given: Mapping[str, Any], where: str, before: str) -> str:
        separator = self.literal(_text(given, "separator", where))
        tags = _objects(given, "tags", where)
        choice = self._either([self._tag(tag, where, before) for tag in tags])
        several = choice
        if not given.get("stop_after_first"):
            several = f"({choice} ({separator} {choice})*)"
        return several if given.get("at_least_one") else f"({several})?"


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {json.dumps(value)[:60]}")
    return value


def _objects(given: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    value = given.get(name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{_path(where, name)} must be a list of at least one object")
    return [_object(each, _path(where, name)) for each in value]


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{_path(where, name)} must be a text, got {json.dumps(value)[:60]}")
    return value
