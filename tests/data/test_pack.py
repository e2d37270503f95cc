"""Packing: nothing is lost, doubled or mixed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxen.data.encode import TokenSequence
from flaxen.data.pack import collate, collate_pairs, pack


def sequence(tokens: list[int], weights: list[float] | None = None) -> TokenSequence:
    weights = [1.0] * len(tokens) if weights is None else weights
    return TokenSequence(np.asarray(tokens, np.int32), np.asarray(weights, np.float32))


def test_a_batch_by_hand() -> None:
    rows = pack([sequence([5, 6, 7], [1, 0, 1]), sequence([8, 9]), sequence([1, 2, 3, 4])], 4, 32)
    assert [len(row) for row in rows] == [2, 1]
    batch = collate(rows, 3, 4)
    assert batch.tokens.tolist() == [[5, 6, 8, 0], [1, 2, 3, 0], [0, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 9, -1], [2, 3, 4, -1], [-1, -1, -1, -1]]
    assert batch.loss_weights.tolist() == [[0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 2, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    types = [array.dtype.name for array in batch]
    assert types == ["int32", "int32", "float32", "int32", "int32"]


def test_pairs_share_their_rows() -> None:
    pairs = collate_pairs([(sequence([1, 2]), sequence([1, 3, 4]))], 2, 3)
    assert pairs.chosen.tokens.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert pairs.rejected.targets.tolist() == [[3, 4, -1], [-1, -1, -1]]


sizes = st.lists(st.integers(1, 12), max_size=60)


@given(sizes=sizes, max_segments=st.integers(1, 6))
def test_each_sequence_is_in_one_row_that_holds_it(sizes: list[int], max_segments: int) -> None:
    sequences = [sequence(list(range(size + 1))) for size in sizes]
    rows = pack(sequences, 12, max_segments)
    assert sorted(id(s) for row in rows for s in row) == sorted(map(id, sequences))
    for row in rows:
        assert 1 <= len(row) <= max_segments
        assert sum(s.num_inputs for s in row) <= 12
    # Two rows that would fit into one are never left, unless they have too many segments.
    halves = [row for row in rows if sum(s.num_inputs for s in row) <= 6]
    assert len([row for row in halves if len(row) <= max_segments // 2]) <= 1


def test_rows_are_well_filled() -> None:
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(4, 1, 2000).astype(int), 1, 1024).tolist()
    rows = pack([sequence([0] * (size + 1)) for size in sizes], 1024, 32)
    assert sum(sizes) / (len(rows) * 1024) > 0.97
