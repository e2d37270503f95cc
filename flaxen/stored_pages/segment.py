"""A segment: a file with some pages of one sequence, a checksum of each, and an index.

A file is a magic, the length and the hash of its index, the index (JSON), and the pages. It is
written under another name first, so that a file with the name of a segment is whole, unless the
machine, not the process, died; what is not whole or not as written is found when it is read.

Deliberately does not know: which segments there are, what a key is made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_MAGIC = b"flaxenkv"
_HEAD = struct.Struct("<8sI16s")
_MAX_INDEX_BYTES = 2**24


class SegmentError(Exception):
    """A file is not a whole segment of this store, or a page is not as it was written."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is in its segment, and its checksum."""

    offset: int
    num_bytes: int
    checksum: int  # CRC-32


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The index of a segment."""

    owner: str
    places: dict[bytes, Place]  # by the pages' keys
    num_bytes: int  # of the file


def write(
    path: Path, fingerprint: str, owner: str, pages: Sequence[tuple[bytes, np.ndarray]]
) -> Segment:
    """Writes a segment, whole or not at all.

    Args:
      path: where, in a directory that is there.
      fingerprint: what computes the pages; `read_index` asks for the same.
      owner: whose they are.
      pages: their keys and bytes.

    Raises:
      OSError: it can't be written; nothing is left of it.
    """
    listed = [(key.hex(), page.nbytes, zlib.crc32(page.data)) for key, page in pages]
    index = json.dumps({"fingerprint": fingerprint, "owner": owner, "pages": listed}).encode()
    unfinished = path.with_suffix(".tmp")
    try:
        with open(unfinished, "wb", buffering=0, opener=_only_mine) as file:
            _write_all(file.fileno(), _HEAD.pack(_MAGIC, len(index), _hash(index)) + index)
            for _, page in pages:
                _write_all(file.fileno(), page.data)
        os.replace(unfinished, path)
    except BaseException:  # raised again: what was written is of no use
        unfinished.unlink(missing_ok=True)
        raise
    return _segment(owner, listed, _HEAD.size + len(index))


def read_index(path: Path, fingerprint: str) -> Segment:
    """Reads a segment's index, and compares the file's size with it.

    Raises:
      SegmentError: it is damaged, too short, or was written with another fingerprint.
      OSError: it can't be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise SegmentError("it has no index")
        magic, length, expected = _HEAD.unpack(head)
        if magic != _MAGIC or length > _MAX_INDEX_BYTES:
            raise SegmentError("it is no segment")
        index = file.read(length)
        num_bytes = os.fstat(file.fileno()).st_size
    if _hash(index) != expected:
        raise SegmentError("its index is damaged")
    read = json.loads(index)
    if read["fingerprint"] != fingerprint:
        raise SegmentError("other weights, another layout or another version of flaxen wrote it")
    segment = _segment(read["owner"], read["pages"], _HEAD.size + length)
    if segment.num_bytes != num_bytes:
        raise SegmentError(f"it has {num_bytes} bytes of {segment.num_bytes}")
    return segment


def read_pages(path: Path, places: Iterable[tuple[bytes, Place]]) -> dict[bytes, np.ndarray]:
    """Reads pages and verifies their checksums.

    Raises:
      SegmentError: a page is not as it was written.
      OSError: the file can't be read.
    """
    found = {}
    with open(path, "rb", buffering=0) as file:
        for key, place in places:
            page = np.empty(place.num_bytes, np.uint8)
            file.seek(place.offset)
            if (
                file.readinto(page.data) != place.num_bytes
                or zlib.crc32(page.data) != place.checksum
            ):
                raise SegmentError("a page's checksum is not that of its bytes")
            found[key] = page
    return found


def _segment(owner: str, listed: Iterable[tuple[str, int, int]], at: int) -> Segment:
    places = {}
    for key, num_bytes, checksum in listed:
        places[bytes.fromhex(key)] = Place(at, num_bytes, checksum)
        at += num_bytes
    return Segment(owner=owner, places=places, num_bytes=at)


def _hash(index: bytes) -> bytes:
    return hashlib.blake2b(index, digest_size=16).digest()


def _only_mine(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # keys and values say what the prompts were


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(descriptor, left) :]
