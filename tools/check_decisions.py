"""Fails when a decision record is missing from the index by subject, or is listed there twice.

Knows: the names of the records, and the index' links. Deliberately does not judge the subjects.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

INDEX = "README.md"
# A line of the index: "- [0030](0030-prefix-pages.md) What was decided."
_ENTRY = re.compile(r"^- \[(\d{4})\]\((\S+\.md)\) \S", re.MULTILINE)


def check(folder: Path) -> list[str]:
    """Returns what is wrong with the index of the decision records in `folder`, as messages."""
    records = {path.name for path in folder.glob("[0-9]*.md")}
    entries = _ENTRY.findall((folder / INDEX).read_text(encoding="utf-8"))
    listed = Counter(name for _, name in entries)
    offences = [
        f"{name} is not in the index: add one line that says the decision to {folder / INDEX}"
        for name in sorted(records - listed.keys())
    ]
    offences += [
        f"{folder / INDEX} lists {name} {count} times: keep the line under its best subject"
        for name, count in listed.items()
        if count > 1
    ]
    offences += [
        f"{folder / INDEX} lists {name}, which is no file: remove the line or mend the name"
        for name in listed.keys() - records
    ]
    offences += [
        f"{folder / INDEX} shows {name} as {number}: show the number that its name begins with"
        for number, name in entries
        if not name.startswith(f"{number}-")
    ]
    numbers = Counter(name[:4] for name in records)
    offences += [
        f"two records have the number {number}: give one of them the next free number"
        for number, count in numbers.items()
        if count > 1
    ]
    return offences


def main() -> int:
    """Prints what is wrong; returns 1 when anything is."""
    offences = check(Path(__file__).resolve().parent.parent / "docs" / "decisions")
    for line in offences:
        print(f"error: {line}", file=sys.stderr)
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
