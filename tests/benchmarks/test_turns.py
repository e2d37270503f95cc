"""What `benchmarks/turns.py` makes of the figures of two commits."""

from __future__ import annotations

import pytest

from benchmarks import turns


def test_the_ratio_is_of_each_round_by_itself() -> None:
    rounds = [
        {"before": {"speed": 10.0}, "after": {"speed": 11.0}},
        {"before": {"speed": 20.0}, "after": {"speed": 22.0}},  # all was faster in this round
        {"before": {"speed": 10.0}, "after": {"speed": 5.0}},
    ]
    line = turns.compare(rounds)["speed"]
    assert line["before"] == 10
    assert line["after"] == 11
    assert line["ratio"] == pytest.approx(1.1)
    assert (line["ratio_min"], line["ratio_max"]) == (pytest.approx(0.5), pytest.approx(1.1))


def test_nothing_is_divided_by_nothing() -> None:
    rounds = [{"before": {"A.kv_waste": 0.0}, "after": {"A.kv_waste": 0.0}}]
    assert turns.compare(rounds) == {"A.kv_waste": {"before": 0, "after": 0}}


def test_the_figures_of_a_bench() -> None:
    bench = {
        "startup_s": 2,
        "peak_rss_bytes": 5_000_000,
        "workloads": {"A": {"decode_tok_s": {"median": 7.0}, "kv_waste": 0.25, "other": 1}},
    }
    assert turns.read_figures(bench) == {
        "startup_s": 2,
        "peak_rss_mb": 5,
        "A.decode_tok_s": 7,
        "A.kv_waste": 0.25,
    }
