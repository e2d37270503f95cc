"""Products with quantized weights keep no expanded copy in a TPU's memory. Nothing runs on one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import QuantizedLinear, embed, linear
from tests.kernels.quantized_weights import KINDS, Kind, data_dtype


def abstract(kind: Kind, num_inputs: int, num_outputs: int) -> QuantizedLinear:
    groups = (num_inputs // (kind.group or num_inputs), num_outputs)
    scales = jax.ShapeDtypeStruct(groups, kind.scale_dtype)
    return QuantizedLinear(
        data=jax.ShapeDtypeStruct((num_inputs, num_outputs), data_dtype(kind)),
        scales=scales,
        mins=scales if kind.has_mins else None,
        zero=kind.zero,
        is_e2m1=kind.format == "float4",
    )


@pytest.mark.parametrize(
    ("target", "kind", "shape", "rows"),
    [
        ("v5e-1", "int8", (4096, 14336), 16),
        ("v5e-1", "int8 in groups", (14336, 4096), 512),
        ("v5e-1", "int4 in groups", (11008, 4096), 1),
        ("v5e-1", "int4 with mins", (576, 1536), 256),
        ("v6e-1", "int8", (2048, 4096), 512),
        ("v6e-1", "int8 in groups", (896, 4864), 64),
        ("v6e-1", "int4 with wide mins", (4096, 14336), 1024),
        ("v6e-1", "int4 in groups of 128", (4096, 1792), 64),
        ("v5e-1", "float8", (4096, 14336), 16),
        ("v5e-1", "float8 in groups", (4096, 4096), 64),
        ("v6e-1", "float8 in groups", (4096, 1792), 512),
        ("v5e-1", "float4", (3072, 4096), 64),
        ("v6e-1", "float4", (4096, 14336), 16),
    ],
)
def test_a_product_expands_no_weight(compile_for, target, kind, shape, rows):
    weight = abstract(KINDS[kind], *shape)
    x = jax.ShapeDtypeStruct((rows, shape[0]), jnp.bfloat16)
    compiled = compile_for(
        target, lambda x, weight: linear(x, weight, backend=Backend.TPU), x, weight
    )
    has_kernel = "tpu_custom_call" in compiled.as_text()
    assert has_kernel == (KINDS[kind].group is not None)  # one group is XLA's own
    memory = compiled.memory_analysis()
    # A device keeps the numbers in as many bits as they have, and not one in more.
    assert memory.argument_size_in_bytes < 1.1 * (weight.nbytes + 2 * x.size)
    sums = 4 * rows * shape[1]
    assert memory.temp_size_in_bytes < 1.1 * sums + shape[0] * shape[1] // 8


@pytest.mark.parametrize("target", ["v5e-1", "v6e-1"])
@pytest.mark.parametrize("kind", ["int8", "int8 in groups"])
def test_a_lookup_copies_no_table(compile_for, target, kind):
    table = abstract(KINDS[kind], 2048, 128256)
    ids = jax.ShapeDtypeStruct((64,), jnp.int32)
    compiled = compile_for(
        target, lambda table, ids: embed(table, ids, jnp.bfloat16, backend=Backend.TPU), table, ids
    )
    assert compiled.memory_analysis().temp_size_in_bytes < table.nbytes // 16
