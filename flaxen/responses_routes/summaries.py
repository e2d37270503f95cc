"""The content of an item of type `compaction`: a summary in plain text, marked as ours.

Deliberately does not know how a summary is made.
"""

from __future__ import annotations

_MARK = "flaxen-summary:"


def written_summary(summary: str) -> str:
    """The `encrypted_content` of a summary: there is no secret in it."""
    return f"{_MARK}{summary}"


def read_summary(content: str) -> str | None:
    """The summary of an `encrypted_content`; None if another server has written it."""
    return content.removeprefix(_MARK) if content.startswith(_MARK) else None
