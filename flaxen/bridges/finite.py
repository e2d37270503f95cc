"""Checks that a definition's logits are finite, and makes parameters for comparing them.

Deliberately does not know the comparison itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxen.models.model import Model, Params

_NOISE = 0.1  # the standard deviation of the replacements of zeros


def without_zeros(model: Model, params: Params) -> Params:
    """Returns the parameters, with each all-zero array replaced by small random numbers.

    Args:
      model: its collections other than the trained one are not changed.
      params: the model's parameters, as arrays.
    """
    name = model.trained
    leaves, tree = jax.tree.flatten(params if name is None else params[name])
    structure: Any = tree  # JAX does not annotate its class
    floats = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    are_zeros = jax.jit(lambda leaves: [~jnp.any(leaf) for leaf in leaves])(
        [leaf if is_float else 1 for leaf, is_float in zip(leaves, floats, strict=True)]
    )
    for number, is_zero in enumerate(are_zeros):
        if is_zero:
            leaf = leaves[number]
            drawn = jax.random.normal(jax.random.key(number), leaf.shape)
            leaves[number] = (_NOISE * drawn).astype(leaf.dtype)
    own = jax.tree.unflatten(structure, leaves)
    return own if name is None else {**params, name: own}


def check_numbers(params: Params, logits: jax.Array, first: int, name: str) -> None:
    """Refuses NaN and infinite logits. Minus infinity is allowed: that token is never sampled.

    Args:
      params: the parameters, as arrays or packed.
      logits: [T, V] float32.
      first: the position of the first row.
      name: the definition's name, for messages.

    Raises:
      ValueError: a logit is NaN or infinity, or all logits of a position are minus infinity.
    """
    is_bad = jnp.any(jnp.isnan(logits) | (logits == jnp.inf), axis=-1)
    is_bad |= ~jnp.any(jnp.isfinite(logits), axis=-1)
    if not bool(is_bad.any()):
        return
    where = f"the weights of {name} give NaN or infinity at position {first + int(is_bad.argmax())}"
    damaged = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.flatten_with_path(params)[0]
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf)))
    ]
    if damaged:
        others = f" and {len(damaged) - 1} others" if len(damaged) > 1 else ""
        raise ValueError(
            f"{where}: {damaged[0]}{others} hold such numbers themselves. Load or initialise them "
            "again"
        )
    raise ValueError(
        f"{where}, and all of its parameters are finite: something in it overflows or is divided "
        "by zero" + (", at large positions alone" if first else "")
    )
