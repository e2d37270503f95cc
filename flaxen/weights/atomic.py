"""Creates directories and files atomically: a name means that all is there, also after the machine
lost its power. Deliberately does not know their contents.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("flaxen.weights")


@contextmanager
def new_directory(directory: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Yields a directory to fill, which gets its name when the block ends without an error.

    Args:
      directory: the final name.
      replaces: the names of existing files in it that may be replaced.

    Yields:
      An empty directory next to it.

    Raises:
      ValueError: the name is in use by something that would be lost.
    """
    directory = directory.absolute()
    if directory.exists():
        _check_replaceable(directory, directory, replaces)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(directory)
    try:
        filling = beside / "new"
        filling.mkdir()
        yield filling
        sync_tree(filling)
        with set_aside(directory) as old:
            if old is not None:  # filling may take long, so the name is checked again
                _check_replaceable(old, directory, replaces)
            filling.rename(directory)
            sync(directory.parent)
    finally:
        shutil.rmtree(beside)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields the name of a file to write, which gets its own name when the block ends without an
    error.

    Args:
      path: the final name.

    Yields:
      A file that does not exist yet, in a directory next to it.

    Raises:
      ValueError: the name is in use.
    """
    path = path.absolute()
    _check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        yield beside / path.name
        sync(beside / path.name)
        _check_free(path)  # writing may take long
        (beside / path.name).rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(beside)


@contextmanager
def set_aside(directory: Path) -> Iterator[Path | None]:
    """Moves a directory away to make room for a new one of the same name. The old one is deleted
    when the block ends, and moved back if it fails. If the name is in use by then, both are kept,
    and a warning says where.

    Args:
      directory: the name, which need not exist.

    Yields:
      The old directory's temporary place, or None.
    """
    directory = directory.absolute()
    if not directory.exists():
        yield None
        return
    beside = _beside(directory)
    old = beside / "old"
    try:
        directory.rename(old)
        yield old
    except BaseException:
        if _put_back(old, directory):
            beside.rmdir()
        raise
    shutil.rmtree(beside)


def sync_tree(directory: Path) -> None:
    """Waits until a directory and all that is in it are on the disk.

    Raises:
      OSError: something can't be written.
    """
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def sync(path: Path) -> None:
    """Waits until a file's contents, or the names in a directory, are on the disk.

    Raises:
      OSError: they can't be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_back(old: Path, directory: Path) -> bool:
    """Moves the old directory back. Returns whether nothing is left in its temporary place."""
    if not old.exists():  # it was never moved away
        return True
    try:
        if directory.is_file():  # rename would replace a file
            raise FileExistsError(f"{directory} is a file")
        old.rename(directory)
    except OSError as error:
        logger.warning(
            "%s can't be put back as it was (%s): it is kept in %s, move it from there by hand",
            directory, error, old,
        )  # fmt: skip
        return False
    return True


def _beside(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))


def _check_free(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} exists already: remove it, or give another name")


def _check_replaceable(found: Path, directory: Path, replaces: Collection[str]) -> None:
    """Refuses to replace a directory if anything in it would be lost."""
    if not found.is_dir():
        raise ValueError(f"{directory} is a file: give the name of a directory")
    others = sorted(entry.name for entry in found.iterdir() if entry.name not in replaces)
    if others:
        raise ValueError(
            f"{directory} already holds {others[0]}, which would be lost: remove the directory, or "
            "give another"
        )
