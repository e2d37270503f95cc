"""Copies the bytes of pages out of the KV pool, and into it.

A page of a cache group is the bytes of all its layers' arrays, one after another, as they are in
the backend's layout: what was read is written back to the bit. Deliberately does not know: tokens,
hashes, who asks.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.execution.step import page_shardings
from flaxen.models.model import Model
from flaxen.scheduling.config import EngineConfig

_AT_ONCE = (4, 32)  # pages that one call copies: each number is a program
PageParts = list[tuple[jax.Array, ...]]  # for some pages each: an array [pages, ...] of each layer


@final
class PageCopies:
    """The programs that copy pages of each group.

    Args:
      model: the model, whose backend and mesh lay out the pages.
      config: the sizes.
    """

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._axis = int(model.num_stages > 1)  # of the pages; the first is then that of stages
        self._is_one_device = model.placement is None
        whole = None if model.placement is None else model.placement.replicated
        self._take = jax.jit(functools.partial(_take, self._axis), out_shardings=whole)
        self._put = [
            jax.jit(functools.partial(_put, self._axis), donate_argnums=0, out_shardings=shardings)
            for shardings in _by_group(model, config)
        ]

    def read(self, cache: Sequence[Any], group: int, pages: np.ndarray) -> PageParts:
        """Starts to read pages of a group; `joined` waits for them.

        Args:
          cache: the layers' pages.
          group: of which layers.
          pages: [n] int32.
        """
        arrays = _arrays(cache, group)
        return [self._take(arrays, ids) for ids in _parts(pages)]

    def write(
        self, cache: Sequence[Any], group: int, pages: np.ndarray, contents: Sequence[np.ndarray]
    ) -> tuple[Any, ...]:
        """Writes pages of a group; returns the cache, of which the old one is donated.

        Args:
          cache, group, pages: as in `read`.
          contents: a row of what `joined` returns for each page.
        """
        arrays = _arrays(cache, group)
        if self._is_one_device and next(iter(arrays[0][0].devices())).platform == "cpu":
            _write_in_place([each for layer in arrays for each in layer], pages, contents)
            return tuple(cache)
        flat = [each for layer in arrays for each in layer]
        shapes = [np.delete(each.shape, self._axis) for each in flat]
        for at, ids in enumerate(_parts(pages)):
            own = contents[at * _AT_ONCE[-1] :][: len(ids)]
            rows = np.stack([*own, *[own[-1]] * (len(ids) - len(own))])
            values = iter(_split(rows, flat, shapes))
            nested = [[next(values) for _ in layer] for layer in arrays]
            arrays = self._put[group](arrays, ids, nested)
        found = iter(arrays)
        return tuple(
            _replaced(each, next(found)) if each.group == group else each for each in cache
        )


def _by_group(model: Model, config: EngineConfig) -> list[list[Any] | None]:
    """The shardings of each group's layers; None without a mesh."""
    found = page_shardings(model)
    if found is None:
        return [None for _ in config.groups]
    return [
        [sharding for layer, sharding in enumerate(found) if layer in group.layers]
        for group in config.groups
    ]


def joined(parts: PageParts, num: int) -> np.ndarray:
    """Waits for pages that are read, and returns their bytes, uint8 [num, bytes of a page]. Safe to
    call from any thread.
    """
    if not parts:
        return np.zeros((0, 0), np.uint8)
    done = [
        np.concatenate([_as_bytes(np.asarray(each)) for each in arrays], axis=1) for arrays in parts
    ]
    return np.concatenate(done)[:num]


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _arrays(cache: Sequence[Any], group: int) -> list[list[jax.Array]]:
    return [jax.tree.leaves(each) for each in cache if each.group == group]


def _replaced(entry: Any, arrays: Sequence[jax.Array]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(entry), arrays)


def _parts(pages: np.ndarray) -> list[np.ndarray]:
    """Page ids in pieces of the sizes that are compiled; the last id fills up the last piece."""
    found = []
    for start in range(0, len(pages), _AT_ONCE[-1]):
        part = pages[start : start + _AT_ONCE[-1]]
        size = next(each for each in _AT_ONCE if len(part) <= each)
        found.append(np.pad(part, (0, size - len(part)), mode="edge"))
    return found


def _split(
    contents: np.ndarray, arrays: Sequence[jax.Array], shapes: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The bytes of pages as a value [n, ...] for each array."""
    found, at = [], 0
    for array, shape in zip(arrays, shapes, strict=True):
        size = int(np.prod(shape)) * array.dtype.itemsize
        part = np.ascontiguousarray(contents[:, at : at + size])
        found.append(part.view(array.dtype).reshape(len(contents), *shape))
        at += size
    return found


def _write_in_place(
    arrays: Sequence[jax.Array], pages: np.ndarray, contents: Sequence[np.ndarray]
) -> None:
    """Writes into the memory of arrays on the CPU, as the kernels of its steps do: XLA would copy
    the whole pool. What reads these pages must be done first, so this waits for it.
    """
    jax.block_until_ready(arrays)
    at = 0
    for array in arrays:
        size = array.nbytes // array.shape[0]
        memory = (ctypes.c_uint8 * array.nbytes).from_address(array.unsafe_buffer_pointer())
        rows = np.ctypeslib.as_array(memory).reshape(array.shape[0], size)
        for page, content in zip(pages, contents, strict=True):
            rows[page] = content[at : at + size]
        at += size


def _take(
    axis: int, arrays: Sequence[Sequence[jax.Array]], pages: jax.Array
) -> tuple[jax.Array, ...]:
    return tuple(
        jnp.moveaxis(jnp.take(each, pages, axis=axis, mode="clip"), axis, 0)
        for layer in arrays
        for each in layer
    )


def _put(
    axis: int, arrays: list[list[jax.Array]], pages: jax.Array, values: list[list[jax.Array]]
) -> list[list[jax.Array]]:
    def put(array: jax.Array, value: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(array, axis, 0).at[pages].set(value)
        return jnp.moveaxis(moved, 0, axis)

    found: list[list[jax.Array]] = jax.tree.map(put, arrays, values)
    return found
