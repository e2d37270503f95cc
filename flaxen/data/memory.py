"""Data as Python's callers give it: names of files, or records in memory.

Deliberately does not know: tokens, formats of records.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxen.data.config import RecordFormat
from flaxen.data.messages import show
from flaxen.data.records import Record, parse_record
from flaxen.data.sources import SUFFIXES, without_nulls

# One file, several files, or records: mappings as a line of a file has them, or texts.
Data = str | Path | Iterable[str | Path | Mapping[str, Any]]

_LONGEST_NAME = 1024  # characters; asking the system for a longer one would be an error
_NAME = Path("data")  # stands in place of a file's name in messages: data:3 is the third record


class MemoryRecords:
    """Records in memory, with the formats of records in files. Final.

    Args:
      values: one mapping for each record; they are read when they are needed and never changed.
    """

    def __init__(self, values: Sequence[Mapping[str, Any]]) -> None:
        self.path = _NAME
        self.errors: list[tuple[int, str]] = []
        self._values = values
        digest = hashlib.blake2b(digest_size=16)
        for index in range(len(values)):
            digest.update(json.dumps(values[index], default=str).encode() + b"\n")
        self.digest = digest.digest()

    def __len__(self) -> int:
        return len(self._values)

    def line(self, index: int) -> int:
        return index + 1

    def record(self, index: int, format: RecordFormat) -> Record:
        # Tables in memory, such as those of Hugging Face's datasets, are Arrow's, as Parquet is.
        return parse_record(without_nulls(self._values[index]), format)


def read_data(data: Data) -> tuple[tuple[Path, ...], tuple[MemoryRecords, ...] | None]:
    """Tells names of files and records apart.

    A text is the name of a file if a file has that name, or if it ends like one of ours.

    Args:
      data: what the caller gave.

    Returns:
      The files, and None; or a stand-in for the files, and the records.

    Raises:
      ValueError: there is no such file or no record, some are texts and others names of files, or a
          text is one word and no file: it is probably the name of a file that is misspelt.
    """
    if isinstance(data, str) and not _is_file(data):
        raise ValueError(
            f"there is no file {show(data)}: give names of files, or texts and records in a list"
        )
    if isinstance(data, str | Path):
        return (_path(data),), None
    if isinstance(data, Mapping):
        raise ValueError(
            f"data must be files or records, got a mapping with the keys {show(list(data))}: give "
            "a list of records, or one split of a data set, as in data['train']"
        )
    if not isinstance(data, Iterable) and not _is_table(data):
        raise ValueError(f"data must be files or records, got {show(data)}: give a list of them")
    values: Any = data if _is_table(data) else list(data)
    if not len(values):
        raise ValueError("data is empty: give at least one record, or the name of a file")
    if not isinstance(values[0], str | Path):
        return (_NAME,), (MemoryRecords(values),)
    names = [_is_file(each) for each in values]
    if all(names):
        return tuple(map(_path, values)), None
    if any(names):
        raise ValueError(
            f"data has names of files ({values[names.index(True)]}) beside "
            f"{show(values[names.index(False)])}: give either files or records, and a text that "
            'looks like a name as {"text": ...}'
        )
    return (_NAME,), (MemoryRecords([_text(index, each) for index, each in enumerate(values)]),)


def _is_table(data: Any) -> bool:
    """Whether records can be read one by one where they are, as in a data set of Hugging Face."""
    return isinstance(data, Sequence) or isinstance(getattr(data, "column_names", None), list)


def _text(index: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, str):  # the check of its record says what is wrong
        record: Mapping[str, Any] = value
        return record
    if not value.split()[1:]:
        raise ValueError(
            f"data[{index}] is {show(value)}: there is no such file, and as a text it is one word. "
            'Correct the name, or give short texts as {"text": ...}'
        )
    return {"text": value}


def _is_file(name: Any) -> bool:
    if isinstance(name, Path):
        return True
    if not isinstance(name, str) or "\n" in name or len(name) > _LONGEST_NAME:
        return False
    return name.lower().endswith(SUFFIXES) or _path(name).is_file()


def _path(name: str | Path) -> Path:
    return Path(os.path.expanduser(name))
