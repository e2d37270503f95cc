"""The store of pages: takes those that were filled, and finds those that a prompt begins with.

Pages are copied, written and read by two threads beside the steps. All that changes the store goes
through one queue, so that what is dropped was stored before, and what comes later stays.

Deliberately does not know: tokens, sequences, how pages are read from a device.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from flaxen.protocol import StoredPagesStats
from flaxen.stored_pages.disk_tier import DiskTier
from flaxen.stored_pages.host_tier import HostTier

_LOG = logging.getLogger(__name__)
_MAX_WAIT_S = 10.0  # for pages of one prompt to be read; then it goes on without them
_MAX_QUEUED = 64  # batches whose arrays the device holds; further ones are dropped
_SEGMENT_BYTES = 2**24  # of a segment, beyond which it is written
_BUFFER_BYTES = 2**27  # of all pages that no segment has yet


def page_key(group: int, content: bytes) -> bytes:
    """The key of a page: its group, and the hash of all that its keys and values depend on."""
    return bytes([group]) + content


@dataclass(frozen=True, slots=True)
class FilledPage:
    """A page of a cache group that holds what its hash says."""

    group: int
    page: int
    content: bytes  # its hash
    owner: str  # whose pages are dropped together
    request_id: str  # pages of one request are stored together


@final
class Fetch:
    """The stored pages of one prompt, some of which are still read from disk.

    Args:
      pages: those that are here.
      reading: futures of more.
    """

    def __init__(
        self, pages: dict[bytes, np.ndarray], reading: Sequence[Future[dict[bytes, np.ndarray]]]
    ) -> None:
        self._pages, self._reading = pages, list(reading)
        self.num_expected = 0  # pages of the prefix, with those that were cached then
        self.is_second = False  # the first one found less, because cached pages went meanwhile
        self._deadline_s = time.monotonic() + _MAX_WAIT_S

    @property
    def is_ready(self) -> bool:
        """Whether all is read or failed, or took too long."""
        return time.monotonic() > self._deadline_s or self.is_read

    @property
    def is_read(self) -> bool:
        """Whether all is read or failed."""
        return all(each.done() for each in self._reading)

    @property
    def pages(self) -> dict[bytes, np.ndarray]:
        """The pages that were found, by key."""
        for each in [each for each in self._reading if each.done()]:
            self._reading.remove(each)
            self._pages |= each.result()
        return self._pages

    def wait(self, timeout_s: float) -> None:
        """Waits until all is read, or so long."""
        wait(self._reading, timeout_s)


@dataclass(kw_only=True)
class _Buffer:
    """Pages of a request that no segment has yet."""

    owner: str
    pages: list[tuple[bytes, np.ndarray]] = field(default_factory=list)
    num_bytes: int = 0


@final
class PageStore:
    """Pages in the host's memory and on disk. Only `close` may be called by several threads.

    Args:
      host: the tier in memory.
      disk: the tier on disk; None for none.
    """

    def __init__(self, host: HostTier, disk: DiskTier | None) -> None:
        self._host, self._disk = host, disk
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._buffers: dict[str, _Buffer] = {}  # by request; only the writer's
        self._num_dropped = self._num_host_hits = self._num_disk_hits = 0
        self._room = threading.Semaphore(_MAX_QUEUED)
        self._readers = ThreadPoolExecutor(2, "flaxen-page-reader")
        self._writer = threading.Thread(target=self._write, name="flaxen-page-writer", daemon=True)
        self._writer.start()
        self._closing = threading.Lock()
        self._is_closed = False
        atexit.register(self.close)

    def __contains__(self, key: object) -> bool:
        return key in self._host or (self._disk is not None and key in self._disk)

    def fetch(self, keys: Sequence[bytes]) -> Fetch:
        """Gets stored pages: those in memory at once, others are read and verified meanwhile."""
        found = {key: page for key in keys if (page := self._host.get(key)) is not None}
        self._num_host_hits += len(found)
        disk = self._disk
        if disk is None or self._is_closed or len(found) == len(keys):
            return Fetch(found, ())
        missing = disk.find(key for key in keys if key not in found)
        return Fetch(
            found, [self._readers.submit(self._load, disk, *each) for each in missing.items()]
        )

    def put(self, pages: Sequence[FilledPage], read: Callable[[], list[np.ndarray]]) -> None:
        """Stores pages, unless too many are on their way.

        Args:
          pages: of any groups.
          read: waits for their bytes, uint8 [n, bytes of a page] for each group, in the order of
              the group's pages. What it raises drops them.
        """
        if not self._room.acquire(blocking=False):
            self._num_dropped += len(pages)
            return
        self._queue.put(lambda: self._store(pages, read))

    def ended(self, request_id: str, keys: Sequence[bytes]) -> None:
        """A request has ended: what is buffered of it is written, and its pages count as used, the
        last one of `keys` as the most recent.
        """

        def end() -> None:
            self._flush(request_id)
            self._host.touch(keys)
            if self._disk is not None:
                self._disk.touch(keys)

        self._queue.put(end)

    def drop(self, owner: str | None = None) -> None:
        """Removes an owner's pages, because they may be wrong; None: all, on disk too."""

        def remove() -> None:
            for name, each in list(self._buffers.items()):
                if owner in (None, each.owner):
                    del self._buffers[name]
            self._host.drop(owner)
            if self._disk is not None:
                self._disk.drop(owner)

        self._queue.put(remove)

    def change_weights(self) -> None:
        """Other weights compute from now on, for keys that are others too. The files of the weights
        of the start stay, for the next one.
        """
        if self._disk is not None:
            self._disk.change_weights()
        self.drop()

    def free_memory(self) -> None:
        """Removes all pages from the host's memory."""
        self._queue.put(self._host.drop)

    def stats(self) -> StoredPagesStats:
        """The counters since the start, and what is stored now. Safe to call from any thread."""
        disk = self._disk
        return StoredPagesStats(
            host_bytes=self._host.num_held_bytes,
            disk_bytes=0 if disk is None else disk.num_held_bytes,
            num_host_hits=self._num_host_hits,
            num_disk_hits=self._num_disk_hits,
            num_written=0 if disk is None else disk.num_written,
            num_dropped=self._num_dropped + (0 if disk is None else disk.num_dropped),
            num_mismatches=0 if disk is None else disk.num_mismatches,
        )

    def flush(self) -> None:
        """Waits until all that was put is stored."""
        done = threading.Event()
        self._queue.put(self._flush_all)
        self._queue.put(done.set)
        done.wait()

    def close(self) -> None:
        """Stores what is on its way, and ends the threads. May be repeated."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
            self._writer.join()
            self._readers.shutdown()
            if self._disk is not None:
                self._disk.close()
            atexit.unregister(self.close)

    def _write(self) -> None:
        """The writer's loop."""
        while (task := self._queue.get()) is not None:
            try:
                task()
            except Exception:  # a bug of ours: serving goes on, and what is stored is verified
                _LOG.exception("pages could not be stored")
        self._flush_all()

    def _store(self, pages: Sequence[FilledPage], read: Callable[[], list[np.ndarray]]) -> None:
        try:
            rows = [iter(each) for each in read()]
        except Exception as error:  # the step that fills them failed
            self._num_dropped += len(pages)
            _LOG.info("%d pages of a failed step are not stored: %r", len(pages), error)
            return
        finally:
            self._room.release()
        for each in pages:
            page, key = next(rows[each.group]).copy(), page_key(each.group, each.content)
            self._host.put(key, page, each.owner)
            if self._disk is not None:
                self._buffer(each, key, page)

    def _buffer(self, filled: FilledPage, key: bytes, page: np.ndarray) -> None:
        buffer = self._buffers.setdefault(filled.request_id, _Buffer(owner=filled.owner))
        buffer.pages.append((key, page))
        buffer.num_bytes += page.nbytes
        if buffer.num_bytes >= _SEGMENT_BYTES:
            self._flush(filled.request_id)
        elif sum(each.num_bytes for each in self._buffers.values()) > _BUFFER_BYTES:
            self._flush(max(self._buffers, key=lambda name: self._buffers[name].num_bytes))

    def _flush(self, request_id: str) -> None:
        buffer = self._buffers.pop(request_id, None)
        if buffer is not None and self._disk is not None:
            self._disk.store(buffer.pages, buffer.owner)

    def _flush_all(self) -> None:
        for request_id in list(self._buffers):
            self._flush(request_id)

    def _load(self, disk: DiskTier, path: Path, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        pages, owner = disk.load(path, keys)
        self._num_disk_hits += len(pages)
        for key, page in pages.items():
            self._host.put(key, page, owner)
        return pages
