"""What each kind of cache takes, by hand."""

from __future__ import annotations

import pytest

from flaxen.models.cache import Full, Latent, Sliding, State, attention_cache, attention_only

FULL = Full(num_kv_heads=3, head_dim=8)
SLIDING = Sliding(num_kv_heads=3, head_dim=8, window=16)
LATENT = Latent(rank=512, rope_dim=64)
STATE = State(shapes=((4, 3), (2, 8, 16)))


def test_bytes() -> None:
    assert FULL.bytes_per_token(2) == SLIDING.bytes_per_token(2) == 2 * 3 * 8 * 2
    assert LATENT.bytes_per_token(2) == 1152
    assert STATE.bytes_per_sequence(4) == (12 + 256) * 4


def test_attention_without_a_window_keeps_all() -> None:
    assert attention_cache(3, 8, None) == FULL
    assert attention_cache(3, 8, 16) == SLIDING


@pytest.mark.parametrize("other", [LATENT, STATE])
def test_what_no_kernel_computes_with_is_refused(other: Latent | State) -> None:
    assert attention_only((FULL, SLIDING)) == (FULL, SLIDING)
    with pytest.raises(ValueError, match=rf"layer 1 of the model keeps {type(other).__name__}\("):
        attention_only((FULL, other))
