"""One budget of memory, divided among models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.model_pool.budget import MemoryNeed, divide_budget

MIB = 2**20


def need(weights: int, least: int, wanted: int, name: str = "m") -> MemoryNeed:
    return MemoryNeed(
        name=name, weight_bytes=weights, least_bytes=least, wanted_bytes=max(least, wanted)
    )


def test_models_that_fit_together_share_what_is_left() -> None:
    needs = [need(10, 2, 100), need(20, 4, 100)]
    division = divide_budget(56, needs)
    assert division.fits_at_once
    assert division.num_bytes == (10 + 2 + 10, 20 + 4 + 10)


def test_who_wants_little_leaves_more_to_the_others() -> None:
    needs = [need(10, 2, 100), need(10, 2, 5), need(10, 0, 0)]
    assert divide_budget(134, needs).num_bytes == (10 + 2 + 97, 15, 10)
    assert divide_budget(10_000, needs).num_bytes == (110, 15, 10), "nobody takes what it can't use"


def test_models_that_do_not_fit_together_take_turns() -> None:
    division = divide_budget(100, [need(40, 10, 500), need(60, 30, 35), need(20, 0, 0)])
    assert not division.fits_at_once
    # Half of what the weights leave; one sequence of full length; nothing.
    assert division.num_bytes == (40 + 30, 60 + 30, 20)
    (cut,) = divide_budget(100, [need(40, 90, 500)]).num_bytes
    assert cut == 100, "a cache that can't hold a sequence of full length takes all"


def test_beside_a_model_that_stays() -> None:
    division = divide_budget(100, [need(20, 10, 20), need(30, 30, 50), need(40, 1, 9)], stays=True)
    assert division.num_bytes == (20 + 20, 30 + 30, 40 + 9)


def test_weights_that_do_not_fit_are_refused() -> None:
    text = (
        r"the weights of big take 3.0 MiB with the pages that it may store \(--kv-offload-bytes\), "
        r"and the memory for models has 2.0 MiB.*--models-memory"
    )
    with pytest.raises(ValueError, match=text):
        divide_budget(2 * MIB, [need(MIB, 1, 1), need(3 * MIB, 1, 1, "big")])
    with pytest.raises(ValueError, match=r"big take 1.0 MiB .* has 0.5 MiB for it"):
        divide_budget(5 * MIB // 2, [need(MIB, MIB, MIB), need(MIB, MIB, MIB, "big")], stays=True)


NEEDS = st.lists(
    st.builds(need, st.integers(1, 50), st.integers(0, 50), st.integers(0, 200)), min_size=1
)


@given(budget=st.integers(50, 2000), needs=NEEDS)
def test_nobody_takes_more_than_there_is_or_than_it_wants(
    budget: int, needs: list[MemoryNeed]
) -> None:
    if budget <= max(each.weight_bytes for each in needs):
        return
    division = divide_budget(budget, needs)
    if division.fits_at_once:
        assert sum(division.num_bytes) <= budget
    for num_bytes, each in zip(division.num_bytes, needs, strict=True):
        assert each.weight_bytes <= num_bytes <= budget
        assert num_bytes <= each.weight_bytes + each.wanted_bytes
        assert not division.fits_at_once or num_bytes >= each.weight_bytes + each.least_bytes
