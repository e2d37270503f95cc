"""Opens a file of records by its suffix; reads Parquet if pyarrow is installed."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from flaxen.data.config import RecordFormat
from flaxen.data.lines import ONE_A_LINE, JsonLines, PlainText, RecordSource
from flaxen.data.records import Record, parse_record

SUFFIXES = (".jsonl", ".ndjson", ".txt", ".md", ".parquet")
_READ_BYTES = 1024 * 1024


def open_source(path: Path, max_record_bytes: int) -> RecordSource:
    """Opens a file by its suffix: .jsonl, .ndjson or none (as in uploads), .txt, .md, or .parquet.

    Raises:
      ValueError: the suffix is another, pyarrow is missing for a Parquet file, or the file is
          damaged.
      OSError: the file can't be read.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson", ""):
        return JsonLines(path, max_record_bytes)
    if suffix in (".txt", ".md"):
        return PlainText(path)
    if suffix == ".parquet":
        return Parquet(path)
    if suffix == ".json":
        raise ValueError(f"{path} is not read: give .jsonl, where {ONE_A_LINE}")
    raise ValueError(
        f"{path} is of no kind that is read here: give .jsonl (one JSON object a line), .txt, .md "
        "or .parquet"
    )


class Parquet:
    """One record a row; the table is kept in memory as Arrow. Final.

    Raises:
      ValueError: pyarrow is not installed, or the file is damaged.
      OSError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors: list[tuple[int, str]] = []
        digest = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
        self.digest = digest.digest()
        try:
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise ValueError(
                f"{path} needs pyarrow, which is not installed: run `pip install flaxen[parquet]`"
            ) from None
        arrow: Any = importlib.import_module("pyarrow")
        try:
            self._table = parquet.read_table(path)
        except arrow.ArrowException as error:
            raise ValueError(f"{path} can't be read as Parquet: {error}") from error

    def __len__(self) -> int:
        num_rows: int = self._table.num_rows
        return num_rows

    def line(self, index: int) -> int:
        return index + 1

    def record(self, index: int, format: RecordFormat) -> Record:
        (row,) = self._table.slice(index, 1).to_pylist(maps_as_pydicts="lossy")
        return parse_record(without_nulls(row), format)


def without_nulls(value: Any) -> Any:
    """Removes nulls from a value's objects, at any depth.

    All rows of a Parquet column have the same keys, so a key that one row's object lacks is null
    there: for example the arguments of another tool.
    """
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value
