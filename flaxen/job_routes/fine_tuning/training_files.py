"""The interface of uploaded files for jobs. Deliberately does not know how files are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from flaxen.job_routes.storage.pages import Row


class TrainingFiles(Protocol):
    """Files by their ids. Both methods raise UnknownIdError for an unknown id."""

    def get(self, file_id: str) -> Row:
        """A file's row; `bytes` is its size."""

    def path(self, file_id: str) -> Path:
        """The path of a file's bytes."""
