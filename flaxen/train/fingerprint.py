"""What the state of a run depends on, kept beside it, so that nothing else goes on with it.

A fingerprint has a fact for each setting, by its dotted name. Deliberately does not know which
settings there are, files, or how a run goes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

Json = Any


class Fact(NamedTuple):
    """One setting."""

    value: Json  # that may not change
    said: str  # what it is, for people


Fingerprint = Mapping[str, Fact]


def facts(settings: Mapping[str, Any], *, without: Collection[str] = ()) -> dict[str, Fact]:
    """A fact for each of nested settings, by its name with a dot between the levels.

    Args:
      settings: numbers, texts, sequences, paths and further mappings.
      without: names of settings, or of whole levels, that may change.
    """
    found: dict[str, Fact] = {}

    def add(prefix: str, level: Mapping[str, Any]) -> None:
        for key, value in level.items():
            name = f"{prefix}{key}"
            if name in without:
                continue
            if isinstance(value, Mapping):
                add(f"{name}.", value)
                continue
            plain = json.loads(json.dumps(value, default=str))
            found[name] = Fact(plain, json.dumps(plain))

    add("", settings)
    return found


def to_json(fingerprint: Fingerprint) -> Json:
    """As `check_unchanged` takes it."""
    return {name: list(fact) for name, fact in fingerprint.items()}


def check_unchanged(saved: Json, now: Fingerprint, *, what: str, anew: str) -> None:
    """Refuses to go on with a state that depends on something else.

    A setting that only one of the two knows is no difference: a later version may have more.

    Args:
      saved: as `to_json` gave it; None where nothing was noted.
      now: of the run that wants to go on.
      what: the saved state, as the message is to begin.
      anew: what to do in order to begin anew.

    Raises:
      ValueError: a fact changed, or nothing was noted.
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
        raise ValueError(
            f"{what}, and what its state depends on has changed: {'; '.join(changed)}. Go on with "
            f"what it began with, or {anew}"
        )
