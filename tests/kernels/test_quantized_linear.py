"""Products with quantized weights on each backend = those with their values, in interpret mode."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import (
    LoraWeight,
    QuantizedLinear,
    embed,
    gated_linear,
    gpu,
    linear,
    linears,
    tpu,
    transpose,
    unembed,
    unpack,
)
from tests.kernels.pairwise import pairwise
from tests.kernels.quantized_weights import KINDS, random_rows, random_weight

BACKENDS = (Backend.REFERENCE, Backend.GPU, Backend.TPU)
MULTIPLY = {Backend.GPU: gpu.multiply_in_tiles, Backend.TPU: tpu.multiply_in_tiles}
CHOOSE = {Backend.GPU: gpu.choose_tiles, Backend.TPU: tpu.choose_tiles}


def assert_near(ours: jax.Array, theirs: jax.Array, tolerance: float = 1e-5) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


def plain(x: jax.Array, weight: QuantizedLinear) -> jax.Array:
    """The product with the weight's values, in float64."""
    values = np.asarray(unpack(weight), np.float64)
    return jnp.asarray((np.asarray(x, np.float64) @ values).astype(np.float32))


@pairwise(
    {
        "backend": BACKENDS,
        "kind": list(KINDS),
        # Sizes of tiles, of one tile, and of none: 48 and 40 have no tile on a GPU.
        "I, O": [(128, 128), (1024, 192), (384, 48), (640, 40), (128, 200)],
        "rows": [1, 16, 33, 130],
        "dtype": ["float32", "bfloat16"],
    }
)
def test_a_product_is_that_with_the_values(backend, kind, I, O, rows, dtype):  # noqa: E741
    weight, x = random_weight(KINDS[kind], I, O), random_rows(rows, I, dtype)
    out = linear(x, weight, out_dtype=jnp.float32, backend=backend)
    assert_near(out, plain(x, weight), 1e-5 if dtype == "float32" else 4e-3)


@pytest.mark.parametrize("backend", [Backend.GPU, Backend.TPU])
@pytest.mark.parametrize("kind", ["int8 in groups", "int4 with mins"])
def test_a_row_has_the_same_bits_among_any_others(backend, kind):
    # In bfloat16: the products of which a CPU's XLA is made have one order of additions in it.
    weight, x = random_weight(KINDS[kind], 2048, 128), random_rows(140, 2048, "bfloat16")
    sizes = (1, 5, 16, 17, 40, 140)
    tiles = [CHOOSE[backend](size, weight) for size in sizes]
    assert len({each.rows for each in tiles}) > 2
    found = [
        np.asarray(MULTIPLY[backend](x[:size], weight, each))
        for size, each in zip(sizes, tiles, strict=True)
    ]
    for each in found:
        np.testing.assert_array_equal(each, found[-1][: len(each)])


def test_the_order_of_a_sum_follows_from_the_weight_alone():
    weight = random_weight(KINDS["int4 in groups"], 4096, 512)
    rows = (1, 16, 64, 65, 4096)
    on_gpu = {gpu.choose_tiles(each, weight)._replace(rows=0, outputs=0) for each in rows}
    on_tpu = {tpu.choose_tiles(each, weight)._replace(rows=0) for each in rows}
    assert len(on_gpu) == len(on_tpu) == 1


