"""Parameters of tests in which each pair of values occurs, in place of each combination.

A fault of a kernel nearly always shows with one value (an instruction set, a format), or with two
together; all combinations of four axes are several times as many tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from flaxen.kernels import cpu_library

ISAS = cpu_library.supported_isas()
THREADS = (1, 2, 3)

_FIXTURES = ("isa", "num_threads")


def pairwise(axes: Mapping[str, Collection[Any]]) -> pytest.MarkDecorator:
    """A mark that gives a test enough combinations for each two values of two axes to meet.

    Args:
      axes: values by the name of a parameter or fixture; one axis may be of several names, "N, K".
    """
    names = [name for axis in axes for name in axis.split(", ")]
    rows = []
    for row in covering([list(values) for values in axes.values()]):
        values = zip(axes, row, strict=True)
        rows.append([each for axis, value in values for each in _split(axis, value)])
    return pytest.mark.parametrize(
        names, rows, indirect=[name for name in names if name in _FIXTURES]
    )


def _split(axis: str, value: Any) -> list[Any]:
    return list(value) if ", " in axis else [value]


def covering(axes: list[list[Any]]) -> list[tuple[Any, ...]]:
    """Combinations of one value of each axis, in which each two values of two axes meet.

    Each is the one of all combinations that brings together most that have not met.
    """
    sizes = [range(len(values)) for values in axes]
    left = {
        (i, j, a, b)
        for i, j in itertools.combinations(range(len(axes)), 2)
        for a in sizes[i]
        for b in sizes[j]
    }
    candidates = {row: _pairs(row) for row in itertools.product(*sizes)}
    chosen = []
    while left:
        row = max(candidates, key=lambda row: len(candidates[row] & left))
        left -= candidates.pop(row)
        chosen.append(row)
    return [tuple(axes[i][at] for i, at in enumerate(row)) for row in sorted(chosen)]


def _pairs(row: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
    return {(i, j, row[i], row[j]) for i, j in itertools.combinations(range(len(row)), 2)}
