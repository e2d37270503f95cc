"""Resolves a client's path to an adapter's directory, and refuses paths outside --lora-dir.

Deliberately does not know routes, nor the contents of an adapter's files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flaxen.protocol import AdapterWeights
from flaxen.server.errors import ApiError, invalid
from flaxen.server.schema import shorten


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """Adapters on this machine that clients may load."""

    directory: Path  # clients' paths must be below it
    read: Callable[[Path], AdapterWeights]  # reads an adapter; raises ValueError or OSError

    def find(self, path: str) -> Path:
        """The directory that a client's path names.

        Raises:
          ApiError: 400, the path is outside the directory; 404, there is nothing at it.
        """
        root = os.path.realpath(self.directory)
        outside = invalid(
            f"lora_path must lead to a directory below the server's --lora-dir, got "
            f"{shorten(path)}: give it relative to that",
            "lora_path",
        )
        # Compared as text first: clients must not learn what exists outside the directory.
        wanted = os.path.normpath(os.path.join(root, path))
        if "\0" in path or not _is_below(wanted, root):
            raise outside
        found = os.path.realpath(wanted)
        if not _is_below(found, root):  # a link leads outside
            raise outside
        if not os.path.isdir(found):
            raise ApiError(
                404,
                f"there is no adapter at {shorten(path)}",
                param="lora_path",
                code="adapter_not_found",
            )
        return Path(found)


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip(os.sep) + os.sep)
