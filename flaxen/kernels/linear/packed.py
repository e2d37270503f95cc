"""Packed weights: a linear layer's weight as the CPU kernels read it, perhaps quantized.

The layout is tiles of 16 outputs, described in `csrc/kernels.h`. Deliberately does not know files,
nor the layers of a model.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

TILE = 16  # outputs of a tile
INPUT_MULTIPLE = 32  # inputs are padded with zeros to a multiple of this

Leaf = Any  # an array; after a tree map, any type

Format = Literal["float32", "bfloat16", "int8", "int4", "float8", "float4"]
# The C++ code numbers the formats in this order. float8 is e4m3 without infinities, float4 is e2m1.
FORMATS: tuple[Format, ...] = ("float32", "bfloat16", "int8", "int4", "float8", "float4")
SCALE_DTYPES = ("float16", "float32", "uint8")  # as numbered in C++
# What float4 stores for each four bits: twice the value, an integer.
DOUBLED_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedLinear:
    """A weight [I, O]. With I and O padded to multiples of 32 and 16,

      value(i, o) = scale(i // group, o) * (stored(i, o) - zero) + min(i // group, o)

    Float formats have neither scales nor mins. With `num_experts` it is a stack of weights
    [E, I, O], where the tiles of one expert follow those of the one before.
    """

    # float32 and int8 [O/16, I, 16]; bfloat16 [O/16, I/2, 16, 2];
    # int4 uint32 [O/16, I/8, 16], the first input in the lowest four bits, as 0..15;
    # float8 uint8 [O/16, I/2, 16, 2]; float4 as int4, and the number stored is twice the float
    data: Leaf
    # float16 or float32 [O/16, I/group, 16]; of float4 uint8, which stands for 2^(scale - 128)
    scales: Leaf | None = None
    mins: Leaf | None = None  # the same dtype and shape
    # int32 [I]: the k-th stored input is input order[k] of the layer; None if they are in order.
    # So groups of inputs that belong together (GPTQ's act-order) lie side by side. Not of a stack.
    order: Leaf | None = None
    format: Format = dataclasses.field(metadata={"static": True})
    num_inputs: int = dataclasses.field(metadata={"static": True})  # I
    num_outputs: int = dataclasses.field(metadata={"static": True})  # O
    group: int = dataclasses.field(default=0, metadata={"static": True})  # inputs; 0 for floats
    zero: int = dataclasses.field(default=0, metadata={"static": True})
    num_experts: int = dataclasses.field(default=0, metadata={"static": True})  # 0: one weight

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, O), or (E, I, O) for a stack."""
        own = (self.num_inputs, self.num_outputs)
        return (self.num_experts, *own) if self.num_experts else own

    @property
    def nbytes(self) -> int:
        """Bytes in memory, including scales and padding."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


def pack(weight: jax.Array) -> PackedLinear:
    """Packs a float32 or bfloat16 weight [I, O], or a stack of them [E, I, O], without loss.
    Differentiable.

    Raises:
      ValueError: the weight has another dtype.
    """
    if weight.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"only float32 and bfloat16 weights can be packed, got {weight.dtype}")
    num_inputs, num_outputs = weight.shape[-2:]
    whole = weight.reshape(-1, num_inputs, num_outputs)
    padded = jnp.pad(whole, ((0, 0), (0, -num_inputs % INPUT_MULTIPLE), (0, -num_outputs % TILE)))
    count, rows = padded.shape[:2]
    if weight.dtype == jnp.float32:
        data = padded.reshape(count, rows, -1, TILE).transpose(0, 2, 1, 3)
    else:
        data = padded.reshape(count, rows // 2, 2, -1, TILE).transpose(0, 3, 1, 4, 2)
    return PackedLinear(
        data=data.reshape(-1, *data.shape[2:]),
        format="float32" if weight.dtype == jnp.float32 else "bfloat16",
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        num_experts=weight.shape[0] if weight.ndim == 3 else 0,
    )


def unpack(weight: PackedLinear) -> jax.Array:
    """The values, in the weight's shape: exact in the dtype of float weights, float32 for
    quantized ones.
    """
    stored = _stored(weight)  # [O/16, I, 16]
    if weight.scales is not None:
        scales = _by_input(weight, scale_values(weight.scales))
        stored = (stored.astype(jnp.float32) - weight.zero) * scales
        if weight.mins is not None:
            stored = stored + _by_input(weight, weight.mins)
    num_rows = stored.shape[1]
    each = stored.reshape(weight.num_experts or 1, -1, num_rows, TILE)
    rows = each.transpose(0, 2, 1, 3).reshape(each.shape[0], num_rows, -1)
    values = rows[:, : weight.num_inputs, : weight.num_outputs].reshape(weight.shape)
    return values if weight.order is None else jnp.zeros_like(values).at[weight.order].set(values)


def _stored(weight: PackedLinear) -> jax.Array:
    data: jax.Array = weight.data
    if weight.format == "bfloat16":
        return data.transpose(0, 1, 3, 2).reshape(data.shape[0], -1, TILE)
    if weight.format == "float8":
        data = jax.lax.bitcast_convert_type(data, jnp.float8_e4m3fn)
        return data.transpose(0, 1, 3, 2).reshape(data.shape[0], -1, TILE)
    if weight.format in ("int4", "float4"):
        shifts = jnp.arange(0, 32, 4, dtype=jnp.uint32)[None, None, :, None]
        nibbles = (data[:, :, None] >> shifts) & 15
        nibbles = nibbles.reshape(data.shape[0], -1, TILE)
        is_float = weight.format == "float4"
        return jnp.array(DOUBLED_E2M1, jnp.int8)[nibbles] if is_float else nibbles
    return data


def scale_values(scales: jax.Array) -> jax.Array:
    """Scales in float32: those of float4 are bytes, whose powers of two may be too small for it."""
    if scales.dtype != jnp.uint8:
        return scales.astype(jnp.float32)
    exponents = jnp.maximum(scales.astype(jnp.uint32), 1) - 1
    powers: jax.Array = jax.lax.bitcast_convert_type(exponents << 23, jnp.float32)
    return powers


def _by_input(weight: PackedLinear, per_group: jax.Array) -> jax.Array:
    repeated: jax.Array = jnp.repeat(per_group.astype(jnp.float32), weight.group, axis=1)
    return repeated
