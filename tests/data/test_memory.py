"""What Python's callers may give as data: names of files, or records in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.data.memory import MemoryRecords, read_data
from flaxen.data.records import Chat, Text


class Table:
    """What a data set of Hugging Face offers."""

    column_names = ("text",)

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.column_names = ["text"]  # type: ignore[assignment]
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


def only(data: Any) -> MemoryRecords:
    files, sources = read_data(data)
    assert sources is not None
    assert len(files) == len(sources) == 1
    return sources[0]


def test_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "some text").write_text("a b")
    assert read_data("~/a.jsonl") == ((Path.home() / "a.jsonl",), None)
    assert read_data(Path("a")) == ((Path("a"),), None)
    given = ["a.JSONL", str(tmp_path / "some text"), Path("b")]
    assert read_data(given) == (tuple(map(Path, given)), None)  # type: ignore[arg-type]


def test_records_in_memory() -> None:
    texts = only(each for each in ("one two", "three\nfour"))
    assert [texts.record(i, "auto") for i in range(2)] == [
        Text(text="one two"),
        Text(text="three\nfour"),
    ]
    assert [texts.line(i) for i in range(len(texts))] == [1, 2]
    assert only([{"text": "one"}]).record(0, "auto") == Text(text="one")
    mixed = only(["one two", {"text": "one"}])
    assert mixed.record(1, "auto") == Text(text="one")
    with pytest.raises(ValueError, match="a record must be a JSON object, got 3"):
        only([{"text": "one"}, 3]).record(1, "auto")


def test_rows_of_a_table_lose_their_nulls() -> None:
    """All rows of a table have the keys of every row."""
    messages = [
        {"role": "user", "content": "hi", "name": None},
        {"role": "assistant", "content": "ho", "name": None},
    ]
    record = only(Table([{"messages": messages, "text": None}])).record(0, "auto")
    assert isinstance(record, Chat)
    assert record.messages == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
    )


def test_the_digest_is_of_the_contents() -> None:
    one, same, other = (only([{"text": text}]).digest for text in ("a b", "a b", "a c"))
    assert one == same != other
    assert only([{"text": "a", "when": Path("x")}]).digest  # metadata need not be JSON


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a text to learn", "no file 'a text to learn': give names of files, or texts and records"),
        (3, "data must be files or records, got 3: give a list of them"),
        ([], "data is empty: give at least one record"),
        (iter(()), "data is empty"),
        ({"train": []}, r"got a mapping with the keys \['train'\]: give a list of records, or one"),
        (["texts.jsnl"], "'texts.jsnl': there is no such file, and as a text it is one word"),
        (["one two", "three"], r"data\[1\] is 'three': there is no such file"),
        (["a.jsonl", "one two"], r"names of files \(a.jsonl\) beside 'one two': give either"),
    ],
)
def test_what_is_neither_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_data(data)
