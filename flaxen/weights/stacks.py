"""Loads the weights of experts, [E, I, O]: packed one after the other, or quantized each by itself.

Deliberately does not know file formats, rules or families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flaxen.kernels.linear.packed import TILE, PackedLinear
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.models.layout import stack_shardings
from flaxen.sharding.parts import Box
from flaxen.tensors.packing.arrays import fill_parts, put_parts
from flaxen.tensors.packing.layout import Layout, WeightRows
from flaxen.tensors.packing.memory import WeightMemory
from flaxen.tensors.packing.pack import Packing
from flaxen.tensors.packing.quantize import quantize
from flaxen.tensors.tensor import StoredTensor, row_ranges

Floats = Callable[[StoredTensor, int, int], np.ndarray]  # reads rows, rounded as they should be
_PIECE = 1 << 17  # values read at once


def stack_layout(experts: list[StoredTensor], choose: Callable[[StoredTensor], Layout]) -> Layout:
    """The layout of a stack: that of each of its weights; of plain ones if the file has several."""
    plain = [each if _is_in_order(each) else replace(each, quantized=None) for each in experts]
    layouts = [choose(each) for each in plain]
    if all(each == layouts[0] for each in layouts):
        return layouts[0]
    return choose(replace(experts[0], quantized=None))


def are_kept(experts: list[StoredTensor], layout: Layout) -> bool:
    """Whether the numbers and scales of all weights are in a layout, in the order of the inputs."""
    return all(
        each.quantized is not None
        and each.quantized.layout.format == layout.format
        and _is_in_order(each)
        for each in experts
    )


def _is_in_order(stored: StoredTensor) -> bool:
    return stored.quantized is None or stored.quantized.order is None


def load_packed(
    experts: list[StoredTensor],
    layout: Layout,
    *,
    is_kept: bool,
    read: Floats,
    memory: WeightMemory,
) -> PackedLinear:
    """Packs a stack for the C++ kernels.

    Args:
      experts: each [out, in].
      layout: of each.
      is_kept: their numbers and scales are those of the file.
      read: reads floats.
      memory: where to allocate the result.

    Raises:
      ValueError: a weight can't be quantized.
    """
    num_outputs, num_inputs = experts[0].shape
    padded = -(-num_outputs // TILE) * TILE
    packing = Packing((len(experts) * padded, num_inputs), layout, memory)
    for index, stored in enumerate(experts):
        for start, stop in row_ranges(stored, _PIECE, unit=TILE):
            at = index * padded + start
            if is_kept:
                assert stored.quantized is not None
                packing.write(at, stored.quantized.read(start, stop))
            else:
                packing.write_floats(at, read(stored, start, stop))
    whole = packing.finish(jax.device_put, None)
    return replace(whole, num_outputs=num_outputs, num_experts=len(experts))


def load_quantized(
    experts: list[StoredTensor],
    layout: Layout,
    *,
    is_kept: bool,
    read: Floats,
    sharding: NamedSharding | None,
) -> QuantizedLinear:
    """Quantizes a stack to plain arrays [E, I, O], divided over the mesh as the plain weight is.

    Args:
      experts: each [out, in].
      layout: of each.
      is_kept: their numbers and scales are those of the file.
      read: reads floats.
      sharding: of the plain weight [E, I, O]; None is the default device.

    Raises:
      ValueError: a weight can't be quantized.
    """
    num_outputs, num_inputs = experts[0].shape
    shape = (num_inputs, num_outputs)

    def rows(stored: StoredTensor) -> Iterator[tuple[int, WeightRows]]:
        for start, stop in row_ranges(stored, _PIECE, unit=TILE):
            if is_kept:
                assert stored.quantized is not None
                yield start, stored.quantized.read(start, stop)
            else:
                yield start, quantize(read(stored, start, stop).astype(np.float32), layout)

    each = []
    for stored in experts:
        parts = fill_parts(shape, layout, [Box((0, 0), shape)], rows(stored))
        each.append(put_parts(parts, shape, layout, None, None, None))
    whole: QuantizedLinear = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    if sharding is None:
        return whole
    where = stack_shardings(sharding)
    mins = None if whole.mins is None else where.mins
    places = replace(whole, data=where.data, scales=where.scales, mins=mins)
    placed: QuantizedLinear = jax.device_put(whole, places)
    return placed
