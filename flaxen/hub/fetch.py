"""Downloads one file, from where an earlier try broke off, and compares its hash with the hub's.

The client's own downloads begin again after a process has ended, and check a file's size only
(decision 0245). Deliberately does not know models.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os.path import samestat
from pathlib import Path
from typing import Any, BinaryIO, cast, final

from flaxen.hub.selection import RepoFile
from flaxen.hub.sizes import format_size

INCOMPLETE = ".incomplete"  # the client's suffix too, so that it counts such files as ours


def num_fetched(place: Path) -> int:
    """The bytes of a file that an earlier try has left; 0 if there was none."""
    partial = _partial(place)
    return partial.stat().st_size if partial.is_file() else 0


def fetch(
    file: RepoFile,
    url: str,
    headers: dict[str, str],
    place: Path,
    is_there: Callable[[], bool],
    on_bytes: Callable[[int], None],
) -> None:
    """Downloads a file.

    Args:
      file: the file, with its size and hash.
      url: its address.
      headers: of the request.
      place: the file's final name, at which nothing appears before it is whole and verified.
      is_there: whether another process has downloaded it meanwhile.
      on_bytes: called with the bytes that arrived since the last call; it is less than 0 if the
          server begins again.

    Raises:
      ValueError: the disk is full, or the file that arrived has another hash and was deleted.
      OSError: the directory can't be written.
      Exception: the client's errors, if the hub or network refuses; what has arrived is kept.
    """
    partial = _partial(place)
    try:
        with _locked(partial) as stream:
            if is_there():
                partial.unlink(missing_ok=True)
                return
            try:
                _append(stream, file, url, headers, on_bytes)
            finally:
                if not num_fetched(place):  # the hub refused: nothing was begun
                    partial.unlink(missing_ok=True)
            _verify(file, partial)
            os.fsync(stream.fileno())  # its name is the proof of its contents from now on
            partial.replace(place)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(file, partial) from None
        raise


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Opens a file that only one process at a time may append to, and waits for its turn."""
    while True:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # The one that had its turn before may have given the file its final name, or deleted
            # it; what is open here is then no longer what has this name.
            if partial.exists() and samestat(partial.stat(), os.fstat(stream.fileno())):
                yield stream
                return


def _append(
    stream: BinaryIO,
    file: RepoFile,
    url: str,
    headers: dict[str, str],
    on_bytes: Callable[[int], None],
) -> None:
    from huggingface_hub.file_download import http_get

    have = stream.seek(0, os.SEEK_END)
    if have > file.size:  # the file is another than the one that was begun
        on_bytes(-have)
        have = stream.truncate(0)
    http_get(
        url,
        stream,
        resume_size=have,
        headers=headers,
        expected_size=file.size,
        displayed_filename=file.name,
        tqdm_class=cast(Any, lambda **_: _Counter(on_bytes)),
    )
    stream.flush()


@final
class _Counter:
    """Stands where the client would draw a bar with tqdm."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self.update = on_bytes

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def has_contents(path: Path, file: RepoFile) -> bool:
    """Whether a file on this machine is the hub's, by its size and hash."""
    return (
        path.is_file()
        and path.stat().st_size == file.size
        and (file.digest is None or digest_of(path, file) == file.digest)
    )


def digest_of(path: Path, file: RepoFile) -> str:
    """The hash of the kind that the hub gives for `file`: SHA-256, or git's."""
    hashed = hashlib.sha256()
    if file.sha256 is None:  # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            hashed.update(piece)
    return hashed.hexdigest()


def _verify(file: RepoFile, partial: Path) -> None:
    found = digest_of(partial, file)
    if file.digest in (None, found):
        return
    partial.unlink()
    raise ValueError(
        f"{file.name} arrived damaged: its hash is {found}, and the hub's is {file.digest}. It was "
        "deleted: run the command again"
    )


def _no_space(file: RepoFile, partial: Path) -> ValueError:
    left = file.size - partial.stat().st_size
    return ValueError(
        f"the disk of {partial.parent} is full: {file.name} needs {format_size(left)} more. Make "
        "room (`flaxen list` says what models take) and run the command again: it goes on from "
        "here"
    )


def _partial(place: Path) -> Path:
    return place.with_name(place.name + INCOMPLETE)
