"""Random arrays, and results as float32, for the tests of all ops."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def normal(name: str, *shape: int, dtype: str = "float32") -> jax.Array:
    """The same numbers for a name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return jnp.asarray(rng.standard_normal(shape), dtype)


def as_f32(x: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), x)
