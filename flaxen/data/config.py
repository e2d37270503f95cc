"""The configuration of data: which files are read, and how they become batches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

RecordFormat = Literal["auto", "text", "completion", "chat", "preference"]
OnBadRecord = Literal["fail", "skip"]
OnLong = Literal["auto", "split", "truncate"]


def _read_path(value: Any) -> Path:
    if not isinstance(value, str):
        raise PydanticCustomError("path_type", "Input is not a valid path")
    return Path(os.path.expanduser(value))


def _listed(value: Any) -> Any:
    """Makes a list of a single value, so that settings may say `files: a.txt`."""
    return tuple(value) if isinstance(value, list) else (value,)


# What pydantic makes of settings; to Python's callers they are a path and a tuple.
UserPath = Annotated[Path, PlainValidator(_read_path)]
_Item = TypeVar("_Item")
OneOrMore = Annotated[tuple[_Item, ...], BeforeValidator(_listed)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Files, and how their records are ordered and packed.

    Raises:
      ValueError: a size, number or option is not allowed.
    """

    files: OneOrMore[UserPath]  # .jsonl, .txt, .md or .parquet
    # Rows, and tokens of a row; None chooses by the data, at most 8 and 1024: data/fit.py.
    batch_size: int | None = None
    sequence_length: int | None = None
    chat_template: str | None = None  # a file, Jinja, or the name of one of the model's; None: its
    format: RecordFormat = "auto"  # of the records; auto takes each by its keys
    seed: int = 0  # of the order
    shuffle: bool = True
    epochs: int | None = 1  # how often each record is read; None never ends
    on_bad_record: OnBadRecord = "fail"
    on_long: OnLong = "auto"  # of more tokens than a row; auto splits text and truncates others
    overlap: int = 0  # tokens of a split text that are repeated, without loss, as context
    max_segments: int = 32  # sequences in a row
    max_record_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty: name at least one file of records")
        for name in ("batch_size", "sequence_length", "max_segments", "max_record_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, or None for no end, got {self.epochs}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        longest = self.sequence_length or self.overlap + 1
        if not 0 <= self.overlap < longest:
            raise ValueError(
                f"overlap must be from 0 to below sequence_length {self.sequence_length}, got "
                f"{self.overlap}: a piece of a text must bring new tokens"
            )
        allowed = {"format": RecordFormat, "on_bad_record": OnBadRecord, "on_long": OnLong}
        for name, words in allowed.items():
            value = getattr(self, name)
            if value not in get_args(words):
                raise ValueError(
                    f"{name} {value!r} is not known: use one of {', '.join(get_args(words))}"
                )
