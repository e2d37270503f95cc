"""How XLA divides a kernel's product over a mesh, as it divides a product of its own.

XLA can't look into a kernel: without this it would gather the weight on every device. The kernel is
called with the device's own part of the outputs, or of the inputs, whose partial sums are added.
Deliberately does not know any kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

# x [M, I], then arrays of the weight: [I, O], or [G, O] for G groups of inputs.
Product = Callable[..., jax.Array]


def divided(run: Product, num_weights: int) -> Product:
    """A product that a mesh divides like the product of x [M, I] and a weight [I, O].

    Args:
      run: takes x and the weight's arrays; returns float32 [M, O].
      num_weights: how many arrays the weight has. An array with one group of inputs is whole on
          every device along the inputs; of others each device has its own groups.
    """

    def of_part(
        mesh: Any, args: Sequence[jax.ShapeDtypeStruct], result: jax.ShapeDtypeStruct
    ) -> tuple[Any, Product, NamedSharding, tuple[NamedSharding, ...]]:
        rows = _axes(args[0])[0]
        inputs, outputs = _axes(args[1])
        if inputs is not None and inputs == rows:  # XLA divides the rows by the same devices
            inputs = None

        def on_device(*operands: jax.Array) -> jax.Array:
            out = run(*operands)
            return out if inputs is None else jax.lax.psum(out, inputs)

        weights = [
            NamedSharding(mesh, P(None if each.shape[0] == 1 else inputs, outputs))
            for each in args[1:]
        ]
        where = NamedSharding(mesh, P(rows, inputs)), *weights
        return mesh, on_device, NamedSharding(mesh, P(rows, outputs)), where

    def of_result(
        mesh: Any, args: Sequence[jax.ShapeDtypeStruct], result: jax.ShapeDtypeStruct
    ) -> NamedSharding:
        return NamedSharding(mesh, P(_axes(args[0])[0], _axes(args[1])[1]))

    product = custom_partitioning(run)
    groups = [f"g{number} o" for number in range(num_weights - 1)]
    product.def_partition(
        partition=of_part,
        infer_sharding_from_operands=of_result,
        sharding_rule=", ".join(["m i", "i o", *groups]) + " -> m o",
    )
    return _with_batches(product)


def _axes(array: jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """The axes of the mesh that divide each of two axes of an array."""
    assert isinstance(array.sharding, NamedSharding)
    first, second = (*array.sharding.spec, None, None)[:2]
    return first, second


def _with_batches(product: Product) -> Product:
    """Under vmap, a batch of rows is more rows; batched weights are taken one by one."""
    with_vmap = custom_vmap(product)

    @with_vmap.def_vmap
    def batched(
        size: int, is_batched: Sequence[bool], x: jax.Array, *weights: jax.Array
    ) -> tuple[jax.Array, bool]:
        if not any(is_batched[1:]):
            out = product(x.reshape(-1, x.shape[-1]), *weights)
            return out.reshape(size, -1, out.shape[-1]), True

        def one(number: jax.Array) -> jax.Array:
            operands = zip((x, *weights), is_batched, strict=True)
            return product(*(each[number] if batch else each for each, batch in operands))

        return jax.lax.map(one, jax.numpy.arange(size)), True

    return with_vmap
