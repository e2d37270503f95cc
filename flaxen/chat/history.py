"""The history of what was typed, kept between runs in a file that only its user can read.

Each line is one entry in JSON, so that a message of several lines stays one. Deliberately does not
know the terminal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

KEPT = 1000  # entries


def read_history(path: Path) -> list[str]:
    """Reads the last entries, the latest last. A file with far more is shortened to them.

    Raises:
      OSError: the file can't be read or written.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    if len(lines) > 2 * KEPT:
        new = path.with_name(f"{path.name}.{os.getpid()}")
        _write(new, entries[-KEPT:])
        new.replace(path)
    return entries[-KEPT:]


def append_history(path: Path, text: str) -> None:
    """Adds an entry. Several chats may add to one file.

    Raises:
      OSError: the file can't be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(path, [text])


def _write(path: Path, entries: list[str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def _entry(line: str) -> str | None:
    """An entry; None for a line that another program or a full disk has damaged."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, str) else None
