"""The output of a part: a line of JSON for each figure, as soon as it is there.

What a part found before its time was up is kept. Deliberately does not know any part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_MARK = "FIGURE "  # other lines of a part's output are not ours


def say(name: str, value: Any) -> None:
    """Prints one figure, with its unit in the name."""
    print(_MARK + json.dumps({name: value}), flush=True)


def read(output: str) -> dict[str, Any]:
    """The figures in a part's output; the last line may be cut."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(_MARK):
            try:
                found |= json.loads(line.removeprefix(_MARK))
            except json.JSONDecodeError:  # the part was ended while it printed
                continue
    return found


def rounded(figures: Mapping[str, Any], digits: int = 4) -> dict[str, Any]:
    """The same figures, with floats of a few significant digits."""
    return {
        name: float(f"{value:.{digits}g}") if isinstance(value, float) else value
        for name, value in figures.items()
    }
