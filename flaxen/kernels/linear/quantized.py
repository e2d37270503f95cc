"""Quantized weights for GPUs and TPUs: plain arrays [I, O], multiplied without being expanded.

The arrays have the axes of the weight itself, so a mesh shards them as it shards the weight. Along
the outputs, data, scales and mins are cut alike. Along the inputs each part must be a multiple of
the group, or there is one group, whose scales every part keeps. The plain products here define what
kernels compute. Deliberately does not know files, nor the layers of a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxen.kernels.linear.packed import Format
from flaxen.sharding.placement import Placement

Leaf = Any  # an array; after a tree map, any type

_BITS = {"int8": 8, "int4": 4, "float8": 8, "float4": 4}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedLinear:
    """A weight [I, O] with

      value(i, o) = scales(i // group, o) * (data(i, o) - zero) + mins(i // group, o)

    Four-bit numbers are a jnp.int4 array: a device keeps two in a byte. If they are floats (e2m1),
    data(i, o) is twice their value. A stack of experts has one more axis in front, [E, I, O], in
    each array.
    """

    data: Leaf  # int8, int4 or float8_e4m3fn [I, O]
    scales: Leaf  # float16, float32 or bfloat16 [I/group, O]
    mins: Leaf | None = None  # the same dtype and shape
    # int32 [I], as PackedLinear has it: the k-th stored input is input order[k] of the layer.
    order: Leaf | None = None
    zero: int = dataclasses.field(default=0, metadata={"static": True})
    is_e2m1: bool = dataclasses.field(default=False, metadata={"static": True})
    # The mesh that the arrays are laid over, and its axes that divide the inputs and the outputs.
    placement: Placement | None = dataclasses.field(default=None, metadata={"static": True})
    divided: tuple[Any, Any] = dataclasses.field(default=(None, None), metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, O), or (E, I, O) for a stack."""
        return tuple(self.data.shape)

    @property
    def group(self) -> int:
        """The number of inputs that share a scale. Under shard_map: of a part's inputs."""
        size: int = self.data.shape[-2] // self.scales.shape[-2]
        return size

    @property
    def has_one_group(self) -> bool:
        """Whether an output has one scale and no min, so that its sum can be scaled instead."""
        return self.scales.shape[-2] == 1 and self.mins is None

    @property
    def format(self) -> Format:
        """The format of the numbers."""
        if self.data.dtype == jnp.int4:
            return "float4" if self.is_e2m1 else "int4"
        return "int8" if self.data.dtype == jnp.int8 else "float8"

    @property
    def nbytes(self) -> int:
        """Bytes on the device, including scales; NumPy and JAX count a byte for four bits."""
        total: int = self.data.size * _BITS[self.format] // 8
        for leaf in (self.scales, self.mins, self.order):
            total += 0 if leaf is None else leaf.size * leaf.dtype.itemsize
        return total


Multiply = Callable[[jax.Array, QuantizedLinear], jax.Array]
Lookup = Callable[[QuantizedLinear, jax.Array, jnp.dtype], jax.Array]


def unpack(weight: QuantizedLinear) -> jax.Array:
    """The values, in the weight's shape, in float32."""
    *lead, num_groups, num_outputs = weight.scales.shape
    stored = numbers(weight.data, weight).reshape(*lead, num_groups, -1, num_outputs)
    values = stored * weight.scales[..., None, :].astype(jnp.float32)
    if weight.mins is not None:
        values = values + weight.mins[..., None, :].astype(jnp.float32)
    found: jax.Array = values.reshape(weight.shape)
    return found if weight.order is None else jnp.zeros_like(found).at[weight.order].set(found)


def numbers(data: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """Numbers of a weight, or of a tile of it, less its zero, in float32."""
    if not weight.is_e2m1:
        plain = data.astype(jnp.float32)
        return plain - weight.zero if weight.zero else plain
    bits = data.astype(jnp.int32)  # a sign, and three bits of a magnitude
    magnitude = bits & 7
    large = jnp.where(magnitude < 6, 2 * magnitude - 4, 4 * magnitude - 16)
    doubled = jnp.where(magnitude < 4, magnitude, large)
    return jnp.where(bits < 0, -doubled, doubled).astype(jnp.float32)


def multiply(x: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """x @ weight in plain jnp, summed in float32: [..., I] to [..., O].

    With one group, sums are scaled in place of values, and on a TPU XLA converts the numbers as it
    reads them. With several it makes the weight's values first, in x's dtype.
    """
    if weight.has_one_group:
        if weight.is_e2m1:
            return scaled(_dot(x, numbers(weight.data, weight).astype(x.dtype)), weight)
        own = weight.data.astype(x.dtype) - jnp.asarray(weight.zero, x.dtype)
        return scaled(_dot(x, own), weight)
    return _dot(x, unpack(weight).astype(x.dtype))


def scaled(sums: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """Products [..., O] with the numbers of a weight of one group, as those with its values."""
    by_output = weight.scales[0].astype(jnp.float32)
    return sums * jnp.broadcast_to(by_output, sums.shape)


def on_mesh(kernel: Multiply) -> Multiply:
    """A kernel's product on each device's own part of a weight that is divided over a mesh.

    XLA can't look into a kernel, and would gather the weight on every device. Rows [B, T] are
    divided as training divides them; a row [T] of serving is whole on every device. A weight is
    gathered along the axes that divide rows too (`fsdp`).

    Args:
      kernel: computes like `multiply`.
    """

    def product(x: jax.Array, weight: QuantizedLinear) -> jax.Array:
        if weight.placement is None:
            return kernel(x, weight)
        rows, (inputs, outputs) = _division(weight, x.shape[:-1])

        def on_device(x: jax.Array, part: QuantizedLinear) -> jax.Array:
            out = kernel(x, replace(part, placement=None))
            return jax.lax.psum(out, inputs) if inputs else out

        found: jax.Array = weight.placement.shard_map(
            on_device,
            in_specs=(P(*rows, inputs), _specs(weight, inputs, outputs)),
            out_specs=P(*rows, outputs),
        )(x, weight)
        return found

    return product


def embed_on_mesh(lookup: Lookup) -> Lookup:
    """A lookup on each device's own part of a table [D, V] that is divided over a mesh. A device
    looks up the ids that it has, and the zeros of the others are added.

    Args:
      lookup: computes like `embed`.
    """

    def on_parts(table: QuantizedLinear, ids: jax.Array, out_dtype: jnp.dtype) -> jax.Array:
        if table.placement is None:
            return lookup(table, ids, out_dtype)
        rows, (inputs, outputs) = _division(table, ids.shape)

        def on_device(part: QuantizedLinear, ids: jax.Array) -> jax.Array:
            part = replace(part, placement=None)
            if not outputs:
                return lookup(part, ids, out_dtype)
            own = ids - part.shape[1] * jax.lax.axis_index(outputs)
            is_own = (own >= 0) & (own < part.shape[1]) & (ids >= 0)
            found = lookup(part, jnp.where(is_own, own, -1), out_dtype)
            total: jax.Array = jax.lax.psum(found, outputs)
            return total

        found: jax.Array = table.placement.shard_map(
            on_device,
            in_specs=(_specs(table, inputs, outputs), P(*rows)),
            out_specs=P(*rows, inputs),
        )(table, ids)
        return found

    return on_parts


def _division(
    weight: QuantizedLinear, lead: tuple[int, ...]
) -> tuple[P, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The axes of the mesh that divide each axis of the rows, and the weight's inputs and outputs
    while they are multiplied.
    """
    assert weight.placement is not None
    names = ("batch", "length") if len(lead) == 2 else (None,) * len(lead)
    rows = weight.placement.spec(names, lead)
    taken = {name for each in rows for name in _names(each)}
    inputs, outputs = (
        tuple(name for name in _names(each) if name not in taken) for each in weight.divided
    )
    return rows, (inputs, outputs)


def _specs(
    weight: QuantizedLinear, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> QuantizedLinear:
    by_group = P(() if weight.scales.shape[0] == 1 else inputs, outputs)
    mins = None if weight.mins is None else by_group
    return replace(weight, data=P(inputs, outputs), scales=by_group, mins=mins)


def _names(axes: Any) -> tuple[str, ...]:
    """The names in an entry of a PartitionSpec."""
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else tuple(axes)


def with_derivative(kernel: Multiply) -> Multiply:
    """A kernel's product whose derivative with respect to x is that of `multiply`, in any order and
    mode. The weight is frozen: it has no derivative.

    Args:
      kernel: computes like `multiply`.
    """
    run = jax.custom_jvp(kernel)

    def derivative(
        primals: tuple[jax.Array, QuantizedLinear], tangents: tuple[jax.Array, Any]
    ) -> tuple[jax.Array, jax.Array]:
        return run(*primals), multiply(tangents[0], primals[1])

    run.defjvp(derivative)
    return run


def take_columns(array: jax.Array, columns: jax.Array) -> jax.Array:
    """The columns [R, T] of an array [R, V] at indices [T]."""
    return array[:, columns]


def embed(
    table: QuantizedLinear,
    ids: jax.Array,
    out_dtype: jnp.dtype,
    take: Callable[[jax.Array, jax.Array], jax.Array] = take_columns,
) -> jax.Array:
    """Looks up columns of an unembedding [D, V] by id, [..., D]; zeros for a negative id.

    Args:
      table: the unembedding.
      ids: [...] below V.
      out_dtype: the dtype of the result.
      take: computes like `take_columns`.
    """
    columns = jnp.maximum(ids, 0).reshape(-1)
    chosen = jax.tree.map(lambda leaf: take(leaf, columns), table)
    rows = unpack(chosen).T.astype(out_dtype).reshape(*ids.shape, table.shape[0])
    return jnp.where((ids >= 0)[..., None], rows, jnp.zeros((), out_dtype))


def _dot(x: jax.Array, values: jax.Array) -> jax.Array:
    out: jax.Array = jnp.einsum("...I,IO->...O", x, values, preferred_element_type=jnp.float32)
    return out
