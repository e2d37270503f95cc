"""The C++ linear layers = the reference; a row's bits are its own; gradients; NaN; padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.linear import reference, unpack
from flaxen.kernels.linear.packed import INPUT_MULTIPLE, TILE, Format, PackedLinear
from flaxen.kernels.linear.reference import Operands, Options
from tests.kernels.on_cpu import embed, gated_linear, linear, linears, pack, rms_norm
from tests.kernels.pairwise import ISAS, THREADS, pairwise

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

EPS = 1e-5
DTYPES = ("float32", "bfloat16")
# A sum of n float32 products in another order differs by a few roundings of the sum of their
# magnitudes. bfloat16 activations are exact in float32, so they add nothing where the result is
# float32.
ROUNDINGS = 1e-5
# Name: format, inputs in a group (0: all), zero, minima, dtype of scales.
KINDS: dict[str, tuple[Format, int, int, bool, str]] = {
    "float32": ("float32", 0, 0, False, ""),
    "bfloat16": ("bfloat16", 0, 0, False, ""),
    "int8, groups of 32": ("int8", 32, 0, False, "float16"),
    "int8, groups of 64, minima": ("int8", 64, 3, True, "float32"),
    "int8, per channel": ("int8", 0, 0, False, "float32"),
    "int4, groups of 32, zero": ("int4", 32, 8, False, "float16"),
    "int4, groups of 32, minima": ("int4", 32, 0, True, "float16"),
    "int4, groups of 32, wide minima": ("int4", 32, 0, True, "float32"),
    "int4, groups of 64, zero": ("int4", 64, 8, False, "float32"),
    "int4, per channel, zero and minima": ("int4", 0, 8, True, "float32"),
    "float8, per channel": ("float8", 0, 0, False, "float32"),
    "float8, groups of 64": ("float8", 64, 0, False, "float32"),
    "float4": ("float4", 32, 0, False, "uint8"),
}
QUANTIZED = [kind for kind in KINDS if kind not in DTYPES]


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def activations(rows: int, width: int, dtype: str, seed: int = 0) -> jax.Array:
    return jnp.asarray(random(seed, rows, width), dtype)


def packed(kind: str, num_inputs: int, num_outputs: int, seed: int = 1) -> PackedLinear:
    """A random weight of about unit variance."""
    format, group, zero, has_mins, scale_dtype = KINDS[kind]
    if format in DTYPES:
        return pack(jnp.asarray(random(seed, num_inputs, num_outputs), format))
    rng = np.random.default_rng([seed, num_inputs, num_outputs])
    rows = -(-num_inputs // INPUT_MULTIPLE) * INPUT_MULTIPLE
    group = group or rows
    tiles = -(-num_outputs // TILE)
    if format == "int8":
        data = rng.integers(-128, 128, (tiles, rows, TILE)).astype(np.int8)
        size = 0.015
    elif format == "float8":
        data = rng.integers(0, 256, (tiles, rows // 2, TILE, 2)).astype(np.uint8)
        data[data & 127 == 127] = 0  # NaN
        size = 0.01
    else:
        data = rng.integers(0, 1 << 32, (tiles, rows // 8, TILE), dtype=np.uint32)
        size = 0.15
    shape = (tiles, rows // group, TILE)
    scales = (size * rng.uniform(0.5, 1.5, shape)).astype(scale_dtype)
    if format == "float4":
        scales = rng.integers(122, 128, shape).astype(np.uint8)
    return PackedLinear(
        data=jnp.asarray(data),
        scales=jnp.asarray(scales),
        mins=jnp.asarray(rng.standard_normal(shape).astype(scale_dtype)) if has_mins else None,
        format=format,
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        group=group,
        zero=zero,
    )


def fits(kind: str, num_inputs: int) -> bool:
    """Whether the padded inputs are whole groups."""
    return KINDS[kind][1] != 64 or num_inputs > INPUT_MULTIPLE


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


def assert_close(found: jax.Array, expected: jax.Array, magnitudes: np.ndarray) -> None:
    assert found.shape == expected.shape
    off = np.abs(np.asarray(found, np.float32) - np.asarray(expected, np.float32))
    assert (off <= ROUNDINGS * magnitudes).all(), f"off by up to {(off / magnitudes).max()}"


def magnitudes(x: jax.Array, weight: PackedLinear) -> np.ndarray:
    """What a sum may have gone through: zero and minima may have cancelled."""
    largest = np.abs(np.asarray(unpack(weight), np.float32)).max()
    inputs = np.abs(np.asarray(x, np.float32))
    size = inputs.sum(axis=1, keepdims=True)
    if weight.format in ("int8", "int4", "float4") and x.dtype == jnp.bfloat16:
        # Decision 0053: each input is off by half a step, 2^-16 of the largest of its 32 at most.
        blocks = np.pad(inputs, ((0, 0), (0, -inputs.shape[1] % 32))).reshape(len(inputs), -1, 32)
        size += 32 * 2.0**-16 / ROUNDINGS * blocks.max(axis=2).sum(axis=1, keepdims=True)
    return size * largest + 1e-6


# ---- The reference -------------------------------------------------------------------------------


@pairwise({"isa": ISAS, "num_inputs": [8, 100, 576], "kind": KINDS, "dtype": DTYPES})
def test_equals_the_reference(isa: str, num_inputs: int, kind: str, dtype: str) -> None:
    if not fits(kind, num_inputs):
        pytest.skip("the inputs are no whole group")
    all_rows = activations(70, num_inputs, dtype)
    for num_outputs in (5, 16, 50, 130):
        weight = packed(kind, num_inputs, num_outputs)
        operands = Operands(all_rows, (unpack(weight),), (None,))
        (expected,) = reference.linears(operands, Options(jnp.dtype(jnp.float32)))
        for rows in (1, 2, 3, 5, 17, 70) if num_outputs == 130 else (19,):
            x = all_rows[:rows]
            found = linear(x, weight, out_dtype=jnp.dtype(jnp.float32))
            assert found.dtype == jnp.float32
            assert_close(found, expected[:rows], magnitudes(x, weight))


@pairwise({"isa": ISAS, "kind": KINDS, "dtype": DTYPES})
def test_what_stands_around_equals_the_reference(isa: str, kind: str, dtype: str) -> None:
    """Norm, bias, residual, gate: to the sums' tolerance in float32."""
    num_inputs, num_outputs, rows = 100, 50, 9
    x = activations(rows, num_inputs, dtype)
    gate, up = (packed(kind, num_inputs, num_outputs, seed) for seed in (1, 2))
    biases = tuple(jnp.asarray(random(seed, num_outputs), dtype) for seed in (3, 4))
    residual = activations(rows, num_outputs, dtype, seed=5)
    norm = jnp.asarray(random(6, num_inputs), dtype)
    wide = jnp.dtype(jnp.float32)
    size = magnitudes(x, gate)

    operands = Operands(x, (gate,), biases[:1], residual=residual)
    (expected,) = reference.linears(operands, Options(wide))
    found = linear(x, gate, biases[0], residual=residual, out_dtype=wide)
    assert_close(found, expected, size)

    # The norm rounds to x's dtype, and that of the op by itself does so in the same way.
    normed = rms_norm(x, norm, EPS)
    assert as_bytes(linear(x, gate, norm=(norm, EPS), out_dtype=wide)) == as_bytes(
        linear(normed, gate, out_dtype=wide)
    )

    expected = linears(normed, (gate, up), biases)
    found_both = linears(x, (gate, up), biases, norm=(norm, EPS))
    for one, other in zip(found_both, expected, strict=True):
        assert as_bytes(one) == as_bytes(other)

    x32 = x.astype(wide)
    biases32 = tuple(bias.astype(wide) for bias in biases)
    operands = Operands(x32, (gate, up), biases32)
    (expected,) = reference.linears(operands, Options(wide, gated=True))
    wide_gated = cpu_linears(x, (gate, up), biases, gated=True, out_dtype=wide)
    # Either factor's error is multiplied by the other's size.
    assert_close(wide_gated, expected, size * magnitudes(x, up) + size)
    assert as_bytes(gated_linear(x, gate, up, biases)) == as_bytes(wide_gated.astype(dtype))


