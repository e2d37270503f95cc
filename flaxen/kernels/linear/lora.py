"""A weight with low-rank adapters beside it, one chosen by each row: LoRA, arXiv:2106.09685.

Deliberately does not know how adapters are trained, stored or named.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear.reference import Weight

Leaf = Any  # an array; in a tree that was mapped, what it was mapped to


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraWeight:
    """y = base(x) + scales[id] * (x @ a[id]) @ b[id], with the id of x's row; base(x) for -1.

    `a`, `b` and all sums with them are float32, whatever the base is.
    """

    base: Weight  # [I, O]
    a: Leaf  # [n, I, R] float32
    b: Leaf  # [n, R, O] float32
    scales: Leaf  # [n] float32
    ids: Leaf  # int32 below n, of x's leading axes
    key: Leaf | None = None  # PRNG key; needed where there is dropout
    # of the adapters' inputs, not the base's
    dropout: float = dataclasses.field(default=0.0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """(I, O)."""
        return self.base.shape[0], self.base.shape[1]


def add_adapters(x: jax.Array, out: jax.Array, weight: LoraWeight) -> jax.Array:
    """What `weight` gives, from what its base gave.

    Computes every adapter for every row and keeps the row's own: for few adapters.

    Args:
      x: [..., I], the inputs.
      out: [..., O] float32, base(x).
      weight: with ids of x's leading axes.

    Returns:
      [..., O] float32.
    """
    x = x.astype(jnp.float32)
    if weight.dropout:
        keep = jax.random.bernoulli(weight.key, 1 - weight.dropout, x.shape)
        x = jnp.where(keep, x / (1 - weight.dropout), 0)
    chosen = jax.nn.one_hot(weight.ids, weight.a.shape[0], dtype=jnp.float32)
    hidden = jnp.einsum("...I,nIR->...nR", x, weight.a)
    hidden = jnp.einsum("...nR,...n,n->...nR", hidden, chosen, weight.scales)
    return out + jnp.einsum("...nR,nRO->...O", hidden, weight.b)
