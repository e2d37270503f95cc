"""Attention is lowered for AMD's GPUs, without one: its Triton kernels are in the program.

Nothing here compiles them to machine code, for which ROCm is needed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import export

from flaxen.attention_kernels.paged_attention import empty_cache, paged_attention
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch


def test_paged_attention_is_a_triton_kernel_on_rocm() -> None:
    batch = PagedBatch(
        jax.ShapeDtypeStruct((4,), jnp.int32),
        jax.ShapeDtypeStruct((4, 8), jnp.int32),
        jax.ShapeDtypeStruct((5,), jnp.int32),
    )
    q, k = (jax.ShapeDtypeStruct((16, num, 64), jnp.bfloat16) for num in (32, 8))
    cache = jax.eval_shape(
        lambda: empty_cache(64, 16, 8, 64, jnp.dtype("bfloat16"), backend=Backend.GPU)
    )
    step = jax.jit(lambda *args: paged_attention(*args, backend=Backend.GPU))
    # JAX promises nothing about exported kernels of this name in a later version.
    allowed = [export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    exported = export.export(step, platforms=["rocm"], disabled_checks=allowed)
    assert "__gpu$xla.gpu.triton" in exported(q, k, k, cache, batch).mlir_module()
