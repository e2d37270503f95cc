"""Directories that appear whole or not at all. Deliberately does not know what is in them."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("flaxen.weights")


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
    if directory.exists():
        _check_replaceable(directory, directory, replaces)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(directory)
    try:
        filling = beside / "new"
        filling.mkdir()
        yield filling
        with set_aside(directory) as old:
            if old is not None:  # filling may have taken long: what is there now is looked at
                _check_replaceable(old, directory, replaces)
            filling.rename(directory)
    finally:
        shutil.rmtree(beside)


@contextmanager
def set_aside(directory: Path) -> Iterator[Path | None]:
    """Makes room for a directory of the same name. What was there is gone when the block ends, and
    back if it fails. If the name is taken by then, both are kept, and a warning says where.

    Args:
      directory: the name; nothing need be there.

    Yields:
      Where what was there is meanwhile, or None.
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


def _put_back(old: Path, directory: Path) -> bool:
    """Whether nothing is set aside any more."""
    if not old.exists():  # it could not be moved away
        return True
    try:
        if directory.is_file():  # a file would be replaced by a file
            raise FileExistsError(f"{directory} is a file")
        old.rename(directory)
    except OSError as error:
        logger.warning(
            "%s can't be put back as it was (%s): it is kept in %s, move it from there by hand",
            directory, error, old,
        )  # fmt: skip
        return False
    return True


def _beside(directory: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))


def _check_replaceable(found: Path, directory: Path, replaces: Collection[str]) -> None:
    """Refuses to replace what is found under a name, if anything of it would be lost."""
    if not found.is_dir():
        raise ValueError(f"{directory} is a file: give the name of a directory")
    others = sorted(entry.name for entry in found.iterdir() if entry.name not in replaces)
    if others:
        raise ValueError(
            f"{directory} already holds {others[0]}, which would be lost: remove the directory, or "
            "give another"
        )
