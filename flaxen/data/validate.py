"""Checks a file of records line by line, before anything is trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flaxen.data.corpus import check_kind
from flaxen.data.lines import JsonLines
from flaxen.data.stopping import ShouldStop, check_stop, never

JobMethod = Literal["supervised", "dpo"]


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """The result of checking a file of JSON lines."""

    num_records: int  # good and bad ones
    num_bad: int
    errors: tuple[tuple[int, str], ...]  # for the first bad records: (line from 1, what is wrong)


def validate_file(
    path: Path,
    method: JobMethod,
    *,
    max_errors: int = 20,
    max_record_bytes: int = 16 * 1024 * 1024,
    should_stop: ShouldStop = never,
) -> FileCheck:
    """Checks each line of a JSON lines file, whatever its suffix.

    Errors that only a model's template or tokenizer can find, such as roles in an order that the
    template refuses, are found when the data is opened and read.

    Args:
      path: the file.
      method: "supervised" accepts texts, completions and chats; "dpo" accepts preference pairs.
      max_errors: the most lines to report; all bad lines are counted.
      max_record_bytes: a longer line counts as bad.
      should_stop: asked before each line.

    Raises:
      StoppedError: should_stop returned True.
      OSError: the file can't be read.
    """
    source = JsonLines(path, max_record_bytes)
    errors = list(source.errors)
    for index in range(len(source)):
        check_stop(should_stop)
        try:
            check_kind(source.record(index, "auto"), pairs=method == "dpo")
        except ValueError as error:
            errors.append((source.line(index), str(error)))
    num_records = len(source) + len(source.errors)
    if not num_records:
        errors.append((1, "the file has no records: write one JSON object a line"))
    return FileCheck(
        num_records=num_records, num_bad=len(errors), errors=tuple(sorted(errors)[:max_errors])
    )
