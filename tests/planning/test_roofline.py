"""The least time of made-up steps, and whether made-up memories fit."""

from __future__ import annotations

import pytest

from flaxen.planning.collectives import Collective
from flaxen.planning.memory import Memory
from flaxen.planning.roofline import Work, step_times
from flaxen.sharding.chips import Chip

CHIP = Chip(
    name="toy",
    hbm_bytes=1000,
    hbm_bandwidth=100.0,
    bf16_peak=1000.0,
    link_bandwidth=20.0,
)
SUM = Collective(kind="all-reduce", num_devices=2, count=1, num_bytes=30)


def work(num_bytes: int = 0, num_operations: float = 0, *sent: Collective) -> Work:
    return Work(
        weight_bytes=num_bytes,
        cache_bytes=0,
        other_bytes=0,
        num_operations=num_operations,
        collectives=sent,
    )


@pytest.mark.parametrize(
    ("done", "least_s", "limit"),
    [
        (work(200, 1000), 2.0, "memory"),
        (work(200, 5000), 5.0, "compute"),
        (work(200, 1000, SUM), 2.0 + 3.0, "links"),  # half of the links' bandwidth, once around
    ],
)
def test_the_slowest_limits(done: Work, least_s: float, limit: str) -> None:
    times = step_times(done, CHIP, CHIP.bf16_peak)
    assert (times.least_s, times.limit) == (least_s, limit)


def test_all_that_is_read_counts() -> None:
    done = Work(weight_bytes=1, cache_bytes=20, other_bytes=300, num_operations=0, collectives=())
    assert done.num_bytes == 321


@pytest.mark.parametrize(
    ("parts", "free", "least", "missing"),
    [
        ((600, 400), None, None, 0),
        ((600, 500), None, None, 100),
        ((600, 100), 200, 150, 0),
        ((600, 100), -50, 150, 200),
        ((900, 400), 100, 150, 300),
    ],
)
def test_what_is_missing(
    parts: tuple[int, ...], free: int | None, least: int | None, missing: int
) -> None:
    memory = Memory(
        hbm_bytes=1000,
        parts=tuple((str(i), size) for i, size in enumerate(parts)),
        free_for_pages=free,
        least_pages=least,
    )
    assert (memory.missing_bytes, memory.fits) == (missing, missing == 0)
