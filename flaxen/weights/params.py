"""Loads stored tensors into the tree of arrays that a model takes.

Several threads read, convert, and transpose or pack each tensor in pieces that stay in the cache,
into memory that JAX uses without a copy; on a mesh, shards.py reads each device's part by itself.
Deliberately does not know file formats, rules or families.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flaxen.kernels.linear.packed import TILE
from flaxen.models.layout import weight_shardings
from flaxen.models.model import Params
from flaxen.models.param_spec import ParamSpec
from flaxen.sharding.parts import Box, own_boxes
from flaxen.tensors.packing.arrays import fill_parts, put_parts
from flaxen.tensors.packing.layout import Layout, WeightRows
from flaxen.tensors.packing.memory import WeightMemory
from flaxen.tensors.packing.pack import Packing, is_kept
from flaxen.tensors.packing.quantize import quantize
from flaxen.tensors.tensor import QuantizedRows, StoredTensor, row_ranges
from flaxen.weights.form import Form, dtype_of, layout_of, shardings_of
from flaxen.weights.shards import load_shards
from flaxen.weights.sources import Source
from flaxen.weights.stacks import are_kept, load_packed, load_quantized

_PIECE = 1 << 17  # values read at once
_THREADS = 16  # at most
_THREADS_ON_A_MESH = 4  # each holds the parts of one parameter until they are on their devices


def load_params(
    specs: Any,
    sources: list[Source],
    form: Form,
    *,
    round_to: jnp.dtype | None,
    on_progress: Callable[[int, int], None] | None,
) -> Params:
    """Reads every source and returns the tree of arrays on the default device, or on the mesh of
    the form: there a process reads only what its own devices hold.

    Args:
      specs: the tree of ParamSpec.
      sources: one for each leaf, in order.
      form: the form of the result.
      round_to: float and dequantized values are rounded to this dtype first; None does not round.
      on_progress: called with the bytes read and the total bytes, from this thread.

    Raises:
      ValueError: a tensor can't be quantized, or its file has changed.
    """
    total = sum(source.stored.num_bytes for source in sources)
    done = 0
    memory = WeightMemory()
    params: list[Any] = [None] * len(sources)
    shardings = shardings_of(specs, sources, form)
    threads = _THREADS if form.placement is None else _THREADS_ON_A_MESH
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, threads)) as pool:
        futures = {
            pool.submit(_load, source, form, shardings[i], round_to, memory): i
            for i, source in enumerate(sources)
        }
        try:
            for future in as_completed(futures):
                params[futures[future]] = future.result()
                done += sources[futures[future]].stored.num_bytes
                if on_progress is not None:
                    on_progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the rest is not needed after an error
            raise
    structure = jax.tree.structure(specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))
    return jax.tree.unflatten(structure, params)


def _load(
    source: Source,
    form: Form,
    sharding: NamedSharding | None,
    round_to: jnp.dtype | None,
    memory: WeightMemory,
) -> Any:
    """Loads one parameter: an array, a PackedLinear or a QuantizedLinear."""
    layout = layout_of(source, form)
    if source.spec.is_wide:
        round_to = None
    if layout is not None and source.spec.is_stack:
        return _load_stack(source, layout, sharding, form, round_to, memory)
    if layout is not None and form.backend.packs_weights:
        return _load_packed(source, layout, form, round_to, memory)
    if layout is not None:
        return _load_quantized(source, layout, sharding, form, round_to)
    if sharding is not None:
        read = functools.partial(_floats, round_to=round_to)
        return load_shards(source, dtype_of(source.spec, form), sharding, read, _PIECE)
    out = memory.zeros(source.spec.shape, dtype_of(source.spec, form))
    rows_of_out = out.swapaxes(-1, -2) if source.transposed else out
    for start, stop in _pieces(source.stored):
        rows_of_out[start:stop] = _floats(source.stored, start, stop, round_to)
    return jax.device_put(out)


def _load_stack(
    source: Source,
    layout: Layout,
    sharding: NamedSharding | None,
    form: Form,
    round_to: jnp.dtype | None,
    memory: WeightMemory,
) -> Any:
    """Loads the weights of experts."""
    experts = source.experts
    kept = form.quantization == "auto" and form.backend.keeps_quantized
    is_kept = kept and are_kept(experts, layout)
    read = functools.partial(_floats, round_to=round_to)
    with _naming(source.stored):
        if form.backend.packs_weights:
            return load_packed(experts, layout, is_kept=is_kept, read=read, memory=memory)
        return load_quantized(experts, layout, is_kept=is_kept, read=read, sharding=sharding)


def _load_packed(
    source: Source,
    layout: Layout,
    form: Form,
    round_to: jnp.dtype | None,
    memory: WeightMemory,
) -> Any:
    stored = source.matrix
    num_outputs, num_inputs = stored.shape
    packing = Packing((num_outputs, num_inputs), layout, memory)
    kept = None if source.spec.is_wide else _kept(stored, form)
    for start, stop in _pieces(stored):
        if kept is not None:
            packing.write(start, kept.read(start, stop))
            continue
        floats = _floats(stored, start, stop, round_to)
        with _naming(stored):
            packing.write_floats(start, floats)
    return packing.finish(jax.device_put, None if kept is None else kept.order)


def _kept(stored: StoredTensor, form: Form) -> QuantizedRows | None:
    """The rows of a weight that is kept as the file has it; None if it is not."""
    is_it = is_kept(stored, form.quantization, backend=form.backend)
    return stored.quantized if is_it else None


def _load_quantized(
    source: Source,
    layout: Layout,
    sharding: NamedSharding | None,
    form: Form,
    round_to: jnp.dtype | None,
) -> Any:
    stored = source.matrix
    kept = _kept(stored, form)
    num_outputs, num_inputs = stored.shape
    shape = (num_inputs, num_outputs)
    with _naming(stored):
        shardings = weight_shardings(source.spec, sharding, num_inputs // layout.group)
    boxes = [Box((0, 0), shape)]
    if shardings is not None:
        boxes = list(own_boxes(shardings.data, shape))

    def rows() -> Iterator[tuple[int, WeightRows]]:
        if not boxes:  # a weight of a pipeline stage on other processes
            return
        first, last = min(box.start[1] for box in boxes), max(box.stop[1] for box in boxes)
        for start, stop in _pieces(stored, first, last):
            if kept is not None:
                yield start, kept.read(start, stop)
                continue
            floats = _floats(stored, start, stop, round_to).astype(np.float32)
            with _naming(stored):
                yield start, quantize(floats, layout)

    parts = fill_parts(shape, layout, boxes, rows())
    order = None if kept is None else kept.order
    return put_parts(parts, shape, layout, shardings, form.placement, order)


@contextlib.contextmanager
def _naming(stored: StoredTensor) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"tensor {stored.name} can't be quantized: {error}") from None


def _pieces(
    stored: StoredTensor, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, int]]:
    """Ranges of rows, in multiples of tiles and of the units that are read together."""
    is_stack = len(stored.shape) > 2  # the first axis counts whole matrices
    unit = 1 if is_stack else TILE
    return row_ranges(stored, _PIECE, unit=unit, first=first, last=last)


def _floats(stored: StoredTensor, start: int, stop: int, round_to: jnp.dtype | None) -> np.ndarray:
    rows = stored.read(start, stop)
    return rows if round_to is None else rows.astype(round_to)
