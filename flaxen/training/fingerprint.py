"""Records what the state of a run depends on, so that it is resumed with nothing else.

A fingerprint has one fact for each setting, by its dotted name. Deliberately does not know which
settings exist, files, or the run itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

Json = Any
_MOST_SAID = 8  # changes in a message: a setting of each layer may have changed


class Fact(NamedTuple):
    """One setting."""

    value: Json  # the value, which must not change
    said: str  # the value in words, for messages


Fingerprint = Mapping[str, Fact]


def facts(settings: Mapping[str, Any], *, without: Collection[str] = ()) -> dict[str, Fact]:
    """Makes a fact for each nested setting, named with dots between the levels.

    Args:
      settings: numbers, texts, sequences, paths, and further mappings and sequences of them.
      without: names of settings, or of whole levels, that may change.
    """
    found: dict[str, Fact] = {}

    def add(prefix: str, level: Mapping[str, Any]) -> None:
        for key, value in level.items():
            name = f"{prefix}{key}"
            if name in without:
                continue
            if _holds_mappings(value):
                value = {str(number): each for number, each in enumerate(value)}
            if isinstance(value, Mapping):
                add(f"{name}.", value)
                continue
            plain = json.loads(json.dumps(value, default=str))
            found[name] = Fact(plain, json.dumps(plain))

    add("", settings)
    return found


def _holds_mappings(value: Any) -> bool:
    is_sequence = isinstance(value, list | tuple) and len(value) > 0
    return is_sequence and all(isinstance(each, Mapping) for each in value)


def to_json(fingerprint: Fingerprint) -> Json:
    """The JSON that `check_unchanged` takes."""
    return {name: list(fact) for name, fact in fingerprint.items()}


def check_unchanged(saved: Json, now: Fingerprint, *, what: str, anew: str) -> None:
    """Refuses to resume a state that depends on something else.

    A setting that only one of the two has is not a difference: a later version may have more.

    Args:
      saved: the result of `to_json`; None if nothing was recorded.
      now: the fingerprint of the run that resumes.
      what: the name of the saved state, with which the message begins.
      anew: how the user starts over.

    Raises:
      ValueError: a fact changed, or nothing was recorded.
    """
    if saved is None:
        raise ValueError(
            f"{what}, saved by an earlier version of flaxen that did not note what its state "
            "depends on (model, data, settings): it can't be told whether these are still the "
            f"same. End it with that version, or {anew}"
        )
    changed = [
        f"{name} was {saved[name][1]} and is now {fact.said}"
        for name, fact in now.items()
        if name in saved and saved[name][0] != fact.value
    ]
    if changed:
        said = "; ".join(changed[:_MOST_SAID])
        if len(changed) > _MOST_SAID:
            said += f"; and {len(changed) - _MOST_SAID} more"
        raise ValueError(
            f"{what}, and what its state depends on has changed: {said}. Go on with "
            f"what it began with, or {anew}"
        )