def test_a_gpu_sums_many_rows_in_the_order_of_a_few():
    weight, x = random_weight(KINDS["int8"], 1024, 64), random_rows(65, 1024)
    many = gpu.choose_tiles(65, weight)
    assert many.splits > 1
    apart = [gpu.multiply_in_tiles(x[i : i + 1], weight, many) for i in range(65)]
    together = gpu.multiply_in_tiles(x, weight, many)
    np.testing.assert_array_equal(np.concatenate(apart), together)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_have_bias_gate_residual_and_norm(backend):
    kind = KINDS["int8 in groups"]
    gate, up = random_weight(kind, 128, 64, 1), random_weight(kind, 128, 64, 2)
    x, residual = random_rows(5, 128).reshape(1, 5, 128), random_rows(5, 64).reshape(1, 5, 64)
    bias, norm = random_rows(1, 64)[0], (random_rows(1, 128)[0], 1e-5)
    expanded = [unpack(each) for each in (gate, up)]

    def layers(gate, up):
        return (
            linear(x, gate, bias, norm=norm, residual=residual, backend=backend),
            *linears(x, (gate, up), (bias, None), backend=backend),
            gated_linear(x, gate, up, (bias, None), norm=norm, backend=backend),
        )

    for ours, theirs in zip(layers(gate, up), layers(*expanded), strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["int8", "int8 in groups", "int4 with mins"])
def test_a_table_is_looked_up_and_multiplied(backend, kind):
    table = random_weight(KINDS[kind], 64 if kind == "int8" else 128, 300)
    values = unpack(table).T
    ids = jnp.asarray([[0, 299, 128], [-1, 5, 127]], jnp.int32)
    for dtype in ("float32", "bfloat16"):
        np.testing.assert_array_equal(
            embed(table, ids, dtype, backend=backend), embed(values, ids, dtype, backend=backend)
        )
    norm = (random_rows(1, table.shape[0])[0], 1e-5)
    x = random_rows(3, table.shape[0])
    assert_near(unembed(x, table, norm, backend=backend), unembed(x, values, norm, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transposed_weight_is_its_values(backend):
    weight = random_weight(KINDS["int4 with mins"], 64, 48)
    np.testing.assert_array_equal(transpose(weight, backend=backend), unpack(weight).T)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["int8", "int4 with mins"])
def test_gradients_go_through_to_inputs_and_adapters(backend, kind):
    weight, x = random_weight(KINDS[kind], 128, 64), random_rows(6, 128)
    lora = LoraWeight(
        base=weight,
        a=random_rows(256, 4).reshape(2, 128, 4),
        b=random_rows(8, 64).reshape(2, 4, 64),
        scales=jnp.asarray([1.0, 2.0]),
        ids=jnp.asarray([0, 1, -1, 1, 0, 0]),
    )

    def loss(x, a, base):
        adapted = dataclasses.replace(lora, a=a, base=base)
        return jnp.sum(jnp.sin(linear(x, adapted, backend=backend)))

    ours = jax.jit(jax.grad(lambda x, a: loss(x, a, weight), (0, 1)))(x, lora.a)
    theirs = jax.jit(jax.grad(lambda x, a: loss(x, a, unpack(weight)), (0, 1)))(x, lora.a)
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, 1e-4)


def test_a_gradient_of_a_gradient_and_a_jvp_go_through_a_kernel():
    weight, x = random_weight(KINDS["int8 in groups"], 64, 64), random_rows(2, 64)

    def second(weight, backend):
        def loss(x):
            return jnp.sum(linear(x, weight, backend=backend) ** 3)

        return jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1]

    ours = jax.jit(lambda weight: second(weight, Backend.GPU))(weight)
    assert_near(ours, second(unpack(weight), Backend.REFERENCE), 1e-4)


def test_bytes_are_those_on_the_device():
    int8 = random_weight(KINDS["int8"], 128, 64)
    assert int8.nbytes == 128 * 64 + 64 * 4
    int4 = random_weight(KINDS["int4 with mins"], 128, 64)
    assert int4.nbytes == 128 * 64 // 2 + 2 * 4 * 64 * 2
    assert (int8.group, int4.group, int8.format, int4.format) == (128, 32, "int8", "int4")
    assert (int8.shape, int4.shape) == ((128, 64), (128, 64))


def test_a_tpu_reads_every_float16_from_its_bits():
    bits = np.arange(1 << 16, dtype=np.int32)
    expected = bits.astype(np.uint16).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(tpu.half_to_float(jnp.asarray(bits)), expected)
