"""Loads stored tensors into the tree of arrays that a model takes.

Several threads read, convert, and transpose or pack each tensor in pieces that stay in the cache,
into memory that JAX uses without a copy; on a mesh, shards.py reads each device's part by itself.
Deliberately does not know file formats, rules or families.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import TILE
from flaxen.models.layout import param_shardings, weight_shardings
from flaxen.models.model import Params
from flaxen.models.param_spec import ParamSpec
from flaxen.sharding.parts import Box, own_boxes
from flaxen.sharding.placement import Placement
from flaxen.tensors.packing import layout as layouts
from flaxen.tensors.packing.arrays import fill_parts, put_parts
from flaxen.tensors.packing.layout import Layout, WeightRows
from flaxen.tensors.packing.memory import WeightMemory
from flaxen.tensors.packing.pack import (
    QUANTIZATIONS,
    Packing,
    Quantization,
    choose_layout,
    is_kept,
)
from flaxen.tensors.packing.quantize import quantize
from flaxen.tensors.tensor import QuantizedRows, StoredTensor, row_ranges
from flaxen.tensors.views import transposed
from flaxen.weights.shards import load_shards
from flaxen.weights.sources import Source
from flaxen.weights.stacks import (
    are_kept,
    experts_of,
    load_packed,
    load_quantized,
    stack_layout,
)

DTYPES = ("float32", "bfloat16", "float16")
PACKED_DTYPES = ("float32", "bfloat16")
_PIECE = 1 << 17  # values read at once
_THREADS = 16  # at most
_THREADS_ON_A_MESH = 4  # each holds the parts of one parameter until they are on their devices


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of loaded parameters: dtype, packing, quantization, and where they are.

    Raises:
      ValueError: the dtype or quantization is not supported, or their combination; or packed
          weights are to be divided over a mesh.
    """

    dtype: jnp.dtype  # of parameters that are not quantized
    # What computes with them: it may pack matrices, or take quantized ones as plain arrays.
    backend: Backend = Backend.REFERENCE
    quantization: Quantization = "none"
    placement: Placement | None = None  # the mesh that they are laid over; None is one device

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization {self.quantization!r} is not supported: use one of "
                f"{', '.join(QUANTIZATIONS)}"
            )
        packs = self.backend.packs_weights
        if packs and self.placement is not None:
            raise ValueError(
                f"the backend {self.backend.value} computes on one device, and the mesh is "
                f"{self.placement.shape}: use the backend reference, or no mesh"
            )
        known = PACKED_DTYPES if packs else DTYPES
        if self.dtype.name not in known:
            raise ValueError(f"dtype {self.dtype.name} is not supported: use {', '.join(known)}")


def num_bytes(specs: Any, sources: list[Source], form: Form) -> int:
    """The bytes of the loaded parameters, without padding; on a mesh the most of one device."""
    found: Counter[Any] = Counter()
    for source, sharding in zip(sources, _shardings(specs, sources, form), strict=True):
        shape = source.spec.shape
        if sharding is None:
            found[None] += _num_bytes(source, shape, form)
            continue
        part = _num_bytes(source, sharding.shard_shape(shape), form)
        found.update(dict.fromkeys(sharding.device_set, part))
    return max(found.values(), default=0)


def layouts_of(sources: list[Source], form: Form) -> list[Layout | None]:
    """The layout that each parameter will have; None for a plain array."""
    return [_layout(source, form) for source in sources]


def _shardings(specs: Any, sources: list[Source], form: Form) -> list[NamedSharding | None]:
    """The sharding of each source's parameter; None is the default device."""
    if form.placement is None:
        return [None] * len(sources)
    return jax.tree.leaves(param_shardings(specs, form.placement))


def _num_bytes(source: Source, shape: tuple[int, ...], form: Form) -> int:
    num_values = math.prod(shape)
    layout = _layout(source, form)
    if layout is None:
        return num_values * _dtype(source.spec, form).itemsize
    return layouts.num_bytes(layout, num_values)


def _dtype(spec: ParamSpec, form: Form) -> jnp.dtype:
    """The dtype of a parameter that is not quantized."""
    return jnp.dtype(jnp.float32) if spec.is_wide else form.dtype


def _layout(source: Source, form: Form) -> Layout | None:
    """The layout of a parameter that is packed or quantized; None for a plain array."""
    spec = source.spec
    if spec.matrix is None and not spec.is_stack:
        return None
    choose = functools.partial(
        choose_layout,
        dtype=_dtype(spec, form),
        quantization="none" if spec.is_wide else form.quantization,
        backend=form.backend,
        is_table=spec.role == "table",
    )
    layout = stack_layout(_experts(source), choose) if spec.is_stack else choose(_rows(source))
    return layout if form.backend.packs_weights or layout.scale_dtype is not None else None


def _experts(source: Source) -> list[StoredTensor]:
    return experts_of(source.stored, is_transposed=source.transposed)


def _rows(source: Source) -> StoredTensor:
    """A matrix as [out, in]."""
    return source.stored if source.rows_are_outputs else transposed(source.stored)


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
    shardings = _shardings(specs, sources, form)
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
    layout = _layout(source, form)
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
        return load_shards(source, _dtype(source.spec, form), sharding, read, _PIECE)
    out = memory.zeros(source.spec.shape, _dtype(source.spec, form))
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
    experts = _experts(source)
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
    stored = _rows(source)
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
    stored = _rows(source)
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
