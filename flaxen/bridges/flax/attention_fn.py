"""The function that takes the place of a Flax module's `attention_fn`.

Deliberately does not know modules: nnx.py and linen.py put it there.
"""

from __future__ import annotations

from typing import Any

import jax

from flaxen.models.attention import attend


def attention_fn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    *,
    dropout_rate: float = 0.0,
    deterministic: bool = True,
    **options: Any,
) -> jax.Array:
    """As flax.nnx.dot_product_attention with a causal mask, which check.py sees to.

    Args:
      query: [..., T, N, H].
      key: [..., T, K, H].
      value: [..., T, K, H].
      bias: none.
      mask: not read; attention is causal.
      dropout_rate: of the weights of attention; none in training.
      deterministic: there is no dropout.
      options: dtype, precision and others that do not change what is computed.

    Raises:
      ValueError: a bias, or dropout inside of attention.
    """
    if bias is not None:
        raise ValueError(
            "attention with a bias can't be served: leave it out, or rotate queries and keys"
        )
    if dropout_rate and not deterministic:
        raise ValueError(
            f"dropout of {dropout_rate} inside of attention is not supported: its weights are "
            "never in memory. Set the attention's dropout_rate to 0, and put nnx.Dropout after it"
        )
    return attend(query, key, value)