def cpu_linears(
    x: jax.Array,
    weights: tuple[PackedLinear, ...],
    biases: tuple[jax.Array | None, ...],
    *,
    gated: bool,
    out_dtype: jnp.dtype,
) -> jax.Array:
    from flaxen.kernels.linear import cpu_gradients

    operands, options = Operands(x, weights, biases), Options(out_dtype, gated=gated)
    (out,) = cpu_gradients.linears(operands, options)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_rounded_once(isa: str, kind: str) -> None:
    x = activations(7, 100, "bfloat16")
    weight = packed(kind, 100, 50)
    bias, residual = jnp.asarray(random(2, 50), "bfloat16"), activations(7, 50, "bfloat16", seed=3)
    wide = linear(x, weight, bias, residual=residual, out_dtype=jnp.dtype(jnp.float32))
    narrow = linear(x, weight, bias, residual=residual)
    assert narrow.dtype == jnp.bfloat16
    assert as_bytes(narrow) == as_bytes(wide.astype(jnp.bfloat16))


@pairwise({"isa": ISAS, "num_threads": THREADS, "kind": KINDS, "dtype": DTYPES})
def test_embedding(isa: str, num_threads: int, kind: str, dtype: str) -> None:
    """Exact: at most two roundings, and those are the reference's."""
    table = packed(kind, 100, 50)  # the unembedding [D, V]
    ids = jnp.asarray([[0, 49, -1], [17, 0, 16]], jnp.int32)
    found = embed(table, ids, jnp.dtype(dtype))
    values = np.asarray(unpack(table), np.float32)
    # The product with a scale and the sum with a minimum may fuse into one rounding.
    expected = np.where(ids[..., None] >= 0, values.T[np.maximum(ids, 0)], 0)
    assert found.dtype == jnp.dtype(dtype)
    if KINDS[kind][3]:
        one_ulp = 2.0**-7 if dtype == "bfloat16" else 1e-6
        np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=one_ulp, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected.astype(dtype))
    assert embed(table, ids[:0], jnp.dtype(dtype)).shape == (0, 3, 100)


