"""What is kept comes back bit for bit, and no record is written as tokens twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.data.config import DataConfig
from flaxen.data.corpus import Corpus
from flaxen.data.encode import Encoder, TokenSequence
from flaxen.data.iterate import batches_of
from flaxen.data.opening import open_data
from flaxen.data.stopping import StoppedError
from flaxen.data.token_store import TokenStore
from flaxen.data.validate import validate_file
from tests.data.tiny_text import TOKENIZER, num_batches, write_jsonl
from tests.full_disk import fill_disk_of


class Counting:
    """The tokenizer, and how often it was asked to write a text as tokens."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode(self, text: str, **options: Any) -> list[int]:
        self.num_encoded += 1
        return TOKENIZER.encode(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)


def sequence(weights: list[float]) -> TokenSequence:
    tokens = np.arange(len(weights), dtype=np.int32) * 100_000
    return TokenSequence(tokens, np.asarray(weights, np.float32))


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=1, max_size=9), max_size=3))
def test_sequences_come_back_to_the_bit(weights: list[list[float]]) -> None:
    record = tuple(sequence(each) for each in weights)
    store = TokenStore(tokens_in_memory=0)
    store.put(7, (sequence([1]),), spill=True)
    store.put(3, record, spill=True)
    found = store.get(3)
    assert found is not None
    assert len(found) == len(record)
    for mine, other in zip(found, record, strict=True):
        for one, two in zip(mine, other, strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)
    store.close()


def test_what_is_read_once_is_not_spilled(tmp_path: Path) -> None:
    store = TokenStore(tokens_in_memory=3, directory=tmp_path / "made when needed")
    store.put(0, (sequence([1, 1]),), spill=False)
    store.put(1, (sequence([1, 1]),), spill=False)
    assert store.get(0) is not None
    assert store.get(1) is None
    assert not (tmp_path / "made when needed").exists()
    store.put(2, (sequence([1]),), spill=True)
    assert store.get(2) is not None
    assert list((tmp_path / "made when needed").iterdir()) == []  # it has no name
    store.close()


def test_a_full_disk_costs_time_only(tmp_path: Path) -> None:
    store = TokenStore(tokens_in_memory=0, directory=tmp_path)
    store.put(0, (sequence([1]),), spill=True)
    fill_disk_of(tmp_path)
    store.put(1, (sequence([1]),), spill=True)
    assert store.get(1) is None
    store.put(2, (sequence([1]),), spill=True)
    assert store.get(2) is None
    store.close()


@pytest.mark.parametrize("tokens_in_memory", [0, 30, 10_000])
def test_each_record_is_written_as_tokens_once(tmp_path: Path, tokens_in_memory: int) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * (i % 7 + 1)} for i in range(40)])
    config = DataConfig(files=(file,), batch_size=2, sequence_length=12, epochs=3)
    tokenizer: Any = Counting()
    store = TokenStore(tokens_in_memory=tokens_in_memory)
    batches = batches_of(
        Corpus(config, Encoder(tokenizer), pairs=False, store=store), config, tokenizer
    )
    expected_number = num_batches(batches)
    expected = list(open_data(config, TOKENIZER))
    assert expected_number == len(expected)
    for mine, other in zip(batches, expected, strict=True):
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_array_equal(one, two)
    assert tokenizer.num_encoded == 40
    batches.close()


def test_it_stops_before_each_record(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "xy"}] * 10)
    config = DataConfig(files=(file,), shuffle=False, batch_size=8, sequence_length=1024)
    num_asked = 0

    def stop_at(number: int) -> Any:
        def should_stop() -> bool:
            nonlocal num_asked
            num_asked += 1
            return num_asked == number

        return should_stop

    tokenizer: Any = Counting()
    with pytest.raises(StoppedError):  # while it is opened
        Corpus(config, Encoder(tokenizer), pairs=False, should_stop=stop_at(3))
    assert (num_asked, tokenizer.num_encoded) == (3, 0)
    num_asked = 0
    corpus = Corpus(config, Encoder(tokenizer), pairs=False, should_stop=stop_at(10 + 5))
    with pytest.raises(StoppedError):  # while records are written as tokens
        batches_of(corpus, config, tokenizer).remaining()
    assert tokenizer.num_encoded == 4
    num_asked = 0
    with pytest.raises(StoppedError):  # while they are validated
        validate_file(file, "supervised", should_stop=stop_at(4))
    assert num_asked == 4


def test_it_stops_within_a_long_chat(tmp_path: Path) -> None:
    messages = [{"role": role, "content": "x"} for _ in range(50) for role in ("user", "assistant")]
    file = write_jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    config = DataConfig(files=(file,), sequence_length=1000)
    tokenizer: Any = Counting()
    encoder = Encoder(tokenizer, should_stop=lambda: tokenizer.num_encoded >= 7)
    corpus = Corpus(config, encoder, pairs=False)
    with pytest.raises(StoppedError):
        corpus.sequences(0)
    assert tokenizer.num_encoded == 7
    corpus.close()
