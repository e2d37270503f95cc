"""Long texts are shuffled over the whole, not within the place where they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.data.config import DataConfig
from flaxen.data.opening import open_data
from flaxen.data.pieces import RecentPieces, split_text
from flaxen.data.records import Record, Text
from tests.data.tiny_text import TOKENIZER, segments, write_jsonl

SMALL: dict[str, Any] = {"batch_size": 4, "sequence_length": 32, "files": ()}
NUM_LINES = 5000  # of 16 bytes: more than is read at once
LINES = [f"{i:08d} words.\n" for i in range(NUM_LINES)]


@given(text=st.text(st.sampled_from("ab \n"), min_size=1, max_size=400), length=st.integers(1, 9))
def test_pieces_are_the_whole_text(text: str, length: int) -> None:
    whole = Text(text=text, begins=True, ends=True)
    pieces = split_text(whole, length)
    assert "".join(piece.text for piece in pieces) == text
    assert all(0 < len(piece.text) <= 12 * length for piece in pieces)
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    if len(pieces) > 1:
        assert min(len(piece.text) for piece in pieces) >= 4 * length


def test_pieces_end_with_lines_or_words() -> None:
    def cut(text: str) -> list[str]:
        pieces = split_text(Text(text=text, begins=False, ends=False), 1)
        assert not any(piece.begins or piece.ends for piece in pieces)
        return [piece.text for piece in pieces]

    assert cut("abcde\nabcde\nabcde\n") == ["abcde\n", "abcde\nabcde\n"]
    assert cut("abcde fghij klmno pqrst") == ["abcde", " fghij", " klmno pqrst"]
    assert cut("x" * 13) == ["x" * 8, "x" * 5]
    assert cut("x" * 12) == ["x" * 12]


def write_text(directory: Path, kind: str) -> Path:
    """The same text in one file, in one record, and in a record for each piece."""
    text = "".join(LINES)
    if kind == "text":
        (directory / "a.txt").write_text(text)
        return directory / "a.txt"
    if kind == "record":
        return write_jsonl(directory / "a.jsonl", [{"text": text}])
    texts = [{"text": "".join(LINES[i : i + 16])} for i in range(0, NUM_LINES, 16)]
    return write_jsonl(directory / "b.jsonl", texts)


def lines_of(batch: Any) -> list[int]:
    """The numbers of the whole lines in a batch, in their order."""
    texts = [text for row in segments(batch) for text, _ in row]
    return [int(number) for text in texts for number in re.findall(r"\d{8}(?= )", text)]


def distance(file: Path, **options: Any) -> float:
    """How far two neighbouring batches are apart in a file, in lines, as a mean."""
    config = DataConfig(**{**SMALL, "files": (file,), **options})
    found = [lines_of(batch) for batch in open_data(config, TOKENIZER)]
    centres = [float(np.median(lines)) for lines in found if lines]
    return float(np.mean(np.abs(np.diff(centres))))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_neighbouring_batches_come_from_different_places(tmp_path: Path, batch_size: int) -> None:
    as_pieces = distance(write_text(tmp_path, "pieces"), batch_size=batch_size)
    for kind in ("text", "record"):
        file = write_text(tmp_path, kind)
        found = distance(file, batch_size=batch_size)
        # Two random places are a third of the whole apart, medians of four a little less.
        assert found > NUM_LINES * (0.3 if batch_size == 1 else 0.15)
        assert found > 0.9 * as_pieces
        assert distance(file, batch_size=batch_size, shuffle=False) < 50


def test_rows_of_a_short_text_lie_apart_too(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("".join(LINES[:20]))
    data = open_data(DataConfig(**{**SMALL, "files": (file,), "batch_size": 1}), TOKENIZER)
    found = [line for batch in data for line in lines_of(batch)]
    assert found != sorted(found)


@pytest.mark.parametrize("kind", ["text", "record"])
def test_each_piece_is_learned_once_an_epoch_and_the_order_is_the_seeds(
    tmp_path: Path, kind: str
) -> None:
    file = write_text(tmp_path, kind)

    def learned(**options: Any) -> list[str]:
        data = open_data(DataConfig(**{**SMALL, "files": (file,), **options}), TOKENIZER)
        return [text for batch in data for row in segments(batch) for text, _ in row]

    first, again, other = learned(), learned(), learned(seed=1)
    assert first == again != other
    assert sorted(first) == sorted(other)
    twice = learned(epochs=2)
    assert twice[: len(first)] == first != twice[len(first) :]
    # The last token of a segment is only a target: of every 33rd byte nothing is an input.
    assert sum(map(len, first)) > 0.95 * sum(map(len, LINES))


def test_a_resumed_run_gives_the_same_batches(tmp_path: Path) -> None:
    config = DataConfig(**{**SMALL, "files": (write_text(tmp_path, "text"),)})
    data = open_data(config, TOKENIZER)
    states, batches = [], []
    for batch in data:
        batches.append(batch)
        states.append(data.state())
    for place in (0, 7, 40, len(batches) - 2):
        resumed = open_data(config, TOKENIZER)
        resumed.restore(states[place])
        np.testing.assert_array_equal(next(resumed).tokens, batches[place + 1].tokens)
    unsplit = DataConfig(**{**SMALL, "files": config.files, "on_long": "truncate"})
    with pytest.raises(ValueError, match="the place was saved for other data"):
        open_data(unsplit, TOKENIZER).restore(states[0])


def test_the_report_counts_records_not_pieces(tmp_path: Path) -> None:
    file = write_text(tmp_path, "record")
    with file.open("a") as opened:
        opened.write("3\n")
    config = DataConfig(**{**SMALL, "files": (file,), "on_bad_record": "skip"})
    data = open_data(config, TOKENIZER)
    next(data)
    assert (data.report().num_records, data.report().num_bad) == (2, 1)


def test_a_long_text_is_read_once_until_others_take_its_room() -> None:
    recent, reads = RecentPieces(most_chars=100), []

    def get(number: int, *lengths: int) -> list[str]:
        def read() -> list[Record]:
            reads.append(number)
            return [Text(text=f"{number}" * length) for length in lengths]

        found = recent.get((0, number), read)
        return [piece.text for piece in found if isinstance(piece, Text)]

    for _ in range(3):  # ten texts, and records of one piece between them, which need no room
        for number in range(10):
            assert get(number, 4, 5) == [f"{number}" * 4, f"{number}" * 5]
            get(10 + number, 200)
    assert [number for number in reads if number < 10] == list(range(10))
    reads.clear()
    get(0, 4, 5)
    get(20, 5, 6)
    get(0, 4, 5)  # used last but one; 1 was longest ago
    get(1, 4, 5)
    assert reads == [20, 1]
    get(30, 150, 150)
    get(30, 150, 150)
    get(0, 4, 5)
    assert reads == [20, 1, 30, 0]
