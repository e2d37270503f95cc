"""Stored tensors to the tree of arrays that a model takes.

Each tensor is read, converted and turned around or packed in pieces that stay in the processor's
cache, by several threads, into memory that JAX takes over without a copy. Deliberately does not
know file formats or families.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.linear.packed import TILE
from flaxen.models.model import Params, ParamSpec
from flaxen.weights.packing.memory import WeightMemory
from flaxen.weights.packing.pack import QUANTIZATIONS, Packing, Quantization, choose_layout
from flaxen.weights.tensor import StoredTensor

DTYPES = ("float32", "bfloat16", "float16")
PACKED_DTYPES = ("float32", "bfloat16")
_PIECE = 1 << 17  # values read at once


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where one parameter comes from."""

    stored: StoredTensor
    spec: ParamSpec
    transposed: bool  # files hold [out, in], the decoder takes [in, out]
    interleaved_heads: int = 0  # heads whose rows are to be put back in order; 0 is none

    def __post_init__(self) -> None:
        expected = self.spec.shape[::-1] if self.transposed else self.spec.shape
        if self.stored.shape != expected:
            raise ValueError(
                f"tensor {self.stored.name} has shape {list(self.stored.shape)}, but the "
                f"configuration needs {list(expected)}: the two do not belong together"
            )


def find_sources(
    specs: Any,
    names: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
    *,
    interleaved_heads: Mapping[str, int],
    ignored: Callable[[str], bool],
) -> list[Source]:
    """One source for each parameter, in the order of the tree's leaves.

    Args:
      specs: the tree of ParamSpec: arrays at the top, and "layers", a tuple of dicts.
      names: our parameter -> the file's tensor, with {} for the layer's number.
      tensors: what the files hold.
      interleaved_heads: parameter -> number of heads whose rows are in interleaved order.
      ignored: whether a tensor without a parameter is harmless.

    Raises:
      ValueError: a tensor is missing, has the wrong shape, or has no place in the model.
    """
    flat, _ = jax.tree.flatten_with_path(specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))
    sources = []
    for path, spec in flat:
        parameter = path[-1].key
        layer = path[1].idx if len(path) == 3 else None
        name = names[parameter].format(layer)
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing: the configuration needs it")
        sources.append(
            Source(
                stored=tensors[name],
                spec=spec,
                transposed=spec.role == "matrix",
                interleaved_heads=interleaved_heads.get(parameter, 0),
            )
        )
    extra = tensors.keys() - {source.stored.name for source in sources}
    unknown = sorted(name for name in extra if not ignored(name))
    if unknown:
        raise ValueError(
            f"tensor {unknown[0]} has no place in the model"
            f"{f', nor have {len(unknown) - 1} more' if len(unknown) > 1 else ''}: leaving it out "
            "would change the result. Is the configuration the right one?"
        )
    return sources


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form that parameters take in memory.

    Raises:
      ValueError: a dtype or quantization that is not supported, or not together with the others.
    """

    dtype: jnp.dtype  # of what is not quantized
    packed: bool = False  # matrices as PackedLinear, which only the C++ kernels take
    quantization: Quantization = "none"

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization {self.quantization!r} is not supported: use one of "
                f"{', '.join(QUANTIZATIONS)}"
            )
        known = PACKED_DTYPES if self.packed else DTYPES
        if self.dtype.name not in known:
            raise ValueError(f"dtype {self.dtype.name} is not supported: use {', '.join(known)}")
        if not self.packed and self.quantization not in ("auto", "none"):
            raise ValueError(
                f"quantization {self.quantization} needs packed weights, which only the C++ "
                "kernels can compute with: use auto or none"
            )


def load_params(
    specs: Any,
    sources: list[Source],
    form: Form,
    *,
    round_to: jnp.dtype | None,
    on_progress: Callable[[int, int], None] | None,
) -> Params:
    """Reads every source, and returns the tree of arrays on the default device.

    Args:
      specs: the tree whose leaves the sources are for.
      sources: as find_sources returns them.
      form: what each becomes.
      round_to: values that are dequantized or floats are rounded to this first; None leaves them
        as they are.
      on_progress: called with bytes read and bytes in all, from this thread.

    Raises:
      ValueError: a tensor can't be quantized, or its file changed.
    """
    total = sum(source.stored.num_bytes for source in sources)
    done = 0
    memory = WeightMemory()
    params: list[Any] = [None] * len(sources)
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        futures = {
            pool.submit(_load, source, form, round_to, memory): i
            for i, source in enumerate(sources)
        }
        try:
            for future in as_completed(futures):
                params[futures[future]] = future.result()
                done += sources[futures[future]].stored.num_bytes
                if on_progress is not None:
                    on_progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # nobody wants the rest
            raise
    structure = jax.tree.structure(specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))
    return jax.tree.unflatten(structure, params)


def _load(source: Source, form: Form, round_to: jnp.dtype | None, memory: WeightMemory) -> Any:
    """The parameter: an array, or a PackedLinear."""
    if form.packed and source.spec.matrix is not None:
        return _load_packed(source, form, round_to, memory)
    out = memory.zeros(source.spec.shape, form.dtype)
    for start, stop in _pieces(source):
        rows = _floats(source, start, stop, round_to)
        if source.transposed:
            out[:, start:stop] = rows.T
        else:
            out[start:stop] = rows
    return jax.device_put(out)


def _load_packed(
    source: Source, form: Form, round_to: jnp.dtype | None, memory: WeightMemory
) -> Any:
    stored = source.stored
    is_table = source.spec.role == "table"
    layout = choose_layout(stored, form.dtype, form.quantization, is_table=is_table)
    num_outputs, num_inputs = stored.shape
    packing = Packing((num_outputs, num_inputs), layout, memory)
    for start, stop in _pieces(source):
        if stored.quantized is not None and layout is stored.quantized.layout:
            rows = stored.quantized.read(start, stop)
            packing.write(start, rows.in_order(_row_order(source, start, stop)))
            continue
        floats = _floats(source, start, stop, round_to)
        try:
            packing.write_floats(start, floats)
        except ValueError as error:
            raise ValueError(f"tensor {stored.name} can't be quantized: {error}") from None
    return packing.finish(jax.device_put)


def _pieces(source: Source) -> list[tuple[int, int]]:
    """Ranges of rows, in whole tiles and whole heads: a head's rows may trade places."""
    num_rows = source.stored.shape[0]
    heads = source.interleaved_heads
    unit = math.lcm(TILE, num_rows // heads if heads else 1)
    wanted = _PIECE // math.prod(source.stored.shape[1:])
    step = unit * max(1, wanted // unit)
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _floats(source: Source, start: int, stop: int, round_to: jnp.dtype | None) -> np.ndarray:
    rows = source.stored.read(start, stop)
    order = _row_order(source, start, stop)
    rows = rows if order is None else rows[order]
    return rows if round_to is None else rows.astype(round_to)


def _row_order(source: Source, start: int, stop: int) -> np.ndarray | None:
    """For each row in the order of split halves, its place among those read; None for theirs."""
    if not source.interleaved_heads:
        return None
    head = source.stored.shape[0] // source.interleaved_heads
    return np.arange(stop - start).reshape(-1, head // 2, 2).swapaxes(1, 2).reshape(-1)
