"""The check of a file before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxen.data.validate import validate_file
from tests.data.tiny_text import chat, write_jsonl

PAIR: dict[str, Any] = {"prompt": "a", "chosen": "b", "rejected": "c"}


def test_each_bad_line_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    file = tmp_path / "upload"  # names end as they like
    write_jsonl(file, [chat("Hi", "Yes"), 3, PAIR, chat("Hi")])
    with file.open("ab") as opened:
        opened.write(b"\xff\n" + b"x" * 2000)
    found = validate_file(file, "supervised", max_record_bytes=1000)
    assert (found.num_records, found.num_bad) == (6, 5)
    assert [line for line, _ in found.errors] == [2, 3, 4, 5, 6]
    assert [message.split(":")[0] for _, message in found.errors] == [
        "a record must be a JSON object, got 3",
        "the record is a preference pair, which only DPO learns from",
        "the messages have nothing to learn",
        "not valid UTF-8",
        "the line is longer than 1000 bytes, the limit",
    ]
    few = validate_file(file, "supervised", max_record_bytes=1000, max_errors=2)
    assert few.num_bad == 5
    assert few.errors == found.errors[:2]


def test_dpo_takes_pairs_only(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a", [PAIR, chat("Hi", "Yes")])
    found = validate_file(file, "dpo")
    assert [line for line, _ in found.errors] == [2]
    assert "no preference pair" in found.errors[0][1]


def test_a_good_file_and_an_empty_one(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a", [chat("Hi", "Yes")])
    assert validate_file(file, "supervised").errors == ()
    file.write_text("\n")
    found = validate_file(file, "supervised")
    assert (found.num_records, found.num_bad) == (0, 1)
    assert found.errors == ((1, "the file has no records: write one JSON object a line"),)
