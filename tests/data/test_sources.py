"""Files of records: lines, texts and tables, and what is said of what can't be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flaxen.data.lines import JsonLines, PlainText
from flaxen.data.records import Chat, Text
from flaxen.data.sources import open_source


def test_lines_are_found_again_by_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n   \n{"text": "\xc3\xa9"}\n{"text": "end"}')
    source = open_source(file, 100)
    assert [source.record(i, "auto") for i in (2, 0, 1)] == [
        Text(text="end"), Text(text="one"), Text(text="é"),
    ]  # fmt: skip
    assert [source.line(i) for i in range(len(source))] == [1, 4, 5]
    assert source.errors == []


def test_a_long_line_is_named_and_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    long = '{"text": "' + "x" * 200_000 + '"}'
    file.write_text('{"text": "a"}\n' + long + '\n{"text": "b"}\n' + long)
    source = JsonLines(file, 100)
    assert [source.record(i, "auto") for i in range(2)] == [Text(text="a"), Text(text="b")]
    message = "the line is longer than 100 bytes, the limit"
    assert source.errors == [(2, message), (4, message)]


@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_line_of_just_the_limit_is_taken(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "a.jsonl"
    line = '{"text": "abc"}'
    file.write_text(line + ending)
    source = JsonLines(file, len(line + ending))
    assert len(source) == 1
    assert not source.errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{'text': 1}", "not valid JSON: Expecting property name .* at character 2"),
        (b'{"text": "a\xff"}', r"not valid UTF-8: b'\\xff' is byte 12 of line 2; save the file"),
        (b"[" * 100_000, "not valid JSON: it is nested too deeply"),
        (b"1" * 5000, "integer string conversion"),
    ],
)
def test_a_line_that_is_not_json(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n' + line + b"\n")
    source = JsonLines(file, 1_000_000)
    with pytest.raises(ValueError, match=message):
        source.record(1, "auto")


@pytest.mark.parametrize("unit", ["é\n", "é", "日本語 ", "😀", "a line of a text\n"])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_text_is_cut_between_characters_and_whole_again(
    tmp_path: Path, unit: str, shift: int
) -> None:
    file = tmp_path / "a.txt"
    text = "x" * shift + unit * (200_000 // len(unit.encode()))
    file.write_bytes(text.encode())
    source = PlainText(file)
    records = [source.record(i, "auto") for i in range(len(source))]
    assert len(records) > 1
    found = [record for record in records if isinstance(record, Text)]
    assert "".join(record.text for record in found) == text
    assert [record.begins for record in found] == [True] + [False] * (len(found) - 1)
    assert [record.ends for record in found] == [False] * (len(found) - 1) + [True]
    if unit.endswith("\n"):
        assert all(record.text.endswith("\n") for record in found[:-1])
        assert source.line(1) == found[0].text.count("\n") + 1


def test_a_text_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 70_000 + b"\none\ntw\xff\n")
    source = PlainText(file)
    with pytest.raises(ValueError, match=r"b'\\xff' is byte 3 of line 3"):
        source.record(len(source) - 1, "auto")
    with pytest.raises(ValueError, match="a plain text has no records of the format chat"):
        source.record(0, "chat")


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    rows = [{"messages": messages, "text": None}, {"messages": None, "text": "a"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    source = open_source(file, 100)
    assert [source.record(i, "auto") for i in range(len(source))] == [
        Chat(messages=tuple(messages), trained=(1,)),
        Text(text="a"),
    ]
    assert source.line(1) == 2


def test_a_json_array_is_told_apart(tmp_path: Path) -> None:
    """ShareGPT's and Alpaca's data sets are published so."""
    file = tmp_path / "a"
    file.write_text('[{"text": "a"},\n {"text": "b"}]\n')
    with pytest.raises(ValueError, match="begins a JSON array, and each record must be a line of"):
        JsonLines(file, 100).record(0, "auto")
    with pytest.raises(ValueError, match=r"a\.json is not read: give \.jsonl, where each record"):
        open_source(tmp_path / "a.json", 1)


def test_what_is_wrong_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"a.csv is of no kind that is read here: give .jsonl"):
        open_source(tmp_path / "a.csv", 1)
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        open_source(tmp_path / "a.jsonl", 1)
    damaged = tmp_path / "a.parquet"
    damaged.write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"a.parquet can't be read as Parquet"):
        open_source(damaged, 1)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as where it is not installed
    with pytest.raises(ValueError, match=r"pyarrow, which is not installed: run `pip install"):
        open_source(damaged, 1)


def test_a_file_without_an_ending_is_lines_of_json(tmp_path: Path) -> None:
    (tmp_path / "file-1").write_text('{"text": "a"}')
    assert open_source(tmp_path / "file-1", 100).record(0, "auto") == Text(text="a")


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    digests = set()
    for text in ('{"text": "a"}\n', '{"text": "b"}\n', '{"text": "a"}\n'):
        (tmp_path / "a.jsonl").write_text(text)
        (tmp_path / "a.txt").write_text(text)
        digests.add(JsonLines(tmp_path / "a.jsonl", 100).digest)
        digests.add(PlainText(tmp_path / "a.txt").digest)
    assert len(digests) == 2


def test_nulls_that_parquet_fills_in_are_no_values(tmp_path: Path) -> None:
    """All rows of a column have one type: each call has the arguments of all others, as nulls."""

    def row(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        parameters = {"type": "object", "properties": {key: {"type": "x"} for key in arguments}}
        return {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": [{"function": function}]},
            ],
            "tools": [{"function": {"name": name, "parameters": parameters}}],
            "chat_template_kwargs": {"thinks": True} if name == "b" else None,
        }

    rows = [row("a", {"city": "SF"}), row("b", {"x": 1, "y": {"z": 2}})]
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    source = open_source(file, 100)
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    from_json = open_source(lines, 1000)
    for index in range(2):
        assert source.record(index, "auto") == from_json.record(index, "auto")


def test_nulls_that_json_holds_are_values(tmp_path: Path) -> None:
    function = {"name": "f", "arguments": {"city": None}}
    call = {"role": "assistant", "tool_calls": [{"function": function}]}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}, call]}))
    record = open_source(file, 1000).record(0, "auto")
    assert isinstance(record, Chat)
    assert record.messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": None}


def test_parquets_maps_are_objects(tmp_path: Path) -> None:
    text = pyarrow.string()
    call = pyarrow.struct({"name": text, "arguments": pyarrow.map_(text, text)})
    message = pyarrow.struct({"role": text, "content": text, "tool_calls": pyarrow.list_(call)})
    rows = [
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [("city", "SF")]}]},
        ]
    ]
    table = pyarrow.table({"messages": pyarrow.array(rows, pyarrow.list_(message))})
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, file)
    record = open_source(file, 100).record(0, "auto")
    assert isinstance(record, Chat)
    assert record.messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "SF"}
