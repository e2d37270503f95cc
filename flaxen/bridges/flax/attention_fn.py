"""The function that replaces a Flax module's `attention_fn`.

Deliberately does not know modules: nnx.py and linen.py install it.
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
    """Like flax.nnx.dot_product_attention with a causal mask, which check.py verifies.

    Args:
      query: [..., T, N, H].
      key: [..., T, K, H].
      value: [..., T, K, H].
      bias: must be None.
      mask: ignored, since attention is causal.
      dropout_rate: dropout of the attention weights; must be 0 in training.
      deterministic: True switches dropout off.
      options: dtype, precision and others that do not change the result.

    Raises:
      ValueError: there is a bias, or dropout inside attention.
    """
    if bias is not None:
        raise ValueError(
            "attention with a bias can't be served: leave it out, or rotate queries and keys"
        )
    if dropout_rate and not deterministic:
        raise ValueError(
            f"dropout of {dropout_rate} inside attention is not supported: attention weights are "
            "never in memory. Set the attention's dropout_rate to 0, and put nnx.Dropout after it"
        )
    return attend(query, key, value)
