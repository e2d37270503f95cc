"""A disk that is full, for the files that this process is writing in a directory."""

from __future__ import annotations

import os
from pathlib import Path


def fill_disk_of(directory: Path) -> None:
    """Whatever is written from now on to files that are open there fails for want of room."""
    full = os.open("/dev/full", os.O_WRONLY)
    for entry in Path("/proc/self/fd").iterdir():
        if Path(os.path.realpath(entry)).parent == directory:
            os.dup2(full, int(entry.name))
    os.close(full)
