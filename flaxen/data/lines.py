"""Records in JSON lines and in plain text: indexed by offset, read when they are needed.

Deliberately does not know: tokens, the order of records.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from pathlib import Path
from typing import IO, Protocol

from flaxen.data.config import RecordFormat
from flaxen.data.records import Record, Text, parse_record

_CHUNK_BYTES = 64 * 1024  # the size of one record of a plain text
ONE_A_LINE = "each record must be a line of its own: jq -c '.[]' FILE writes them so"


class RecordSource(Protocol):
    """The records of one file."""

    path: Path
    digest: bytes  # a digest of the file's contents
    errors: list[tuple[int, str]]  # (line, what is wrong) for lines that are not records

    def __len__(self) -> int: ...

    def line(self, index: int) -> int:
        """The line, from 1, where a record begins; the row in Parquet."""

    def record(self, index: int, format: RecordFormat) -> Record:
        """Reads one record.

        Raises:
          ValueError: the record is bad.
        """


class JsonLines:
    """One JSON object a line; blank lines are skipped. Final.

    Raises:
      OSError: the file can't be read.
    """

    def __init__(self, path: Path, max_record_bytes: int) -> None:
        self.path = path
        self.errors: list[tuple[int, str]] = []
        self._offsets, self._sizes, self._lines = array("q"), array("q"), array("q")
        digest = hashlib.blake2b(digest_size=16)
        number = offset = 0
        with path.open("rb") as file:
            while piece := file.readline(max_record_bytes):
                digest.update(piece)
                number += 1
                size = len(piece)
                if not piece.endswith(b"\n") and (rest := _pass_line(file, digest)):
                    size += rest
                    self.errors.append(
                        (number, f"the line is longer than {max_record_bytes} bytes, the limit")
                    )
                elif piece.strip():
                    self._offsets.append(offset)
                    self._sizes.append(size)
                    self._lines.append(number)
                offset += size
        self.digest = digest.digest()

    def __len__(self) -> int:
        return len(self._offsets)

    def line(self, index: int) -> int:
        return self._lines[index]

    def record(self, index: int, format: RecordFormat) -> Record:
        return parse_record(self.value(index), format)

    def value(self, index: int) -> object:
        """The JSON value of one line.

        Raises:
          ValueError: the line is not JSON in UTF-8.
        """
        data = _read(self.path, self._offsets[index], self._sizes[index])
        if self._lines[index] == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if index == 0 and data.lstrip()[:1] == b"[":
            raise ValueError(f"the line begins a JSON array, and {ONE_A_LINE}")
        try:
            return json.loads(_decode(data, self._lines[index]))
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error.msg} at character {error.pos + 1}") from None
        except RecursionError:
            raise ValueError("not valid JSON: it is nested too deeply") from None


class PlainText:
    """One text, cut at line ends into records of about 64 KiB. Final.

    Raises:
      OSError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[tuple[int, str]] = []
        self._offsets, self._lines = array("q", [0]), array("q")
        digest = hashlib.blake2b(digest_size=16)
        number = 1
        with path.open("rb") as file:
            while chunk := _read_chunk(file):
                digest.update(chunk)
                self._offsets.append(self._offsets[-1] + len(chunk))
                self._lines.append(number)
                number += chunk.count(b"\n")
        self.digest = digest.digest()

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, index: int) -> int:
        return self._lines[index]

    def record(self, index: int, format: RecordFormat) -> Record:
        if format not in ("auto", "text"):
            raise ValueError(f"a plain text has no records of the format {format}: use .jsonl")
        begin, end = self._offsets[index], self._offsets[index + 1]
        data = _read(self.path, begin, end - begin)
        if index == 0:
            data = data.removeprefix(b"\xef\xbb\xbf")
        text = _decode(data, self._lines[index])
        return Text(text=text, begins=index == 0, ends=index == len(self) - 1)


def _pass_line(file: IO[bytes], digest: hashlib.blake2b) -> int:
    """Reads to the end of a line; returns the number of bytes."""
    size = 0
    while piece := file.readline(_CHUNK_BYTES):
        digest.update(piece)
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _read_chunk(file: IO[bytes]) -> bytes:
    """Reads several whole lines, or whole characters of a very long line."""
    chunk = file.read(_CHUNK_BYTES)
    if len(chunk) == _CHUNK_BYTES and not chunk.endswith(b"\n"):
        chunk += file.readline(_CHUNK_BYTES)
        following = file.peek(1)[:1]  # type: ignore[attr-defined]  # a buffered reader has it
        if following and not chunk.endswith(b"\n"):
            begun = next((i for i in range(1, 4) if chunk[-i] & 0xC0 == 0xC0), 0)
            if begun and following[0] & 0xC0 == 0x80:  # the middle of a character
                file.seek(-begun, 1)
                chunk = chunk[:-begun]
    return chunk


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _decode(data: bytes, line: int) -> str:
    """Decodes bytes; errors count lines from `line`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line += before.count(b"\n")
        column = error.start - before.rfind(b"\n")
        raise ValueError(
            f"not valid UTF-8: {data[error.start : error.start + 1]!r} is byte {column} of line "
            f"{line}; save the file as UTF-8"
        ) from None
