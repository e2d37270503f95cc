"""Adapters in the C++ layers = plain jnp; rows without one have the base's bits; gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.linear import LoraWeight
from flaxen.kernels.linear.packed import INPUT_MULTIPLE, TILE, PackedLinear
from tests.kernels.on_cpu import gated_linear, linear, linears, pack
from tests.kernels.pairwise import ISAS, THREADS, pairwise

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

EPS = 1e-5
DTYPES = ("float32", "bfloat16")
I, O, NUM = 100, 150, 3  # noqa: E741
WIDE = jnp.dtype(jnp.float32)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def some_ids(rows: int, num: int = NUM) -> jax.Array:
    """Every adapter, none, and one that there is not."""
    ids = np.random.default_rng(rows).integers(-1, num + 1, rows).astype(np.int32)
    return jnp.asarray(ids)


def lora(
    base: Any, ids: jax.Array, *, rank: int = 4, outputs: int = O, num: int = NUM, seed: int = 0
) -> LoraWeight:
    return LoraWeight(
        base=base,
        a=jnp.asarray(random(seed + 10, num, I, rank) / 10),
        b=jnp.asarray(random(seed + 20, num, rank, outputs)),
        scales=jnp.arange(1.0, num + 1),
        ids=ids,
    )


def int8(seed: int) -> PackedLinear:
    padded = -(-I // INPUT_MULTIPLE) * INPUT_MULTIPLE
    tiles = -(-O // TILE)
    rng = np.random.default_rng(seed)
    return PackedLinear(
        data=jnp.asarray(rng.integers(-128, 128, (tiles, padded, TILE)).astype(np.int8)),
        scales=jnp.asarray(np.full((tiles, padded // 32, TILE), 0.015, np.float16)),
        format="int8",
        num_inputs=I,
        num_outputs=O,
        group=32,
    )


def as_bytes(x: jax.Array) -> np.ndarray:
    return np.asarray(x).view(np.uint8)


@pairwise({"isa": ISAS, "outputs": [5, 64, 150], "rank": [1, 16, 20], "dtype": DTYPES})
def test_equals_plain_jnp(isa: str, outputs: int, rank: int, dtype: str) -> None:
    rows = 19
    x = jnp.asarray(random(0, rows, I), dtype)
    base = jnp.asarray(random(1, I, outputs) / 10, dtype)
    bias = jnp.asarray(random(2, outputs), dtype)
    residual = jnp.asarray(random(3, rows, outputs), dtype)
    norm = (jnp.asarray(random(4, I), dtype), EPS)
    plain = lora(base, some_ids(rows), rank=rank, outputs=outputs)
    packed = dataclasses.replace(plain, base=pack(base))
    for options in ({}, {"norm": norm, "residual": residual}):
        found = linear(x, packed, bias, out_dtype=WIDE, **options)
        expected = linear(x, plain, bias, out_dtype=WIDE, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=3e-5)
    np.testing.assert_array_equal(
        as_bytes(linear(x, packed, bias, residual=residual)),
        as_bytes(linear(x, packed, bias, residual=residual, out_dtype=WIDE).astype(dtype)),
    )
    for gate, up in ((packed, packed), (packed, packed.base), (packed.base, packed)):
        plain_gate, plain_up = (plain if isinstance(w, LoraWeight) else base for w in (gate, up))
        found = gated_linear(x, gate, up, norm=norm).astype(WIDE)
        expected = gated_linear(x, plain_gate, plain_up, norm=norm).astype(WIDE)
        rtol = 2.0**-7 if dtype == "bfloat16" else 1e-4
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_an_adapter_have_the_bits_of_the_base(isa: str, dtype: str) -> None:
    rows = 40
    x = jnp.asarray(random(0, rows, I), dtype)
    bases = (pack(jnp.asarray(random(1, I, O) / 10, dtype)), int8(2))
    norm = (jnp.asarray(random(4, I), dtype), EPS)
    residual = jnp.asarray(random(3, rows, O), dtype)
    for ids in (some_ids(rows), jnp.full(rows, -1, jnp.int32)):
        without = np.asarray((ids < 0) | (ids >= NUM))
        adapted = tuple(lora(base, ids, seed=seed) for seed, base in enumerate(bases))
        for with_adapters, alone in (
            (
                linears(x, adapted, (None, None), norm=norm),
                linears(x, bases, (None,) * 2, norm=norm),
            ),
            (
                (gated_linear(x, *adapted, norm=norm), linear(x, adapted[0], residual=residual)),
                (gated_linear(x, *bases, norm=norm), linear(x, bases[0], residual=residual)),
            ),
        ):
            for one, other in zip(with_adapters, alone, strict=True):
                np.testing.assert_array_equal(as_bytes(one)[without], as_bytes(other)[without])
                if not without.all():
                    differs = np.any(as_bytes(one) != as_bytes(other), axis=-1)
                    assert differs[~without].all()


@pairwise({"isa": ISAS, "num_threads": THREADS, "rank": [4, 20], "dtype": DTYPES})
def test_a_row_has_the_same_bits_in_any_batch(
    isa: str, num_threads: int, rank: int, dtype: str
) -> None:
    """Whatever the rows and adapters beside it, the threads, and zeros that its rank ends with."""
    rows = 50
    x = jnp.asarray(random(0, rows, I), dtype)
    ids = some_ids(rows)
    whole = lora(pack(jnp.asarray(random(1, I, O) / 10, dtype)), ids, rank=rank)

    def run(x: jax.Array, weight: LoraWeight) -> np.ndarray:
        outs = (*linears(x, (weight, weight.base), (None, None)), gated_linear(x, weight, weight))
        return np.concatenate([as_bytes(out) for out in outs], axis=-1)

    cpu_library.start(num_threads=1)
    expected = run(x, whole)
    cpu_library.start(num_threads=num_threads)
    for first, last in ((0, 1), (1, 4), (4, 21), (21, 50)):
        part = dataclasses.replace(whole, ids=ids[first:last])
        np.testing.assert_array_equal(run(x[first:last], part), expected[first:last])
    padded = dataclasses.replace(
        whole,
        a=jnp.pad(whole.a, ((0, 0), (0, 0), (0, 9))),
        b=jnp.pad(whole.b, ((0, 0), (0, 9), (0, 0))),
    )
    np.testing.assert_array_equal(run(x, padded), expected)
    for number in range(NUM):  # alone, as it trains
        only = slice(number, number + 1)
        alone = dataclasses.replace(
            whole,
            a=whole.a[only],
            b=whole.b[only],
            scales=whole.scales[only],
            ids=jnp.zeros(rows, jnp.int32),
        )
        own = np.asarray(ids) == number
        np.testing.assert_array_equal(run(x, alone)[own], expected[own])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype: str) -> None:
    """To inputs, adapters, scales, bases and what stands around, against plain jnp."""
    rows = 12
    x = jnp.asarray(random(0, 3, rows // 3, I), dtype)
    ids = some_ids(rows, NUM - 1).reshape(3, -1)
    bases = tuple(jnp.asarray(random(seed, I, O) / 10, dtype) for seed in (1, 2))
    loras = tuple(lora(None, ids, seed=seed) for seed in (3, 4))
    adapters = tuple((each.a, each.b, each.scales) for each in loras)
    around = (
        jnp.asarray(random(5, I), dtype),
        jnp.asarray(random(6, 3, rows // 3, O), dtype),
        jnp.asarray(random(7, O), dtype),
    )
    upstream = jnp.asarray(random(8, 3, rows // 3, O))

    def loss(make: Any, x: Any, bases: Any, adapters: Any, around: Any) -> jax.Array:
        norm, residual, bias = around
        weights = tuple(
            LoraWeight(base=make(base), a=a, b=b, scales=scales, ids=ids)
            for base, (a, b, scales) in zip(bases, adapters, strict=True)
        )
        outs = [
            linear(x, weights[0], bias, residual=residual),
            gated_linear(x, *weights, (bias, None), norm=(norm, EPS)),
            *linears(x, weights, (None, bias), norm=(norm, EPS)),
        ]
        return sum((jnp.sum(out.astype(WIDE) * upstream) for out in outs), jnp.zeros(()))

    def gradients(make: Any) -> Any:
        found = jax.grad(lambda *args: loss(make, *args), argnums=(0, 1, 2, 3))
        return jax.jit(found)(x, bases, adapters, around)

    def assert_equal(found: jax.Array, expected: jax.Array) -> None:
        assert found.dtype == expected.dtype
        found, expected = found.astype(WIDE), expected.astype(WIDE)
        tolerance = 2.0**-6 if dtype == "bfloat16" else 1e-5
        assert jnp.abs(found - expected).max() <= tolerance * jnp.abs(expected).max()

    jax.tree.map(assert_equal, gradients(pack), gradients(lambda base: base))


def test_dropout_drops_the_adapters_inputs_only() -> None:
    rows = 2000
    ids = jnp.asarray([-1, *[0] * (rows - 1)], jnp.int32)
    base = pack(jnp.asarray(random(1, I, O) / 10))
    x = jnp.broadcast_to(jnp.asarray(random(0, 1, I)), (rows, I))
    whole = lora(base, ids)
    dropped = dataclasses.replace(whole, key=jax.random.key(0), dropout=0.25)
    found, expected = linear(x, dropped), linear(x, whole)
    np.testing.assert_allclose(found[0], linear(x[0], base), rtol=1e-6, atol=1e-6)
    change = np.asarray(expected[1] - expected[0])
    assert np.std(found[1:], axis=0).min() > 0
    error = np.mean(found[1:], axis=0) - np.asarray(expected[1])
    assert np.abs(error).max() < 0.1 * np.abs(change).max()


def test_what_is_refused() -> None:
    x = jnp.zeros((5, I))
    base = pack(jnp.zeros((I, O)))
    good = lora(base, jnp.zeros(5, jnp.int32))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"a": good.a[:, 1:]}, r"need a of \(3, 100, 4\) in float32 here, got \(3, 99, 4\)"),
        ({"b": good.b[:2]}, r"need b of \(3, 4, 150\) in float32 here, got \(2, 4, 150\)"),
        ({"scales": good.scales.astype(jnp.bfloat16)}, "need scales of .* in bfloat16"),
        ({"ids": good.ids[1:]}, r"need ids of \(5,\) in int32 here, got \(4,\) in int32"),
    ]
    for changes, message in bad:
        with pytest.raises(ValueError, match=message):
            linear(x, dataclasses.replace(good, **changes))
    with pytest.raises(ValueError, match="either all weights of a layer must be packed, or none"):
        linears(x, (good, jnp.zeros((I, 8))), (None, None))
