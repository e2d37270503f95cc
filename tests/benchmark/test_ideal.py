"""The least time of a workload, on a model and a machine whose sums fit in the head."""

from dataclasses import replace

import pytest

from flaxen.benchmark.ideal import CacheLayer, ExpertsCost, ModelCost, ideal
from flaxen.benchmark.limits import Limits

# 100 bytes/s and 1,000 operations/s; 200 bytes of weights: a step takes 2 s to read.
LIMITS = Limits(read_bytes_s=100, matmul_flops={"float32": 1000, "bfloat16": 10})
COST = ModelCost(
    weight_bytes=200,
    layer_params=50,
    unembed_params=10,
    cache_layers=(
        CacheLayer(bytes_per_token=1, window=None),
        CacheLayer(bytes_per_token=1, window=4),
    ),
)


def test_decode_of_one_reads_the_weights_and_the_past_each_step() -> None:
    least = ideal(COST, LIMITS, [(1, 2, 3)], [3])
    assert least.prefill_s == pytest.approx(2.0)  # 320 operations take less
    # After 4 and 5 tokens: 200 + 4 + 4 and 200 + 5 + 4 bytes.
    assert least.decode_s == pytest.approx(2.08 + 2.09)


def test_a_long_prefill_is_bound_by_arithmetic() -> None:
    least = ideal(COST, LIMITS, [tuple(range(100))], [1])
    assert least.prefill_s == pytest.approx(2 * (50 * 100 + 10) / 1000)
    assert least.decode_s == 0


def test_a_wide_decode_is_bound_by_arithmetic() -> None:
    prompts = [(i,) for i in range(40)]
    assert ideal(COST, LIMITS, prompts, [2] * 40).decode_s == pytest.approx(40 * 2 * 60 / 1000)


def test_sequences_that_ended_are_not_read() -> None:
    least = ideal(COST, LIMITS, [(1, 2, 3), (4, 5, 6)], [2, 3])
    assert least.decode_s == pytest.approx((200 + 2 * 8) / 100 + (200 + 9) / 100)


def test_a_shared_prefix_is_computed_once() -> None:
    prefix = tuple(range(100))
    prompts = [(*prefix, 200), (*prefix, 201)]
    assert ideal(COST, LIMITS, prompts, [1, 1]).prefill_s == pytest.approx(
        2 * (50 * 102 + 10 * 2) / 1000
    )


def test_of_experts_those_are_read_that_tokens_use() -> None:
    experts = ExpertsCost(num_bytes=800, num_params=400, share=0.25)
    cost = replace(COST, cache_layers=(), experts=(experts,))
    assert cost.held_bytes == 1000
    # One of four experts for one token; for two tokens 1 - 0.75^2 of them, as they may agree.
    assert ideal(cost, LIMITS, [(1,)], [2]).decode_s == pytest.approx(2 + 2)
    assert ideal(cost, LIMITS, [(1,), (2,)], [2, 2]).decode_s == pytest.approx(2 + 8 * 0.4375)
    # A token is multiplied with its own experts alone.
    long = ideal(cost, LIMITS, [tuple(range(100))], [1])
    assert long.prefill_s == pytest.approx(2 * ((50 + 100) * 100 + 10) / 1000)
