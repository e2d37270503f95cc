"""The memory of weights: JAX takes it over, and no two arrays share a byte."""

from __future__ import annotations

import gc
import itertools
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_dtypes
import numpy as np
import pytest

from flaxen.tensors.packing.memory import WeightMemory


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint32, np.float16, ml_dtypes.bfloat16])
def test_jax_takes_it_over_without_a_copy(dtype: type) -> None:
    memory = WeightMemory()
    memory.zeros((3,), np.dtype(np.uint8))  # so that the next one does not begin a page
    array = memory.zeros((5, 7), np.dtype(dtype))
    assert not array.view(np.uint8).any()
    array[...] = np.arange(35).reshape(5, 7)
    address = array.ctypes.data
    taken = jax.device_put(array)
    assert taken.unsafe_buffer_pointer() == address
    del array, memory
    gc.collect()
    assert np.asarray(taken).astype(int).ravel().tolist() == list(range(35))


def test_arrays_of_several_threads_do_not_overlap() -> None:
    memory = WeightMemory()
    sizes = [1, 63, 64, 65, 4097, 40 << 20, 30 << 20, 70 << 20] * 3  # more than a segment, too
    with ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(lambda size: memory.zeros((size,), np.dtype(np.uint8)), sizes))
    starts = [array.ctypes.data for array in arrays]
    assert all(start % 64 == 0 for start in starts)
    ranges = sorted(zip(starts, sizes, strict=True))
    for (start, size), (next_start, _) in itertools.pairwise(ranges):
        assert start + size <= next_start
    assert [array.size for array in arrays] == sizes
