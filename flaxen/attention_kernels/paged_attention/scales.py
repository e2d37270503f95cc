"""Keys and values of eight bits, with a scale for each token and head.

A scale follows from the token's own numbers when it is written: what a token stores depends neither
on its batch nor on how its prompt was divided into steps. The stored numbers are exact in bfloat16;
scales multiply scores and weights in float32, so that reading rounds nothing (decision 0296).
Deliberately does not know any layout of pages.
"""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

SCALE_DTYPE = jnp.bfloat16
# The largest number of each format: a token's largest number becomes this.
LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
# A head whose numbers are so small is zeros: the reciprocal of a smaller scale overflows.
LEAST_SCALE = 2.0**-100


def is_scaled(dtype: jnp.dtype) -> bool:
    """Whether pages of this dtype have scales (but for the TPU's kernel, which has none)."""
    return jnp.dtype(dtype).name in LARGEST


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def quantize(x: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Keys or values as they are stored, and their scales.

    Args:
      x: [T, K, H] keys or values.
      dtype: of the pages: int8 or float8_e4m3fn.

    Returns:
      [T, K, H] in that dtype, and bfloat16 scales [T, K, 1]. A scale is not finite where a number
      of its head is not.

    Raises:
      ValueError: a derivative is taken.
    """
    largest = LARGEST[jnp.dtype(dtype).name]
    wide = x.astype(jnp.float32)
    # Products with reciprocals that are computed first: XLA divides in its own way, and the C++
    # kernel would store other bits.
    sizes = jnp.max(jnp.abs(wide), axis=-1, keepdims=True) * np.float32(1 / largest)
    scales = jnp.where(sizes < LEAST_SCALE, 0, sizes).astype(SCALE_DTYPE)
    divisors = jnp.where(scales == 0, 1, scales).astype(jnp.float32)
    numbers = jnp.where(scales == 0, 0, wide * (1 / divisors))
    # A number that is not finite has a scale that is not: what is stored for it does not matter.
    numbers = jnp.clip(jnp.nan_to_num(numbers, nan=largest), -largest, largest)
    if jnp.dtype(dtype) == jnp.int8:
        numbers = jnp.round(numbers)
    return numbers.astype(dtype), scales


@quantize.defjvp
def _jvp(dtype: jnp.dtype, primals: Any, tangents: Any) -> Any:
    refuse_derivative(dtype)


def refuse_derivative(dtype: jnp.dtype) -> NoReturn:
    """Raises ValueError: the derivative of rounding is zero, which nobody means."""
    raise ValueError(
        f"attention over pages of {jnp.dtype(dtype).name} has no derivative, because keys and "
        "values are rounded when they are written: differentiate over pages in the dtype of "
        "compute (kv_cache_dtype auto)"
    )


def dequantize(numbers: jax.Array, scales: jax.Array) -> jax.Array:
    """The numbers that stored keys or values stand for, in float32: what a reader computes with."""
    wide: jax.Array = numbers.astype(jnp.float32) * scales.astype(jnp.float32)
    return wide
