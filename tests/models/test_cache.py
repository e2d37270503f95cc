"""What each kind of cache takes, by hand."""

from __future__ import annotations

from flaxen.models.cache import (
    Full,
    Latent,
    Sliding,
    State,
    attention_cache,
    attention_only,
    head_sizes,
    num_kv_heads,
    numbers_per_key,
)

FULL = Full(num_kv_heads=3, head_dim=8)
SLIDING = Sliding(num_kv_heads=3, head_dim=8, window=16)
LATENT = Latent(rank=512, rope_dim=64)
STATE = State(shapes=((4, 3), (2, 8, 16)))


def test_bytes() -> None:
    assert FULL.bytes_per_token(2) == SLIDING.bytes_per_token(2) == 2 * 3 * 8 * 2
    assert LATENT.bytes_per_token(2) == 1152
    assert STATE.bytes_per_sequence == (12 + 256) * 4


def test_attention_without_a_window_keeps_all() -> None:
    assert attention_cache(3, 8, None) == FULL
    assert attention_cache(3, 8, 16) == SLIDING


def test_a_chunk_keeps_a_window_of_as_many() -> None:
    assert attention_cache(3, 8, None, chunk=16) == SLIDING
    assert attention_cache(3, 8, 20, chunk=16) == attention_cache(3, 8, 16, chunk=20) == SLIDING


def test_values_of_another_size() -> None:
    assert attention_cache(3, 8, None, value_dim=8) == FULL
    narrow = attention_cache(3, 8, 16, value_dim=4)
    assert narrow.bytes_per_token(2) == 3 * (8 + 4) * 2
    assert [head_sizes(each) for each in (FULL, narrow, LATENT)] == [(8, 8), (8, 4), (576, 0)]
    assert [num_kv_heads(each) for each in (narrow, LATENT)] == [3, 1]
    assert [numbers_per_key(each) for each in (narrow, LATENT)] == [12, 576 + 512]


def test_layers_with_a_state_have_no_attention() -> None:
    assert attention_only((FULL, STATE, LATENT)) == (FULL, LATENT)