# ---- One order of reduction ----------------------------------------------------------------------


@pairwise({"isa": ISAS, "num_threads": THREADS, "kind": KINDS, "dtype": DTYPES})
def test_a_row_has_the_same_bits_in_any_batch(
    isa: str, num_threads: int, kind: str, dtype: str
) -> None:
    """Every split of the rows, with several weights and a gate, against one thread."""
    num_inputs, rows = 576, 75
    x = activations(rows, num_inputs, dtype)
    weights = tuple(packed(kind, num_inputs, size, size) for size in (130, 50, 200))
    gates = tuple(packed(kind, num_inputs, 130, seed) for seed in (1, 2))
    biases = tuple(jnp.asarray(random(3, weight.num_outputs), dtype) for weight in weights)

    def outputs(x: jax.Array) -> list[np.ndarray]:
        outs = (*linears(x, weights, biases), gated_linear(x, *gates))
        return [np.asarray(out).view(np.uint8) for out in outs]

    cpu_library.start(num_threads=1)
    expected = outputs(x)
    alone = linear(x, weights[1], biases[1])
    assert as_bytes(alone) == expected[1].tobytes()
    cpu_library.start(num_threads=num_threads)
    for splits in ((1, 3, 6, 10, 15, 22), (17, 50)):
        parts = [outputs(part) for part in jnp.split(x, splits)]
        for found, whole in zip(zip(*parts, strict=True), expected, strict=True):
            np.testing.assert_array_equal(np.concatenate(found), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_more_rows_than_fit_the_cache_at_once(isa: str, kind: str) -> None:
    x = activations(450, 1100, "bfloat16")
    weight = packed(kind, 1100, 20)
    together = np.asarray(linear(x, weight)).view(np.uint8)
    for first, last in ((0, 1), (0, 100), (333, 450)):
        part = np.asarray(linear(x[first:last], weight)).view(np.uint8)
        np.testing.assert_array_equal(part, together[first:last])


@pairwise({"isa": ISAS, "kind": KINDS, "dtype": DTYPES})
def test_tiny_and_huge_inputs(isa: str, kind: str, dtype: str) -> None:
    """The same bits in any batch too where a product or an input is near the ends of float32."""
    x = activations(9, 64, dtype) * jnp.asarray([[10.0**e] for e in range(-34, 34, 8)], dtype)
    weight = packed(kind, 64, 20)
    together = np.asarray(linear(x, weight)).view(np.uint8)
    for row in range(9):
        alone = np.asarray(linear(x[row : row + 1], weight)).view(np.uint8)
        np.testing.assert_array_equal(alone[0], together[row])


@pairwise({"isa": ISAS, "kind": KINDS, "dtype": DTYPES})
def test_zero_rows_at_the_end_are_what_they_would_be_elsewhere(
    isa: str, kind: str, dtype: str
) -> None:
    weight = packed(kind, 100, 50)
    gate = packed(kind, 100, 50, seed=7)
    bias = jnp.asarray(random(2, 50), dtype)
    residual = activations(40, 50, dtype, seed=3)
    rows = activations(40, 100, dtype).at[3:39].set(0)
    last_is_zero = rows.at[39].set(0)
    wide = jnp.dtype(jnp.float32)
    computed = linear(rows, weight, bias, residual=residual, out_dtype=wide)
    skipped = linear(last_is_zero, weight, bias, residual=residual, out_dtype=wide)
    assert as_bytes(skipped[:39]) == as_bytes(computed[:39])
    only = bias.astype(wide)[None] + residual.astype(wide)
    np.testing.assert_array_equal(skipped[3:], only[3:])
    np.testing.assert_array_equal(gated_linear(last_is_zero, gate, weight)[3:], 0)
    np.testing.assert_array_equal(linear(jnp.zeros((4, 100), dtype), weight), 0)


def test_no_rows(isa: str) -> None:
    weight = packed("int8, groups of 32", 100, 50)
    assert linear(jnp.zeros((0, 100)), weight, residual=jnp.zeros((0, 50))).shape == (0, 50)
    assert gated_linear(jnp.zeros((2, 0, 100)), weight, weight).shape == (2, 0, 50)


@pairwise({"isa": ISAS, "kind": KINDS, "dtype": DTYPES})
def test_nan_stays_in_its_row(isa: str, kind: str, dtype: str) -> None:
    x = activations(20, 100, dtype)
    weight = packed(kind, 100, 50)
    clean = np.asarray(linear(x, weight), np.float32)
    dirty = np.asarray(linear(x.at[3, 99].set(jnp.nan).at[17, 0].set(jnp.inf), weight), np.float32)
    assert np.isnan(dirty[3]).all()
    assert not np.isfinite(dirty[17]).any()
    others = [row for row in range(20) if row not in (3, 17)]
    np.testing.assert_array_equal(dirty[others], clean[others])


# ---- Gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_the_references(dtype: str) -> None:
    x = activations(5, 40, dtype)
    weights = [jnp.asarray(random(seed, 40, 24), dtype) for seed in (1, 2, 3)]
    biases = [jnp.asarray(random(seed, 24), dtype) for seed in (4, 5)]
    norm, residual = jnp.asarray(random(6, 40), dtype), activations(5, 24, dtype, seed=7)
    upstream = random(8, 5, 24)

    def loss(pack_or_not, x, weights, biases, norm, residual):  # type: ignore[no-untyped-def]
        one, gate, up = (pack_or_not(weight) for weight in weights)
        outs = [
            linear(x, one, biases[0], residual=residual),
            gated_linear(x, gate, up, (biases[1], None), norm=(norm, EPS)),
            *linears(x, (gate, up), (None, biases[0])),
        ]
        return sum(jnp.sum(out.astype(jnp.float32) * upstream) for out in outs)

    def gradients(pack_or_not):  # type: ignore[no-untyped-def]
        found = jax.grad(lambda *args: loss(pack_or_not, *args), argnums=(0, 1, 2, 3, 4))
        return jax.jit(found)(x, weights, biases, norm, residual)

    def assert_equal(found: jax.Array, expected: jax.Array) -> None:
        assert found.dtype == expected.dtype
        found, expected = (np.asarray(each, np.float32) for each in (found, expected))
        # bfloat16 sums of several gradients are rounded in between, in whatever order.
        tolerance = 2.0**-6 if dtype == "bfloat16" else 1e-5
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()

    jax.tree.map(assert_equal, gradients(pack), gradients(lambda weight: weight))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_gradients_of_quantized_layers(kind: str) -> None:
    """To the activations; and weights may be among what is differentiated."""
    weight, x = packed(kind, 100, 24), activations(5, 100, "float32")
    upstream = jnp.asarray(random(8, 5, 24))
    expected = upstream @ unpack(weight).T
    found = jax.jit(jax.grad(lambda x: jnp.sum(linear(x, weight) * upstream)))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    _, pull_back = jax.vjp(linear, x, weight)
    to_x, to_weight = pull_back(upstream)
    np.testing.assert_allclose(to_x, expected, rtol=1e-5, atol=1e-4)
    assert to_weight.data.dtype == jax.dtypes.float0
    if to_weight.scales.dtype == jax.dtypes.float0:  # exponents of powers of two
        return
    assert jnp.isfinite(to_weight.scales).all()
    assert jnp.abs(to_weight.scales).max() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_a_packed_embedding(dtype: str) -> None:
    table, ids = jnp.asarray(random(1, 40, 24), dtype), jnp.asarray([3, -1, 3, 23], jnp.int32)
    upstream = jnp.asarray(random(2, 4, 40))

    def loss(rows: jax.Array) -> jax.Array:
        return jnp.sum(rows.astype(jnp.float32) * upstream)

    found = jax.jit(jax.grad(lambda table: loss(embed(pack(table), ids, table.dtype))))(table)
    expected = jax.grad(lambda table: loss(embed(table.T, ids, table.dtype)))(table)
    assert found.dtype == table.dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(expected, np.float32), rtol=2.0**-7, atol=1e-6
    )


