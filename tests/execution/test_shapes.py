"""The compiled shapes: every step that may come fits one, and gets the smallest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.execution.shapes import Shape, smallest_shape, step_shapes
from flaxen.scheduling.config import EngineConfig
from tests.scheduling.groups import full

CONFIG = EngineConfig(max_model_len=64, groups=full(8), max_num_seqs=20, max_num_batched_tokens=100)


def pairs(config: EngineConfig) -> list[tuple[int, int]]:
    return [(shape.num_tokens, shape.num_seqs) for shape in step_shapes(config)]


def test_shapes_of_a_configuration() -> None:
    assert pairs(CONFIG) == [(1, 1), (16, 16), (64, 20), (100, 20)]
    assert pairs(replace(CONFIG, max_num_batched_tokens=64)) == [(1, 1), (16, 16), (64, 20)]
    one = replace(CONFIG, max_num_seqs=1, max_num_batched_tokens=1)
    assert pairs(one) == [(1, 1)]


def test_chosen_shapes_are_sorted_and_may_be_larger() -> None:
    assert pairs(replace(CONFIG, compile_sizes=(128, 8))) == [(8, 8), (128, 20)]


def test_shapes_too_small_for_a_step_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"largest of compile_sizes \(64,\) must be at least .*100"
    ):
        replace(CONFIG, compile_sizes=(64,))
    with pytest.raises(ValueError, match="compile_sizes must be at least 1"):
        replace(CONFIG, compile_sizes=(0, 100))


@pytest.mark.parametrize("sizes", [(), (100,), (7, 30, 111)])
def test_every_step_fits_and_none_smaller_would(sizes: tuple[int, ...]) -> None:
    shapes = step_shapes(replace(CONFIG, compile_sizes=sizes))
    for num_tokens in range(1, 101):
        for num_seqs in range(1, min(num_tokens, 20) + 1):
            shape = smallest_shape(shapes, num_tokens, num_seqs)
            assert fits(shape, num_tokens, num_seqs)
            assert not any(fits(s, num_tokens, num_seqs) for s in shapes if s < shape)


def fits(shape: Shape, num_tokens: int, num_seqs: int) -> bool:
    return shape.num_tokens >= num_tokens and shape.num_seqs >= num_seqs
