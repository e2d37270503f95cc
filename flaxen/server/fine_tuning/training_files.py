"""What jobs ask of uploaded files. Deliberately does not know how files are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from flaxen.server.storage.pages import Row


class TrainingFiles(Protocol):
    """Files by their ids. Both raise UnknownIdError where there is none of the id."""

    def get(self, file_id: str) -> Row:
        """A file's row: `bytes` says its size."""

    def path(self, file_id: str) -> Path:
        """Where its bytes are."""
