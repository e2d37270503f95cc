"""Pages on disk in segments, of which the least recently used go first.

A directory holds a folder for each fingerprint. One process at a time uses a folder; the segments
of all folders count, and whoever needs room evicts the least recently used ones, whose they are.

Deliberately does not know: the host's memory, threads that call it, what a key is made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
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
_UNNAMED = "unnamed-"  # begins the name of a segment that is of use to the process that wrote it
_OF_FINGERPRINT = re.compile("[0-9a-f]{32}")  # a folder; others' files are not ours to remove
_SETTLED_NS = 10**9  # a folder that changed since may change again at the same time of its clock
_PAUSE_S = 30.0  # without writing, after the disk was full or broken

_Segment = tuple[int, Path, int]  # a file: the time of its use in ns, and its bytes
_Listing = tuple[int, list[_Segment]]  # when the folder changed, and what is in it


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
        self._beginning = ""  # of the names of segments that are written now
        self._folder = directory / fingerprint[:32]
        self._lock = threading.Lock()  # guards all below
        self._segments: OrderedDict[Path, Segment] = OrderedDict()  # least recent first
        self._others: dict[Path, _Listing] = {}  # of other folders; only the writer's
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
            self._scan()
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
          The pages, by key; none if any is wrong, or if another process evicted the segment. And
          their owner.
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
                    if not isinstance(error, FileNotFoundError):
                        self.num_mismatches += len(keys)
                        text = f"a segment is not used, its pages are computed: {error}"
                        self._say("damaged", text)
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
        path = self._folder / (self._beginning + secrets.token_hex(8) + _SUFFIX)
        try:
            self._make_room(num_bytes)
            written = segment.write(path, self._fingerprint, owner, pages)
        except OSError as error:
            self.num_dropped += len(pages)
            self._rests_until_s = time.monotonic() + _PAUSE_S
            self._say("full", f"pages can't be stored now, serving goes on without: {error}")
            return
        self.num_written += len(pages)
        with self._lock:
            self._add(path, written)
        self._make_room(0)  # another process may have found the same room

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

    def change_weights(self) -> None:
        """Other weights compute what is stored from now on. Nothing names them, so that no other
        start may find it: its fingerprint is no start's.
        """
        self._fingerprint, self._beginning = secrets.token_hex(32), _UNNAMED

    def drop(self, owner: str | None = None) -> None:
        """Removes the segments of an owner in this folder; None: of all. After other weights came,
        only what was stored since.
        """
        with self._lock:
            for path, found in list(self._segments.items()):
                if owner in (None, found.owner) and path.name.startswith(self._beginning):
                    self._remove(path)

    def close(self) -> None:
        """Lets another process use the folder."""
        if self._beginning:
            self.drop()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _scan(self) -> None:
        """Finds the segments that are there, and removes what no process finished."""
        bad: dict[str, int] = {}
        for path in self._folder.glob(_UNNAMED + "*"):  # of a process that was killed
            path.unlink(missing_ok=True)
        for path in self._folder.glob("*.tmp"):
            bad["a process ended while it wrote it"] = 1
            path.unlink()
        for _, path, _ in sorted(_segments_in(self._folder)):
            try:
                self._add(path, segment.read_index(path, self._fingerprint))
            except FileNotFoundError:  # another process evicted it
                continue
            except (SegmentError, OSError, ValueError, KeyError, TypeError) as error:
                bad[str(error)] = bad.get(str(error), 0) + 1
                path.unlink(missing_ok=True)
        self._make_room(0)
        if bad:
            why = "; ".join(bad)
            self._say("scan", f"{sum(bad.values())} stored segments are not used: {why}")

    def _add(self, path: Path, found: Segment) -> None:
        self._segments[path] = found
        self.num_held_bytes += found.num_bytes
        for key in found.places:
            self._path_of[key] = path

    def _make_room(self, num_bytes: int) -> None:
        """Evicts the least recently used segments of the directory until there is so much room."""
        self._look_at_others()
        others = [each for _, listed in self._others.values() for each in listed]
        left = self._num_bytes - num_bytes - sum(size for _, _, size in others)
        if self.num_held_bytes <= left:
            return
        heapq.heapify(others)
        with self._lock:
            while self.num_held_bytes > left and (others or self._segments):
                own = next(iter(self._segments), None)
                if own is not None and (not others or _time_of_use(own) <= others[0][0]):
                    self._remove(own)
                    continue
                time_ns, path, size = others[0]
                if (used_ns := _time_of_use(path)) > time_ns:  # since it was listed
                    heapq.heapreplace(others, (used_ns, path, size))
                    continue
                heapq.heappop(others)
                left += size
                self._unlink(path)

    def _look_at_others(self) -> None:
        """Lists the segments in other folders, where any came or went since."""
        before, self._others = self._others, {}
        for folder in self._folder.parent.iterdir():
            if folder == self._folder or not _OF_FINGERPRINT.fullmatch(folder.name):
                continue
            with contextlib.suppress(OSError):  # another user's
                if (folder / "lock").is_file():
                    changed_ns = folder.stat().st_mtime_ns
                    known = before.get(folder)
                    is_settled = changed_ns < time.time_ns() - _SETTLED_NS
                    if known is None or known[0] != changed_ns or not is_settled:
                        known = changed_ns, _segments_in(folder)
                    self._others[folder] = known

    def _remove(self, path: Path) -> None:
        if (found := self._segments.pop(path, None)) is not None:
            self.num_held_bytes -= found.num_bytes
            for key in found.places:
                if self._path_of.get(key) == path:
                    del self._path_of[key]
            self._unlink(path)

    def _unlink(self, path: Path) -> None:
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


def _segments_in(folder: Path) -> list[_Segment]:
    found = []
    for path in folder.glob("*" + _SUFFIX):
        with contextlib.suppress(FileNotFoundError):  # another process evicted it
            status = path.stat()
            found.append((status.st_mtime_ns, path, status.st_size))
    return found


def _time_of_use(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it is gone
        return 0