def test_under_vmap() -> None:
    weight, x = packed("int8, groups of 32", 100, 24), activations(12, 100, "float32")
    found = jax.vmap(lambda x: linear(x, weight))(x.reshape(3, 4, 100))
    assert as_bytes(found) == as_bytes(linear(x, weight))
    ids = jnp.asarray([[1, 2], [-1, 23]], jnp.int32)
    rows = jax.vmap(lambda ids: embed(weight, ids, jnp.dtype(jnp.float32)))(ids)
    assert as_bytes(rows) == as_bytes(embed(weight, ids, jnp.dtype(jnp.float32)))


# ---- What is refused -----------------------------------------------------------------------------


def test_sizes_that_do_not_match() -> None:
    x = activations(3, 40, "float32")
    weight, narrow = packed("bfloat16", 40, 24), packed("bfloat16", 40, 16)
    with pytest.raises(ValueError, match="a weight of 40 inputs was given 39: their sizes must"):
        linear(x[:, :39], weight)
    with pytest.raises(ValueError, match=r"must have one shape, got \(40, 24\) and \(40, 16\)"):
        gated_linear(x, weight, narrow)
    with pytest.raises(ValueError, match="either all weights of a layer must be packed, or none"):
        linears(x, (weight, jnp.zeros((40, 8))), (None, None))
    with pytest.raises(ValueError, match="only float32 and bfloat16 weights can be packed, got"):
        pack(jnp.zeros((4, 4), jnp.float16))
