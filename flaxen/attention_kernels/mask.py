"""Which keys a token sees: the past, within a window or its own chunk.

Every implementation of attention has this definition. Deliberately does not know pages, segments
or scores.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sees(positions: jax.Array, keys: jax.Array, window: int | None, chunk: int | None) -> jax.Array:
    """Whether tokens see keys.

    Args:
      positions: of the tokens in their sequence, broadcast against `keys`.
      keys: the positions of the keys.
      window: the number of tokens seen, the current one included; None sees all.
      chunk: a token sees the tokens of its own chunk of so many positions; None sees all.
    """
    seen = positions >= keys
    if window is not None:
        seen &= positions - keys < window
    if chunk is not None:
        seen &= keys >= positions - positions % chunk
    return seen


def first_seen(position: jax.Array, window: int | None, chunk: int | None) -> jax.Array:
    """The first key that a token at a position sees; the position is at least 0."""
    first = jnp.zeros_like(position)
    if window is not None:
        first = jnp.maximum(first, position - (window - 1))
    if chunk is not None:
        first = jnp.maximum(first, position - jax.lax.rem(position, jnp.full_like(position, chunk)))
    return first


def check_scores(window: int | None, chunk: int | None, softcap: float | None) -> None:
    """Refuses options of attention that have no meaning.

    Raises:
      ValueError: a window or chunk below 1, or a softcap that is not above 0.
    """
    if window is not None and window < 1:
        raise ValueError(f"the window must be at least 1, got {window}: None sees all tokens")
    if chunk is not None and chunk < 1:
        raise ValueError(f"the chunk must be at least 1, got {chunk}: None sees all tokens")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"the softcap must be above 0, got {softcap}: None leaves the scores")
