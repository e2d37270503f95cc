"""Tells a model's files from others without reading all of them.

Deliberately does not know: what is in the files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_SUFFIXES = {".safetensors", ".gguf", ".json"}
_NUM_SAMPLES, _SAMPLE_BYTES = 64, 2**14  # of each file; a smaller one is read whole


def file_identity(path: Path) -> str:
    """A hash of the names, sizes, times of change and samples of a model's files.

    To read weights whole would double the time of a start. Files of other weights have other
    times, unless somebody set them, and then other bytes in one of the samples.

    Args:
      path: a file, or a directory with files.

    Raises:
      OSError: a file can't be read.
    """
    found = [path] if path.is_file() else sorted(path.iterdir())
    identity = hashlib.sha256()
    for each in found:
        if each.suffix not in _SUFFIXES or not each.is_file():
            continue
        status = each.stat()
        identity.update(repr((each.name, status.st_size, status.st_mtime_ns)).encode())
        step = max(_SAMPLE_BYTES, status.st_size // _NUM_SAMPLES)
        with each.open("rb") as file:
            for start in range(0, status.st_size, step):
                file.seek(start)
                identity.update(file.read(_SAMPLE_BYTES))
    return identity.hexdigest()
