"""Mosaic compiles our paged attention for v5e and v6e. Nothing here runs on a TPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flaxen.attention_kernels.paged_attention import tpu
from flaxen.kernels.paged_batch import PagedBatch

T, S, MAX_PAGES, NUM_PAGES = 96, 32, 64, 256


def abstract(
    heads: tuple[int, int, int], page_size: int, dtype: str, page_dtype: str
) -> tuple[object, ...]:
    def array(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    N, K, H = heads
    batch = PagedBatch(array(S), array(S, MAX_PAGES), array(S + 1))
    pages = jax.eval_shape(
        lambda: tpu.empty_pages(NUM_PAGES, page_size, K, H, jnp.dtype(page_dtype))
    )
    tokens = [array(T, each, H, dtype=dtype) for each in (N, K, K)]
    return (*tokens, pages, batch, array(N, dtype="float32"))


@pytest.mark.parametrize(
    ("target", "heads", "page_size", "dtypes", "options"),
    [
        ("v5e-1", (32, 8, 128), 16, ("bfloat16", "bfloat16"), {}),
        ("v5e-1", (9, 3, 64), 16, ("bfloat16", "bfloat16"), {"window": 100, "softcap": 30.0}),
        ("v5e-1", (8, 1, 256), 128, ("bfloat16", "bfloat16"), {"scale": 0.1, "window": 4096}),
        ("v5e-1", (7, 1, 64), 16, ("bfloat16", "float8_e4m3fn"), {"softcap": 30.0}),
        ("v5e-1", (4, 4, 80), 32, ("float32", "float32"), {}),
        ("v6e-1", (64, 8, 64), 64, ("bfloat16", "bfloat16"), {"window": 128}),
        ("v6e-1", (8, 2, 128), 32, ("bfloat16", "float8_e4m3fn"), {}),
        ("v6e-1", (4, 2, 256), 16, ("float32", "float32"), {"softcap": 50.0}),
        ("v6e-1", (9, 3, 64), 128, ("bfloat16", "float8_e4m3fn"), {"window": 100}),
        ("v5p-2", (32, 32, 128), 16, ("bfloat16", "bfloat16"), {}),
        ("tpu7x-2", (6, 3, 96), 64, ("bfloat16", "bfloat16"), {"softcap": 30.0}),
    ],
)
def test_compiles_in_place(compile_for, target, heads, page_size, dtypes, options):
    def attend(q, k, v, pages, batch, sinks):
        # A window stands for the models that have sinks too.
        sinks = sinks if "window" in options else None
        return tpu.paged_attention(q, k, v, pages, batch, sinks=sinks, **options)

    arguments = abstract(heads, page_size, *dtypes)
    compiled = compile_for(target, attend, *arguments, donate_argnums=3)
    assert "flaxen_paged_attention" in compiled.as_text()
    pages = arguments[3]
    memory = compiled.memory_analysis()
    # All pages are the output as well, and no second copy of them is needed.
    assert memory.alias_size_in_bytes >= pages.size * pages.dtype.itemsize
    assert memory.temp_size_in_bytes < pages.size * pages.dtype.itemsize


def test_a_kernel_that_a_tpu_can_not_run_does_not_compile(compile_for):
    """So that the tests above can fail: here a buffer is larger than the memory of the core."""

    def body(x, out, buffer):
        buffer[0] = x[...]
        out[...] = buffer[0] + 1

    x = jax.ShapeDtypeStruct((8, 128), jnp.float32)
    scratch = [pltpu.VMEM((1 << 16, 8, 128), jnp.float32)]  # 256 MiB
    add = pl.pallas_call(body, out_shape=x, scratch_shapes=scratch)
    with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
        compile_for("v5e-1", add, x)
