"""ENGINE.ARGUMENT=VALUE, from a command line, to each engine's changed arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse_changes(texts: Sequence[str], engines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns {engine: {argument: value}}; a value that is not JSON is a string.

    Raises:
      ValueError: a text of another form, or an engine that does not run.
    """
    changes: dict[str, dict[str, Any]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        engine, dot, argument = left.partition(".")
        if not (engine and dot and argument and equals):
            raise ValueError(
                f"{text!r} is not of the form ENGINE.ARGUMENT=VALUE: write for example "
                "flaxen-bf16.max_num_batched_tokens=512"
            )
        if engine not in engines:
            raise ValueError(
                f"{text!r} changes {engine!r}, which does not run: choose from {', '.join(engines)}"
            )
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        changes.setdefault(engine, {})[argument] = parsed
    return changes
