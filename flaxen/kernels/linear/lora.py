"""A weight with low-rank adapters (LoRA, arXiv:2106.09685), of which each row uses one or none.

Deliberately does not know how adapters are trained, stored or named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Leaf = Any  # an array; after a tree map, any type


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraWeight:
    """y = base(x) + scales[id] * (x @ a[id]) @ b[id] with the id of x's row; base(x) if it is -1.

    Beside a stack of experts [E, I, O], a is [n, E, I, R] and b is [n, E, R, O].

    `a`, `b` and all sums with them are float32, whatever the base's dtype.
    """

    base: Leaf  # a Weight [I, O]
    a: Leaf  # [n, I, R] float32
    b: Leaf  # [n, R, O] float32
    scales: Leaf  # [n] float32
    ids: Leaf  # int32 below n, in the shape of x's leading axes
    key: Leaf | None = None  # PRNG key; required for dropout
    # dropout of the adapters' inputs, not of the base's
    dropout: float = dataclasses.field(default=0.0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, O), or (E, I, O) for a stack."""
        return tuple(self.base.shape)


def check_adapters(weight: LoraWeight, batch: tuple[int, ...]) -> None:
    """Checks sizes that would make the kernels read beyond the end of an array.

    Args:
      weight: the weight with its adapters.
      batch: the leading axes of the inputs.

    Raises:
      ValueError: sizes do not match, or a dtype is not allowed for adapters.
    """
    num, rank = weight.a.shape[0], weight.a.shape[2]
    num_inputs, num_outputs = weight.shape
    expected = {
        "a": (weight.a, (num, num_inputs, rank), jnp.float32),
        "b": (weight.b, (num, rank, num_outputs), jnp.float32),
        "scales": (weight.scales, (num,), jnp.float32),
        "ids": (weight.ids, batch, jnp.int32),
    }
    for name, (found, shape, dtype) in expected.items():
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(
                f"adapters of a weight [{num_inputs}, {num_outputs}] need {name} of {shape} in "
                f"{jnp.dtype(dtype)} here, got {found.shape} in {found.dtype}"
            )


def add_adapters(
    x: jax.Array,
    out: jax.Array,
    weight: LoraWeight,
    dot: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Adds the adapters' part to the output of the base weight.

    Computes every adapter for every row and keeps the row's own, which suits few adapters.

    Args:
      x: [..., I], the inputs.
      out: [..., O] float32, base(x).
      weight: has ids in the shape of x's leading axes.
      dot: computes products of x with a plain matrix, in float32; None leaves them to XLA.

    Returns:
      [..., O] float32.
    """
    x = x.astype(jnp.float32)
    if weight.dropout:
        assert weight.key is not None, "dropout needs a key"
        keep = jax.random.bernoulli(weight.key, 1 - weight.dropout, x.shape)
        x = jnp.where(keep, x / (1 - weight.dropout), 0)
    chosen = jax.nn.one_hot(weight.ids, weight.a.shape[0], dtype=jnp.float32)
    num, num_inputs, rank = weight.a.shape
    if dot is None:
        hidden = jnp.einsum("...I,nIR->...nR", x, weight.a)
    else:
        side_by_side = weight.a.transpose(1, 0, 2).reshape(num_inputs, num * rank)
        hidden = dot(x, side_by_side).reshape(*x.shape[:-1], num, rank)
    hidden = jnp.einsum("...nR,...n,n->...nR", hidden, chosen, weight.scales)
    if dot is None:
        return out + jnp.einsum("...nR,nRO->...O", hidden, weight.b)
    return out + dot(hidden.reshape(*x.shape[:-1], -1), weight.b.reshape(num * rank, -1))
