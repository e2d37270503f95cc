"""Which directories of this machine a client's path may lead to.

Deliberately does not know routes, nor what is in an adapter's files.
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

    directory: Path  # a client's path must lead to somewhere below
    read: Callable[[Path], AdapterWeights]  # raises ValueError or OSError

    def find(self, path: str) -> Path:
        """Where a client's path leads.

        Raises:
          ApiError: 400, it leads out of the directory; 404, there is nothing.
        """
        root = os.path.realpath(self.directory)
        outside = invalid(
            f"lora_path must lead to a directory below the server's --lora-dir, got "
            f"{shorten(path)}: give it relative to that",
            "lora_path",
        )
        # Compared as text first: the disk is not asked about what a client may not know of.
        wanted = os.path.normpath(os.path.join(root, path))
        if "\0" in path or not _is_below(wanted, root):
            raise outside
        found = os.path.realpath(wanted)
        if not _is_below(found, root):  # through a link
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
