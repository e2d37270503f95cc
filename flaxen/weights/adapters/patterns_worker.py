"""The process that matches an adapter's patterns: a request on stdin, the answer on stdout.

`patterns.py` starts it as a script that imports nothing of flaxen. A pattern comes with the
adapter, and Python's `re` may take for ever on one name: the parent then kills this process.
"""

from __future__ import annotations

import json
import re
import sys


def _matches(pattern: str, names: list[str]) -> list[bool]:
    return [re.fullmatch(pattern, name) is not None for name in names]


def _keys(keys: list[str], names: list[str]) -> list[str | None]:
    """For each name the first key that matches the end of its path, as in PEFT."""
    return [next((k for k in keys if re.match(rf"(.*\.)?({k})$", name)), None) for name in names]


def _layers(patterns: list[str], names: list[str]) -> list[int | None]:
    """For each name the number of its layer, from the first pattern that matches."""
    found = []
    for name in names:
        matches = (re.match(rf".*\.{pattern}\.(\d+)\.", name) for pattern in patterns)
        match = next((match for match in matches if match), None)
        found.append(int(match[1]) if match else None)
    return found


def main() -> None:
    """Reads {"kind", "patterns", "names"}; writes {"found"} or {"error"}."""
    request = json.load(sys.stdin)
    patterns, names = request["patterns"], request["names"]
    answer: dict[str, object]
    try:
        if request["kind"] == "whole":
            answer = {"found": _matches(patterns[0], names)}
        elif request["kind"] == "ends":
            answer = {"found": _keys(patterns, names)}
        else:
            answer = {"found": _layers(patterns, names)}
    except (re.error, RecursionError, OverflowError) as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
