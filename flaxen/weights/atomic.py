"""Directories that appear whole or not at all. Deliberately does not know what is in them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_directory(directory: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """A directory to fill, which gets its name when the block ends without an error.

    Args:
      directory: the name.
      replaces: the names of files that may be there already; they are gone afterwards.

    Yields:
      An empty directory beside it.

    Raises:
      ValueError: the name is taken by something that would be lost.
    """
    directory = directory.absolute()
    _check_free(directory, replaces)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        filling = beside / "new"
        filling.mkdir()
        yield filling
        _check_free(directory, replaces)  # anew: filling it may have taken long
        old = beside / "old"
        if directory.exists():
            directory.rename(old)
        try:
            filling.rename(directory)
        except OSError:
            if old.exists():
                old.rename(directory)
            raise
    finally:
        shutil.rmtree(beside)


@contextmanager
def set_aside(directory: Path) -> Iterator[None]:
    """Makes room for a directory of the same name. What was there is gone when the block ends, and
    back if it fails.

    Args:
      directory: the name; nothing need be there.
    """
    directory = directory.absolute()
    if not directory.exists():
        yield
        return
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        directory.rename(beside / "old")
        try:
            yield
        except BaseException:
            if not directory.exists():
                (beside / "old").rename(directory)
            raise
    finally:
        shutil.rmtree(beside)


def _check_free(directory: Path, replaces: Collection[str]) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory} is a file: give the name of a directory")
    others = sorted(entry.name for entry in directory.iterdir() if entry.name not in replaces)
    if others:
        raise ValueError(
            f"{directory} already holds {others[0]}, which would be lost: remove the directory, or "
            "give another"
        )
