"""Whether a definition's logits are numbers, and parameters under which they can be compared.

Deliberately does not know what the logits are compared with.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxen.models.model import Model, Params

_NOISE = 0.1  # the deviation of what takes the place of zeros


def without_zeros(model: Model, params: Params) -> Params:
    """The parameters, with small random numbers for those of which every number is zero.

    Args:
      model: whose other collections than the trained one stay what they are.
      params: arrays.
    """
    name = model.trained
    leaves, tree = jax.tree.flatten(params if name is None else params[name])
    structure: Any = tree  # its class is not annotated
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
    """Refuses logits that are not numbers. Minus infinity is one: the token is never drawn.

    Args:
      params: arrays, or packed.
      logits: [T, V] float32.
      first: the first one's position.
      name: of the definition.

    Raises:
      ValueError: a logit is NaN or infinity, or all of a position are minus infinity.
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
