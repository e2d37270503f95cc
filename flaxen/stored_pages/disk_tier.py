"""Pages on disk in segments, of which the least recently used go first.

A directory holds a folder for each fingerprint. One process at a time uses a folder; segments in
folders that nobody uses count too, and are evicted like any.

Deliberately does not know: the host's memory, threads that call it, what a key is made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import numpy as np

from flaxen.stored_pages import segment
from flaxen.stored_pages.segment import Segment, SegmentError

_LOG = logging.getLogger(__name__)
_SUFFIX = ".pages"
_OF_FINGERPRINT = re.compile("[0-9a-f]{32}")  # a folder; others' files are not ours to remove
_PAUSE_S = 30.0  # without writing, after the disk was full or broken


@final
class DiskTier:
    """The segments of one fingerprint. Safe to call from any thread.

    Args:
      directory: where the folders are; it is made if it is not there.
      fingerprint: of all that a page's bits depend on; hexadecimal.
      num_bytes: the most bytes of all segments in the directory.

    Raises:
      ValueError: another engine uses the folder, or the directory can't be used.
    """

    def __init__(self, directory: Path, fingerprint: str, num_bytes: int) -> None:
        self._fingerprint, self._num_bytes = fingerprint, num_bytes
        self._folder = directory / fingerprint[:32]
        self._lock = threading.Lock()  # guards all below
        self._segments: OrderedDict[Path, Segment | None] = OrderedDict()  # None: another folder's
        self._sizes: dict[Path, int] = {}
        self._path_of: dict[bytes, Path] = {}
        self._said: set[str] = set()
        self._rests_until_s = 0.0
        self.num_held_bytes = self.num_written = self.num_dropped = self.num_mismatches = 0
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = _locked(self._folder)
            if self._held is None:
                raise ValueError(
                    f"another engine stores the same model's pages in {directory}: give each its "
                    "own directory"
                )
            self._scan(directory)
        except OSError as error:
            raise ValueError(f"pages can't be stored in {directory}: {error}") from error

    def __contains__(self, key: object) -> bool:
        return key in self._path_of

    def find(self, keys: Iterable[bytes]) -> dict[Path, list[bytes]]:
        """The keys that are here, by the segments that have them."""
        found: dict[Path, list[bytes]] = {}
        with self._lock:
            for key in keys:
                if (path := self._path_of.get(key)) is not None:
                    found.setdefault(path, []).append(key)
        return found

    def load(self, path: Path, keys: Sequence[bytes]) -> tuple[dict[bytes, np.ndarray], str]:
        """Reads and verifies pages of a segment. One that is not as it was written is removed.

        Returns:
          The pages, by key; none if any is wrong. And their owner.
        """
        with self._lock:
            found = self._segments.get(path)
        if found is None:  # evicted since
            return {}, ""
        try:
            return segment.read_pages(path, [(key, found.places[key]) for key in keys]), found.owner
        except (SegmentError, OSError) as error:
            with self._lock:
                if path in self._segments:  # else it was evicted meanwhile
                    self.num_mismatches += len(keys)
                    self._say("damaged", f"a segment is not used, its pages are computed: {error}")
                    self._remove(path)
            return {}, ""

    def store(self, pages: Sequence[tuple[bytes, np.ndarray]], owner: str) -> None:
        """Writes pages that are not here as one segment. What can't be written is dropped."""
        pages = [each for each in pages if each[0] not in self._path_of]
        num_bytes = sum(page.nbytes for _, page in pages)
        if not pages:
            return
        if num_bytes > self._num_bytes or time.monotonic() < self._rests_until_s:
            self.num_dropped += len(pages)
            return
        with self._lock:
            self._make_room(num_bytes)
        path = self._folder / (secrets.token_hex(8) + _SUFFIX)
        try:
            written = segment.write(path, self._fingerprint, owner, pages)
        except OSError as error:
            self.num_dropped += len(pages)
            self._rests_until_s = time.monotonic() + _PAUSE_S
            self._say("full", f"pages can't be stored now, serving goes on without: {error}")
            return
        self.num_written += len(pages)
        with self._lock:
            self._add(path, written, written.num_bytes)

    def touch(self, keys: Iterable[bytes]) -> None:
        """Marks the segments of pages as used, that of the last page as the most recent."""
        for path in self.find(keys):
            with self._lock:
                if path in self._segments:
                    self._segments.move_to_end(path)
            try:
                os.utime(path)
            except OSError:  # removed by somebody else: `load` will see
                continue

    def drop(self, owner: str | None = None) -> None:
        """Removes the segments of an owner in this folder; None: of all."""
        with self._lock:
            for path, found in list(self._segments.items()):
                if found is not None and owner in (None, found.owner):
                    self._remove(path)

    def close(self) -> None:
        """Lets another process use the folder."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _scan(self, directory: Path) -> None:
        """Finds the segments that are there, and removes what no process finished."""
        bad: dict[str, int] = {}
        there: list[tuple[int, Path, int]] = []  # with times and sizes
        for folder in directory.iterdir():
            if folder == self._folder or _is_unused(folder):
                for path in folder.glob("*" + _SUFFIX):
                    with contextlib.suppress(FileNotFoundError):  # another process evicted it
                        status = path.stat()
                        there.append((status.st_mtime_ns, path, status.st_size))
        for path in self._folder.glob("*.tmp"):
            bad["a process ended while it wrote it"] = 1
            path.unlink()
        for _, path, num_bytes in sorted(there):
            if path.parent != self._folder:
                self._add(path, None, num_bytes)
                continue
            try:
                found = segment.read_index(path, self._fingerprint)
                self._add(path, found, found.num_bytes)
            except (SegmentError, OSError, ValueError, KeyError, TypeError) as error:
                bad[str(error)] = bad.get(str(error), 0) + 1
                path.unlink()
        self._make_room(0)
        if bad:
            why = "; ".join(bad)
            self._say("scan", f"{sum(bad.values())} stored segments are not used: {why}")

    def _add(self, path: Path, found: Segment | None, num_bytes: int) -> None:
        self._segments[path], self._sizes[path] = found, num_bytes
        self.num_held_bytes += num_bytes
        for key in () if found is None else found.places:
            self._path_of[key] = path

    def _make_room(self, num_bytes: int) -> None:
        while self._segments and self.num_held_bytes + num_bytes > self._num_bytes:
            self._remove(next(iter(self._segments)))

    def _remove(self, path: Path) -> None:
        if path not in self._segments:
            return
        found = self._segments.pop(path)
        self.num_held_bytes -= self._sizes.pop(path)
        for key in () if found is None else found.places:
            if self._path_of.get(key) == path:
                del self._path_of[key]
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._say("unlink", f"a stored segment can't be removed: {error}")

    def _say(self, about: str, message: str) -> None:
        """Warns once of each kind of trouble: a request is no place for a line each."""
        if about not in self._said:
            self._said.add(about)
            _LOG.warning("%s: %s (said once)", self._folder, message)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None if another process has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_unused(folder: Path) -> bool:
    """Whether this is a folder of pages that no process uses, and that we may change."""
    try:
        if not _OF_FINGERPRINT.fullmatch(folder.name) or not (folder / "lock").is_file():
            return False
        descriptor = _locked(folder)
    except PermissionError:  # another user's
        return False
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
