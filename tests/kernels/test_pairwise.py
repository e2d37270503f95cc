"""The choice of combinations: every pair meets, in few of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.kernels.pairwise import covering


@pytest.mark.parametrize(
    "axes",
    [["ab", "cd"], ["abc", "de", "fg"], ["abcd", "efghijklmn", "opq", "rs"], ["a", "b"]],
)
def test_each_pair_meets(axes: list[str]) -> None:
    rows = covering([list(values) for values in axes])
    for (i, first), (j, second) in itertools.combinations(enumerate(axes), 2):
        found: set[Any] = {(row[i], row[j]) for row in rows}
        assert found == set(itertools.product(first, second))
    assert len(rows) == len(set(rows))


def test_few_combinations_are_enough() -> None:
    axes = [list(range(size)) for size in (4, 10, 3, 2)]
    assert len(covering(axes)) <= 48  # of 240; 40 is the least that could do


def test_without_values_there_are_none() -> None:
    assert covering([[], [1, 2]]) == []
