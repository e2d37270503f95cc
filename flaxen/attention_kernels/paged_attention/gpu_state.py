"""The state of a running softmax in a GPU's kernel, and how two of them are merged.

Deliberately does not know pages, nor how keys are divided.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

LOG2_E = math.log2(math.e)  # maxima and scores are in powers of two
UNSEEN = -1e30  # the running maximum before any key: finite, so that differences are never NaN

Ref = Any  # an array in the device's memory
State = tuple[jax.Array, jax.Array, jax.Array]  # maximum [rows], sum [rows], values [rows, lanes]


class Sizes(NamedTuple):
    """The sizes that are known when a kernel is compiled."""

    rows: int  # of a tile, a power of two: tokens x query heads of a KV head, and padding
    keys: int  # of a block, a power of two
    split: int  # keys of a split, a multiple of `keys`; 0 for one split of all keys
    lanes: int  # the head size rounded up to a power of two, as Triton's arrays must be
    head_dim: int
    group: int  # query heads of a KV head
    page_size: int
    window: int | None
    chunk: int | None
    scale: float
    softcap: float | None


def first_key(position: jax.Array, sizes: Sizes) -> jax.Array:
    """The first key that a token at a position sees."""
    first = position * 0
    if sizes.window is not None:
        first = jnp.maximum(position - (sizes.window - 1), first)
    if sizes.chunk is not None:  # positions of padding are below 0
        first = jnp.maximum(jax.lax.div(position, sizes.chunk) * sizes.chunk, first)
    return first


def before_keys(sinks: Ref, heads: jax.Array, is_row: jax.Array, lanes: int) -> State:
    """The state before any key: a sink is a score without a value."""
    sink = plgpu.load(sinks.at[heads], mask=is_row, other=-jnp.inf) * LOG2_E
    has_sink = sink > UNSEEN
    return (
        jnp.where(has_sink, sink, UNSEEN),
        jnp.where(has_sink, 1.0, 0.0),
        jnp.zeros((heads.shape[0], lanes), jnp.float32),
    )


def empty(sizes: Sizes) -> State:
    """The state before any key, without sinks."""
    return (
        jnp.full((sizes.rows,), UNSEEN, jnp.float32),
        jnp.zeros((sizes.rows,), jnp.float32),
        jnp.zeros((sizes.rows, sizes.lanes), jnp.float32),
    )


def merged(one: State, other: State) -> State:
    """The state after the keys of both. One without keys leaves every bit of the other."""
    maximum = jnp.maximum(one[0], other[0])
    left, right = jnp.exp2(one[0] - maximum), jnp.exp2(other[0] - maximum)
    return (
        maximum,
        one[1] * left + other[1] * right,
        one[2] * left[:, None] + other[2] * right[:, None],
    )


def normalised(state: State) -> jax.Array:
    """The result [rows, lanes]; zeros for rows that saw nothing."""
    _, total, acc = state
    return acc / jnp.where(total == 0, 1.0, total)[:, None]  # 0 only for padding
