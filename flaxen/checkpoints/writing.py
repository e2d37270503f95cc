"""Writes the files of one checkpoint: all of them by one process, or one by each of several.

The directory gets its name when all are in it and on the disk. Deliberately does not know trees.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from flaxen.checkpoints.pieces import Pieces
from flaxen.checkpoints.reading import Json
from flaxen.checkpoints.saved_arrays import ARRAYS, INDEX
from flaxen.sharding.processes import Processes
from flaxen.weights.atomic import sync, sync_tree
from flaxen.weights.safetensors_writer import write_arrays

_POLL_S = 0.02
PATIENCE_S = 1800.0  # how long a process waits for the files of the others


def write_checkpoint(
    path: Path,
    pieces: Pieces,
    index: dict[str, Json],
    processes: Processes,
    patience_s: float = PATIENCE_S,
) -> None:
    """Writes this process's file of a checkpoint, and waits until the checkpoint is complete.

    The processes meet in the directory, which they must share: process 0 writes the index when
    the files of all have their names.

    Args:
      path: the checkpoint's directory, which does not exist yet.
      pieces: what this process saves.
      index: what the index says besides the leaves.
      processes: those that write.
      patience_s: how long this process waits for others.

    Raises:
      OSError: the file can't be written, or another process did not write its own.
    """
    part = path.with_name(f"{path.name}.part")
    part.mkdir(exist_ok=processes.count > 1)
    names = [ARRAYS]
    if pieces.is_divided:
        total = processes.count
        names = [f"arrays-{n:05d}-of-{total:05d}.safetensors" for n in range(total)]
        index = {**index, "files": names}
    try:
        _write_file(part, names[processes.index], pieces)
        if processes.index:
            _await(path.exists, part, names, patience_s)
            return
        _await(lambda: all((part / name).exists() for name in names), part, names, patience_s)
        text = json.dumps({**index, "leaves": pieces.leaves})
        (part / INDEX).write_text(text, encoding="utf-8")
        sync_tree(part)
    except BaseException:  # its room on a full disk is given back, and the others see it
        shutil.rmtree(part, ignore_errors=processes.count > 1)
        raise
    part.rename(path)
    sync(path.parent)


def _write_file(part: Path, name: str, pieces: Pieces) -> None:
    """Writes the arrays. The file's name says that all of it is on the disk."""
    if not pieces.is_divided:  # nobody waits for it
        write_arrays(part / name, pieces.arrays)
        return
    writing = part / f"{name}.writing"
    write_arrays(writing, pieces.arrays)
    sync(writing)
    writing.rename(part / name)


def _await(is_done: Callable[[], bool], part: Path, names: list[str], patience_s: float) -> None:
    """Waits for other processes.

    Raises:
      OSError: one of them failed and removed the directory, or they take too long.
    """
    until = time.monotonic() + patience_s
    while not is_done():
        if not part.exists() and not is_done():
            raise OSError(
                f"{part} was given up by another process, whose own message says why: the last "
                "complete checkpoint is kept"
            )
        if time.monotonic() > until:
            missing = [name for name in names if not (part / name).exists()]
            raise OSError(
                f"{part} is not complete after {patience_s:g} s: "
                f"{', '.join(missing) or 'the index'} did not come. All processes must write into "
                "one directory: is it on a disk that they share?"
            )
        time.sleep(_POLL_S)
