"""Stored tensors to the tree of arrays that a model takes.

Each tensor is read, converted and turned around in pieces that stay in the processor's cache, by
several threads, into memory that JAX takes over without a copy. Deliberately does not know file
formats or families.
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

from flaxen.models.model import Params, ParamSpec
from flaxen.weights.tensor import StoredTensor

DTYPES = ("float32", "bfloat16", "float16")
_PIECE = 1 << 17  # values read at once
_ALIGNMENT = 64  # bytes; JAX's CPU backend copies what is less aligned


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
                transposed=layer is not None and len(spec.shape) == 2,
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


def load_params(
    specs: Any,
    sources: list[Source],
    dtype: jnp.dtype,
    *,
    round_to: jnp.dtype | None,
    on_progress: Callable[[int, int], None] | None,
) -> Params:
    """Reads every source, and returns the tree of arrays on the default device.

    Args:
      specs: the tree whose leaves the sources are for.
      sources: as find_sources returns them.
      dtype: of the arrays; one of DTYPES.
      round_to: values are rounded to this first; None leaves them as they are.
      on_progress: called with bytes read and bytes in all, from this thread.

    Raises:
      ValueError: the dtype is not supported.
    """
    dtype = jnp.dtype(dtype)
    if dtype.name not in DTYPES:
        raise ValueError(f"dtype {dtype.name} is not supported: use {', '.join(DTYPES)}")
    total = sum(source.stored.num_bytes for source in sources)
    done = 0
    arrays: list[jax.Array | None] = [None] * len(sources)
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        futures = {
            pool.submit(_load, source, dtype, round_to): i for i, source in enumerate(sources)
        }
        for future in as_completed(futures):
            arrays[futures[future]] = jax.device_put(future.result())
            done += sources[futures[future]].stored.num_bytes
            if on_progress is not None:
                on_progress(done, total)
    structure = jax.tree.structure(specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))
    return jax.tree.unflatten(structure, arrays)


def _load(source: Source, dtype: jnp.dtype, round_to: jnp.dtype | None) -> np.ndarray:
    out = _aligned_empty(source.spec.shape, dtype)
    num_rows = source.stored.shape[0]
    order = _row_order(num_rows, source.interleaved_heads)
    step = max(1, _PIECE // math.prod(source.stored.shape[1:]))
    if source.interleaved_heads:  # a head's rows trade places: read whole heads
        head = num_rows // source.interleaved_heads
        step = head * max(1, step // head)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        rows = source.stored.read(start, stop)
        if source.interleaved_heads:
            rows = rows[order[start:stop] - start]
        if round_to is not None:
            rows = rows.astype(round_to)
        if source.transposed:
            out[:, start:stop] = rows.T
        else:
            out[start:stop] = rows
    return out


def _row_order(num_rows: int, heads: int) -> np.ndarray:
    """For each row in the order of split halves, its place in the interleaved order."""
    rows = np.arange(num_rows)
    return rows.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1) if heads else rows


def _aligned_empty(shape: tuple[int, ...], dtype: jnp.dtype) -> np.ndarray:
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)
