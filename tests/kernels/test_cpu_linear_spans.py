"""Wide layers: sums are made in parts, so that weights stay in the cache; with the same bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.linear import reference, unpack
from flaxen.kernels.linear.reference import Operands, Options
from tests.kernels.on_cpu import gated_linear, linear
from tests.kernels.pairwise import ISAS, pairwise
from tests.kernels.test_cpu_linear import (
    DTYPES,
    activations,
    as_bytes,
    assert_close,
    magnitudes,
    packed,
)

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

# Several parts in every format but the last, whose one group of all inputs is never cut.
WIDTH = 18_464
KINDS = ["float32", "bfloat16", "int8, groups of 64, minima", "int4, groups of 32, zero",
         "int8, per channel"]  # fmt: skip


@pairwise({"isa": ISAS, "kind": KINDS, "dtype": DTYPES})
def test_parts_make_the_sum(isa: str, kind: str, dtype: str) -> None:
    num_inputs = WIDTH // 64 * 64
    weight = packed(kind, num_inputs, 70)
    x = activations(27, num_inputs, dtype)
    wide = jnp.dtype(jnp.float32)
    (expected,) = reference.linears(Operands(x, (unpack(weight),), (None,)), Options(wide))
    whole = linear(x, weight, out_dtype=wide)
    assert_close(whole, expected, magnitudes(x, weight))
    for first, last in ((0, 1), (5, 12), (26, 27)):  # in other blocks of rows
        alone = linear(x[first:last], weight, out_dtype=wide)
        assert as_bytes(alone) == as_bytes(whole[first:last])


def test_a_gate_and_many_rows(isa: str, num_threads: int) -> None:
    """More rows than are summed at once, and two weights' sums side by side."""
    num_inputs = 4128
    gate, up = (packed("bfloat16", num_inputs, 80, seed) for seed in (1, 2))
    residual = activations(400, 80, "bfloat16", seed=3)
    x = activations(400, num_inputs, "bfloat16")
    gated = gated_linear(x, gate, up)
    added = linear(x, gate, residual=residual)
    for row in (0, 191, 192, 399):
        one = slice(row, row + 1)
        assert as_bytes(gated_linear(x[one], gate, up)) == as_bytes(gated[one])
        assert as_bytes(linear(x[one], gate, residual=residual[one])) == as_bytes(added[one])
    parts = [linear(x, weight, out_dtype=jnp.dtype(jnp.float32)) for weight in (gate, up)]
    expected = jax.nn.silu(parts[0]) * parts[1]
    off = jnp.abs(gated.astype(jnp.float32) - expected) / (jnp.abs(expected) + 1e-3)
    assert float(off.max()) < 2.0**-8
