"""Keeps tokenized records, so that no epoch tokenizes them again.

The first ones are kept in memory, the others in a temporary file without a name, which vanishes
with the process however it ends. Deliberately does not know what a record is.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from flaxen.data.encode import TokenSequence

_TOKENS_IN_MEMORY = 8_000_000  # each takes 8 bytes
_FULL = (errno.ENOSPC, errno.EDQUOT)

EncodedRecord = tuple[TokenSequence, ...]


class TokenStore:
    """Sequences of tokens by the index of their record. Final.

    Args:
      tokens_in_memory: the most tokens kept in memory; later records go into the file.
      directory: where the temporary file is made when it is needed; None is the system's.
    """

    def __init__(
        self, *, tokens_in_memory: int = _TOKENS_IN_MEMORY, directory: Path | None = None
    ) -> None:
        self._tokens_left, self._directory = tokens_in_memory, directory
        self._held: dict[int, EncodedRecord] = {}
        self._file: IO[bytes] | None = None
        self._places: dict[
            int, tuple[int, int]
        ] = {}  # record index -> offset and size in the file, in bytes
        self._end = 0
        self._is_full = False  # the disk is full: records that do not fit are tokenized each time

    def get(self, index: int) -> EncodedRecord | None:
        """The sequences of a record; None if they are not kept."""
        if (held := self._held.get(index)) is not None:
            return held
        if (place := self._places.get(index)) is None:
            return None
        assert self._file is not None, "it has places"
        offset, size = place
        return _from_bytes(os.pread(self._file.fileno(), size, offset))

    def put(self, index: int, sequences: EncodedRecord, *, spill: bool) -> None:
        """Keeps the sequences of a record if there is room.

        Args:
          index: the index of a record that is not kept yet.
          sequences: they must not be changed afterwards.
          spill: whether to keep them in the file once the memory limit is reached.
        """
        self._tokens_left -= sum(len(sequence.tokens) for sequence in sequences)
        if self._tokens_left >= 0:
            self._held[index] = sequences
        elif spill and not self._is_full:
            data = _to_bytes(sequences)
            if self._append(data):
                self._places[index] = (self._end, len(data))
                self._end += len(data)

    def close(self) -> None:
        """Deletes the file and everything kept."""
        self._held, self._places = {}, {}
        if self._file is not None:
            self._file.close()

    def _append(self, data: bytes) -> bool:
        """Appends to the file. Returns whether the disk had room."""
        try:
            if self._file is None:
                if self._directory is not None:
                    self._directory.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115
            self._is_full = os.pwrite(self._file.fileno(), data, self._end) < len(data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._is_full = True
        return not self._is_full


def _to_bytes(sequences: EncodedRecord) -> bytes:
    """Four bytes for each token, and each run of equal weights once: there are nearly always few
    runs.
    """
    parts = [np.array([len(sequences)], np.int32)]
    for tokens, weights in sequences:
        begins = np.flatnonzero(np.diff(weights, prepend=np.nan) != 0)
        parts.append(np.array([len(tokens), len(begins)], np.int32))
        parts += [tokens, begins.astype(np.int32), weights[begins].view(np.int32)]
    return b"".join(part.astype(np.int32, copy=False).tobytes() for part in parts)


def _from_bytes(data: bytes) -> EncodedRecord:
    words = np.frombuffer(data, np.int32)
    found: list[TokenSequence] = []
    place = 1
    for _ in range(words[0]):
        num_tokens, num_runs = (int(number) for number in words[place : place + 2])
        tokens, begins, values = _split(words[place + 2 :], (num_tokens, num_runs, num_runs))
        lengths = np.diff(begins, append=num_tokens)
        found.append(TokenSequence(tokens, np.repeat(values.view(np.float32), lengths)))
        place += 2 + num_tokens + 2 * num_runs
    return tuple(found)


def _split(values: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    ends = np.cumsum(sizes)
    return [values[end - size : end] for end, size in zip(ends, sizes, strict=True)]
