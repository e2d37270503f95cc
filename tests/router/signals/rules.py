"""Rules from the mappings of a configuration, and what they find: for the tests of signals."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any

from flaxen.router.request import Message, RoutedRequest
from flaxen.router.signals.found import Found
from flaxen.router.signals.kinds import KINDS, SignalKind
from flaxen.router.signals.settings import Finder, SignalSettings

_NO_SETTINGS = SignalSettings()
BY_COLLECTION = {kind.collection: kind for kind in KINDS}


def build(rule: type[Any], value: dict[str, Any]) -> Any:
    """A dataclass from a mapping, with the dataclasses and tuples that its fields are of."""
    types_of = typing.get_type_hints(rule)
    keys = {field.name.rstrip("_"): field.name for field in dataclasses.fields(rule)}
    return rule(**{keys[key]: _convert(types_of[keys[key]], each) for key, each in value.items()})


def _convert(wanted: Any, value: Any) -> Any:
    if typing.get_origin(wanted) is types.UnionType:
        wanted = next(each for each in typing.get_args(wanted) if each is not type(None))
    if typing.get_origin(wanted) is tuple:
        return tuple(_convert(typing.get_args(wanted)[0], each) for each in value)
    return build(wanted, value) if dataclasses.is_dataclass(wanted) else value


def finder(
    collection: str, *rules: dict[str, Any], settings: SignalSettings = _NO_SETTINGS
) -> Finder:
    """The finder of rules of one kind."""
    kind: SignalKind = BY_COLLECTION[collection]
    assert kind.prepare is not None
    return kind.prepare([build(kind.rule, {"name": "r", **rule}) for rule in rules], settings)


def found(collection: str, rule: dict[str, Any], asked: str | RoutedRequest) -> Found:
    """What one rule finds in a request, or in a text of a user."""
    [result] = finder(collection, rule)(asked if isinstance(asked, RoutedRequest) else of(asked))
    return result


def of(text: str) -> RoutedRequest:
    """The request of a user with one text."""
    return with_messages([Message(role="user", text=text)])


def with_messages(messages: Sequence[Message], **fields: Any) -> RoutedRequest:
    return RoutedRequest(api="chat", model="auto", messages=tuple(messages), **fields)
