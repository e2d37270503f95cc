"""Sizes of batches that are chosen by the data: few records still make many steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.data.config import DataConfig
from flaxen.data.fit import fit_rows
from flaxen.data.opening import open_data
from tests.data.tiny_text import TOKENIZER, num_batches, write_jsonl


def fitted(
    lengths: list[int] | None, *, longest: int = 1024, pairs: bool = False, multiple: int = 1,
    **options: Any,
) -> tuple[int | None, int | None]:  # fmt: skip
    config = DataConfig(files=(Path("a.jsonl"),), **options)
    found = fit_rows(config, lengths, longest=longest, pairs=pairs, multiple=multiple)
    return found.batch_size, found.sequence_length


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([34] * 30, (1, 112)),
        ([3], (1, 16)),
        ([100] * 29 + [900], (1, 912)),  # the longest fits
        ([200] * 100, (1, 1024)),
        ([200] * 200, (3, 1024)),
        ([200] * 500, (8, 1024)),
        ([200] * 5000, (8, 1024)),
        (None, (8, 1024)),
    ],
)
def test_rows_become_longer_and_then_more(lengths: list[int] | None, expected: Any) -> None:
    assert fitted(lengths) == expected


def test_what_is_given_is_kept() -> None:
    assert fitted([34] * 30, batch_size=4) == (4, 48)
    assert fitted([200] * 500, batch_size=4) == (4, 1024)
    assert fitted([34] * 30, sequence_length=512) == (1, 512)
    assert fitted([34] * 3000, sequence_length=512) == (8, 512)
    assert fitted(None, batch_size=3, sequence_length=7) == (3, 7)


def test_the_model_and_the_microbatches_have_a_say() -> None:
    assert fitted([40] * 30, longest=48) == (2, 48)
    assert fitted([34] * 30, multiple=4) == (4, 48)
    assert fitted([34] * 30, overlap=8) == (1, 1024)


def test_a_pair_is_a_row() -> None:
    assert fitted([34] * 30, pairs=True) == (3, 48)
    assert fitted([34] * 60, pairs=True) == (6, 48)
    assert fitted([34] * 900, pairs=True) == (8, 48)


def test_few_records_make_many_steps(tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "a.jsonl", [{"text": f"text {i:030}"} for i in range(30)])
    data = open_data(DataConfig(files=(texts,)), TOKENIZER)
    assert (data.config.batch_size, data.config.sequence_length) == (1, 112)
    assert num_batches(data) == 10
    assert next(data).tokens.shape == (1, 112)
    short = open_data(DataConfig(files=(texts,)), TOKENIZER, max_length=24)
    assert short.config.sequence_length == 24
    pair = {"prompt": "a", "chosen": "b" * 70, "rejected": "c"}
    pairs = open_data(
        DataConfig(files=(write_jsonl(tmp_path / "b.jsonl", [pair] * 3),)),
        TOKENIZER,
        multiple=2,
        pairs=True,
    )
    assert next(pairs).rejected.tokens.shape == (2, 80)


def test_sizes_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fitted([1], batch_size=0)
    with pytest.raises(ValueError, match="overlap must be from 0 to below sequence_length 8"):
        fitted([1], sequence_length=8, overlap=8)
    with pytest.raises(ValueError, match="overlap must be from 0"):
        fitted([1], overlap=-1)
