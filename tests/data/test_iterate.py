"""The order of the data: complete, shuffled by seed and epoch, and taken up again exactly."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.data.batch import Batch
from flaxen.data.config import DataConfig
from flaxen.data.iterate import DataIterator
from flaxen.data.opening import open_data
from tests.data.tiny_text import (
    TOKENIZER,
    chat,
    make_tokenizer,
    num_batches,
    segments,
    write_jsonl,
)

SMALL: dict[str, Any] = {"batch_size": 2, "sequence_length": 12}


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"{i:0{1 + i * 7 % 9}d}"} for i in range(count)]


def open_texts(directory: Path, count: int = 40, **options: Any) -> DataIterator[Batch]:
    file = write_jsonl(directory / "a.jsonl", texts(count))
    return open_data(DataConfig(files=(file,), **{**SMALL, **options}), TOKENIZER)


def learned_texts(batches: Any) -> list[str]:
    return [learned for batch in batches for row in segments(batch) for _, learned in row]


def test_each_record_once_an_epoch(tmp_path: Path) -> None:
    # A segment's first token is no target.
    expected = sorted(record["text"][1:] + "<eos>" for record in texts(40))
    orders = [
        learned_texts(open_texts(tmp_path, epochs=1, **options))
        for options in ({"shuffle": False}, {"seed": 0}, {"seed": 1})
    ]
    assert [sorted(order) for order in orders] == [expected] * 3
    assert orders[0] != orders[1] != orders[2]
    twice = learned_texts(open_texts(tmp_path, epochs=2))
    assert twice[:40] == orders[1]
    assert sorted(twice[40:]) == expected
    assert twice[40:] != orders[1]
    endless = open_texts(tmp_path, epochs=None)
    assert learned_texts(itertools.islice(endless, 100))[:80] == twice
    assert endless.epoch >= 2


def test_the_order_of_a_seed_stays_the_same(tmp_path: Path) -> None:
    """A run that was begun by an older version goes on with this one."""
    data = open_texts(tmp_path, 8, seed=3, sequence_length=9, max_segments=1)
    expected = ["000006", "0000001", "00000005", "00002", "0007", "4", "003", ""]
    assert learned_texts(data) == [text + "<eos>" for text in expected]


def test_the_last_batch_is_filled_with_padding(tmp_path: Path) -> None:
    data = open_texts(tmp_path, 3, max_segments=1)
    assert num_batches(data) == 2
    batches = list(data)
    assert len(batches) == 2
    assert batches[1].tokens.shape == (2, 12)
    assert not batches[1].segment_ids[1].any()


@functools.cache
def whole_run(seed: int, shuffle: bool) -> tuple[Path, list[Batch], list[str]]:
    directory = Path(tempfile.mkdtemp())
    data = open_texts(directory, 150, seed=seed, shuffle=shuffle, epochs=3)
    batches, states = [], [json.dumps(data.state())]
    for batch in data:
        batches.append(batch)
        states.append(json.dumps(data.state()))
    return directory / "a.jsonl", batches, states


@given(data=st.data(), seed=st.integers(0, 2), shuffle=st.booleans())
def test_a_resumed_run_gives_the_same_batches(data: Any, seed: int, shuffle: bool) -> None:
    file, batches, states = whole_run(seed, shuffle)
    assert len(batches) > 64  # more than one window
    place = data.draw(st.integers(0, len(batches)))
    config = DataConfig(files=(file,), seed=seed, shuffle=shuffle, epochs=3, **SMALL)
    resumed = open_data(config, TOKENIZER)
    for _ in range(data.draw(st.integers(0, 3))):  # wherever it was before
        next(resumed)
    resumed.restore(json.loads(states[place]))
    count = data.draw(st.integers(0, len(batches) - place))
    for expected in batches[place : place + count]:
        for one, other in zip(next(resumed), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert json.dumps(resumed.state()) == states[place + count]
    if place + count == len(batches):
        with pytest.raises(StopIteration):
            next(resumed)


def test_a_run_may_go_on_for_longer_and_with_other_batches(tmp_path: Path) -> None:
    first = open_texts(tmp_path, epochs=1)
    before = learned_texts(first)
    second = open_texts(tmp_path, epochs=2, batch_size=3)
    second.restore(first.state())
    assert before + learned_texts(second) == learned_texts(open_texts(tmp_path, epochs=2))


def test_a_place_in_other_data_is_refused(tmp_path: Path) -> None:
    state = open_texts(tmp_path).state()
    for changed in ({"seed": 1}, {"count": 39}, {"sequence_length": 13}):
        with pytest.raises(ValueError, match="the place was saved for other data: the files"):
            open_texts(tmp_path, **changed).restore(state)
    for wrong in ({"row": -1}, {"version": 0}, {"epoch": "1"}):
        with pytest.raises(ValueError, match="is no place in data that this version saved"):
            open_texts(tmp_path).restore({**state, **wrong})


def test_long_texts_are_split_and_long_chats_cut(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("0123456789" * 3)
    data = open_data(DataConfig(files=(file,), overlap=4, shuffle=False, **SMALL), TOKENIZER)
    assert segments(next(data)) == [
        [("012345678901", "123456789012")],
        [("890123456789", "34567890")],
    ]
    assert segments(next(data))[0] == [("678901234567", "12345678")]
    long = write_jsonl(tmp_path / "b.jsonl", [chat("Hi", "x" * 100)])
    config = DataConfig(files=(long,), batch_size=1, sequence_length=40)
    cut = open_data(config, TOKENIZER)
    assert segments(next(cut)) == [
        [("<turn>user\nHi<eos>\n<turn>assistant\n" + "x" * 19, "x" * 20)]
    ]
    assert cut.report().num_truncated == 1
    cut.close()


def test_bad_records_fail_or_are_skipped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    bad = ["{", '{"txt": 1}', '{"messages": []}', '{"text": "' + "x" * 200 + '"}', "3", "4", "5"]
    file.write_text("\n".join(['{"text": "ab"}', *bad, '{"text": "cd"}']))
    options: dict[str, Any] = {"files": (file,), "max_record_bytes": 100, "shuffle": False}
    with pytest.raises(
        ValueError,
        match=r"7 of 9 records can't be used: \S*a.jsonl:2: not valid JSON.*a.jsonl:3: a record "
        r"must.*a.jsonl:5: the line is longer.*a.jsonl:6: .*Correct them, or skip bad records",
    ):
        open_data(DataConfig(**options, **SMALL), TOKENIZER)
    data = open_data(DataConfig(**options, **SMALL, on_bad_record="skip"), TOKENIZER)
    assert learned_texts(data) == ["b<eos>", "d<eos>"]
    report = data.report()
    assert (report.num_records, report.num_bad, report.num_truncated) == (9, 7, 0)
    assert len(report.bad) == 5
    assert report.bad[0].startswith(f"{file}:2: not valid JSON")


def test_records_that_only_the_template_finds_bad(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if messages[0].content == 'Ho' %}{{ raise_exception('no Ho') }}{% endif %}"
    )
    tokenizer = make_tokenizer(chat_template=template)
    file = write_jsonl(tmp_path / "a.jsonl", [chat("Hi", "Yes"), chat("Ho", "No")])
    options: dict[str, Any] = {"files": (file,), "shuffle": False, **SMALL}
    data = open_data(DataConfig(**options), tokenizer)
    with pytest.raises(ValueError, match=r"a.jsonl:2: no Ho"):
        next(data)
    data.close()
    data = open_data(DataConfig(**options, on_bad_record="skip", epochs=2), tokenizer)
    assert learned_texts(data) == ["Yes", "Yes"]
    assert data.report().num_records == 2
    assert data.report().bad == (f"{file}:2: no Ho",)
    data.close()
    write_jsonl(file, [chat("Ho", "No")])
    data = open_data(DataConfig(**options, on_bad_record="skip", epochs=None), tokenizer)
    with pytest.raises(ValueError, match=r"has no record to use: all 1 are bad: .*:1: no Ho"):
        next(data)
    data.close()


def test_a_token_that_the_model_does_not_know_is_named_by_its_line(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "ab"}, {"text": "a<turn>"}])
    options: dict[str, Any] = {"files": (file,), **SMALL}
    with pytest.raises(ValueError, match=r"a.jsonl:2: the token '<turn>' has the id 258, outside"):
        list(open_data(DataConfig(**options), TOKENIZER, vocab_size=258))
    skips = open_data(DataConfig(**options, on_bad_record="skip"), TOKENIZER, vocab_size=258)
    assert learned_texts(skips) == ["b<eos>"]
    assert skips.report().num_bad == 1
    pairs = write_jsonl(
        tmp_path / "b.jsonl", [{"prompt": "a", "chosen": "<turn>", "rejected": "b"}]
    )
    with pytest.raises(ValueError, match=r"b.jsonl:1: the token '<turn>' has the id 258"):
        next(
            open_data(
                DataConfig(**{**options, "files": (pairs,)}), TOKENIZER, vocab_size=258, pairs=True
            )
        )


def test_a_given_template_counts_and_is_part_of_the_place(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [chat("Hi", "Yes")] * 3)
    options: dict[str, Any] = {"files": (file,), **SMALL, "sequence_length": 40}
    own = open_data(DataConfig(**options), TOKENIZER)
    template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    given = open_data(DataConfig(**options, chat_template=template), TOKENIZER)
    assert segments(next(given))[0][0] == ("Hi;Yes", "Yes;")
    with pytest.raises(ValueError, match="the place was saved for other data"):
        own.restore(given.state())
    own.close()
    given.close()


def test_what_is_left_of_a_cut_record_must_have_something_to_learn(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x" * 50, "completion": "y"}])
    data = open_data(DataConfig(files=(file,), **SMALL), TOKENIZER)
    with pytest.raises(
        ValueError,
        match=r":1: nothing to learn is left of its 52 tokens .* sequence_length of 12: raise it",
    ):
        next(data)


def test_pairs(tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "a.jsonl",
        [{"prompt": "a", "chosen": "b", "rejected": "c" * n} for n in (1, 2, 30)],
    )
    config = DataConfig(files=(file,), shuffle=False, **SMALL)
    data = open_data(config, TOKENIZER, pairs=True)
    assert num_batches(data) == 2
    chosen, rejected = next(data)
    assert segments(chosen) == [[("ab", "b<eos>")]] * 2
    assert segments(rejected) == [[("ac", "c<eos>")], [("acc", "cc<eos>")]]
    state = data.state()
    _, rejected = next(data)
    assert segments(rejected) == [[("a" + "c" * 11, "c" * 12)], []]
    assert data.report().num_truncated == 1
    again = open_data(config, TOKENIZER, pairs=True)
    again.restore(state)
    np.testing.assert_array_equal(next(again).rejected.tokens, rejected.tokens)
    with pytest.raises(ValueError, match="is a preference pair, which only DPO learns from"):
        open_data(config, TOKENIZER)
    write_jsonl(file, texts(1))
    with pytest.raises(ValueError, match="no preference pair, and DPO learns from nothing else"):
        open_data(config, TOKENIZER, pairs=True)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match=r"a.jsonl has no record to use: it is empty"):
        open_data(DataConfig(files=(tmp_path / "a.jsonl",)), TOKENIZER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": ()}, "files is empty: name at least one"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"sequence_length": 0}, "sequence_length must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, or None for no end, got 0"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*63 - 1, got -1"),
        (
            {"sequence_length": 1024, "overlap": 1024},
            "overlap must be from 0 to below sequence_length 1024, got 1024",
        ),
        ({"format": "csv"}, "format 'csv' is not known: use one of auto, text, completion"),
        ({"on_bad_record": "warn"}, "on_bad_record 'warn' is not known: use one of fail, skip"),
        ({"on_long": "drop"}, "on_long 'drop' is not known: use one of auto, split, truncate"),
    ],
)
def test_what_is_wrong_with_a_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"files": (Path("a.jsonl"),), **options})


def test_a_place_beyond_the_last_epoch_is_the_end(tmp_path: Path) -> None:
    data = open_texts(tmp_path, epochs=None)
    for _ in iter(lambda: data.epoch, 2):
        next(data)
    fewer = open_texts(tmp_path, epochs=1)
    fewer.restore(data.state())
    assert num_batches(fewer) == 0
    assert list(fewer) == []
