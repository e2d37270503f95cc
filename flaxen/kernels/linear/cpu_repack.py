"""Converts weights between plain, packed and packed transposed, with the C++ kernels.

These are lossless copies, and differentiable: gradients are converted back in the same way.
Deliberately does not know the products.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.linear import packed
from flaxen.kernels.linear.bound import Address
from flaxen.kernels.linear.packed import (
    FORMATS,
    INPUT_MULTIPLE,
    SCALE_DTYPES,
    TILE,
    Format,
    PackedLinear,
)

_DTYPES: dict[Format, jnp.dtype] = {
    "float32": jnp.dtype(jnp.float32),
    "bfloat16": jnp.dtype(jnp.bfloat16),
}


def pack(weight: jax.Array) -> PackedLinear:
    """Like `packed.pack`, which refuses the dtypes that the kernel does not have."""
    if weight.dtype not in (jnp.float32, jnp.bfloat16):
        return packed.pack(weight)
    return _floats(_pack(weight), weight.shape)


def transpose(weight: PackedLinear) -> PackedLinear:
    """Like `reference.transpose`."""
    I, O = weight.shape  # noqa: E741
    if weight.order is not None:
        return packed.pack(jax.lax.stop_gradient(packed.unpack(weight)).T)
    if weight.format in _DTYPES:
        return _floats(_transpose_floats(weight.data, I, O), (O, I))
    quantized = jax.lax.stop_gradient(weight)
    return _floats(_call_transpose(quantized, jnp.dtype(jnp.float32)), (O, I))


def pack_differentiated(weight: jax.Array) -> PackedLinear:
    """Like `pack` by C++, for use in a backward pass; differentiable again."""
    return _floats(derivatives.call(_call_pack, _plain_pack, (weight,)), weight.shape)


def transpose_differentiated(weight: PackedLinear) -> PackedLinear:
    """Like `transpose` by C++, of one weight or each of a stack, for use in a backward pass;
    differentiable again.

    Here quantized weights have a gradient too, for their scales.
    """
    *stack, I, O = weight.shape  # noqa: E741
    dtype = _DTYPES.get(weight.format, jnp.dtype(jnp.float32))
    data = derivatives.call(
        lambda weight: _call_transpose(weight, dtype),
        lambda weight: _plain_pack(packed.unpack(weight).mT),
        (weight,),
    )
    return _floats(data, (*stack, O, I))


def weight_fields(weight: PackedLinear) -> list[int]:
    """The attributes of a weight that ffi.cpp reads: see kWeightFields there."""
    group = weight.group or _padded(weight.num_inputs)
    row, has_mins, scale_type = -1, weight.mins is not None, 0
    if isinstance(weight.data, Address):
        address = weight.data
        row, has_mins = address.row, address.has_mins
        scale_type = SCALE_DTYPES.index(address.scale_dtype)
    by_itself = [FORMATS.index(weight.format), weight.num_outputs, group, weight.zero]
    return [*by_itself, int(has_mins), row, scale_type, 0, 0, 0]


def weight_leaves(weight: PackedLinear) -> list[jax.Array]:
    """The arrays that `weight_fields` describes."""
    if isinstance(weight.data, Address):
        return [weight.data.table]
    return [leaf for leaf in (weight.data, weight.scales, weight.mins) if leaf is not None]


def _floats(data: jax.Array, shape: tuple[int, ...]) -> PackedLinear:
    """A packed float weight, of its shape [I, O] or [E, I, O] and its data."""
    *stack, num_inputs, num_outputs = shape
    return PackedLinear(
        data=data,
        format="float32" if data.dtype == jnp.float32 else "bfloat16",
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        num_experts=stack[0] if stack else 0,
    )


def _padded(num_inputs: int) -> int:
    return -(-num_inputs // INPUT_MULTIPLE) * INPUT_MULTIPLE


def packed_shape(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """The data of a packed float weight [I, O], or of a stack [E, I, O]."""
    *stack, num_inputs, num_outputs = shape
    tiles, rows = math.prod(stack) * -(-num_outputs // TILE), _padded(num_inputs)
    shape = (tiles, rows, TILE) if dtype == jnp.float32 else (tiles, rows // 2, TILE, 2)
    return jax.ShapeDtypeStruct(shape, dtype)


@jax.custom_vjp
def _pack(weight: jax.Array) -> jax.Array:
    return _call_pack(weight)


def _call_pack(weight: jax.Array) -> jax.Array:
    out = packed_shape(weight.shape, weight.dtype)
    data: jax.Array = cpu_library.kernel("pack", out)(weight)
    return data


def _pack_forward(weight: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    data: jax.Array = derivatives.call(_call_pack, _plain_pack, (weight,))
    return data, weight.shape


def _pack_backward(shape: tuple[int, ...], cotangent: jax.Array) -> tuple[jax.Array]:
    out = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    weight: jax.Array = derivatives.call(
        cpu_library.kernel("unpack", out),
        lambda data: packed.unpack(_floats(data, shape)),
        (cotangent,),
    )
    return (weight,)


def _plain_pack(weight: jax.Array) -> jax.Array:
    data: jax.Array = packed.pack(weight).data
    return data


_pack.defvjp(_pack_forward, _pack_backward)


def _call_transpose(weight: PackedLinear, dtype: jnp.dtype) -> jax.Array:
    *stack, num_inputs, num_outputs = weight.shape
    out = packed_shape((*stack, num_outputs, num_inputs), dtype)
    fields = np.array(weight_fields(weight), np.int64)
    options = {"weights": fields, "num_inputs": np.int64(num_inputs)}
    if stack:
        options["num_experts"] = np.int64(weight.num_experts)
    call = cpu_library.kernel("transpose_experts" if stack else "transpose", out)
    data: jax.Array = call(*weight_leaves(weight), **options)
    return data


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _transpose_floats(data: jax.Array, num_inputs: int, num_outputs: int) -> jax.Array:
    return _call_transpose(_floats(data, (num_inputs, num_outputs)), data.dtype)


def _transpose_forward(
    data: jax.Array, num_inputs: int, num_outputs: int
) -> tuple[jax.Array, None]:
    return transpose_differentiated(_floats(data, (num_inputs, num_outputs))).data, None


def _transpose_backward(
    num_inputs: int, num_outputs: int, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    return (transpose_differentiated(_floats(cotangent, (num_outputs, num_inputs))).data,)


_transpose_floats.defvjp(_transpose_forward, _transpose_backward)
