"""Eight-bit weights with eight-bit activations: within the stated rounding of the exact product; a
row's bits are its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear, unpack
from flaxen.models import byte_linear as module
from flaxen.models.byte_linear import GeluName, byte_linear
from tests.kernels.pairwise import ISAS, THREADS, pairwise

RNG = np.random.default_rng(7)
HERE = [isa for isa in ISAS if isa in module.ISAS]
pytestmark = pytest.mark.skipif(not HERE, reason="the machine has no instruction for it")


@pytest.fixture(autouse=True)
def _on_an_isa_that_has_it() -> Iterator[None]:
    before = cpu_library.isa()
    cpu_library.start(isa=HERE[0])
    yield
    cpu_library.start(isa=before)


def packed(num_inputs: int, num_outputs: int, group: int) -> PackedLinear:
    """A random weight, padded as weights of files are."""
    inputs, outputs = -(-num_inputs // 32) * 32, -(-num_outputs // 16) * 16
    data = np.zeros((outputs // 16, inputs, 16), np.int8)
    whole = RNG.integers(-127, 128, (num_inputs, num_outputs))
    for o in range(num_outputs):
        data[o // 16, :num_inputs, o % 16] = whole[:, o]
    scales = RNG.uniform(1e-3, 2e-3, (outputs // 16, inputs // (group or inputs), 16))
    return PackedLinear(
        data=jnp.asarray(data),
        scales=jnp.asarray(scales, jnp.float16),
        format="int8",
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        group=group or inputs,
    )


def run(*args: jax.Array | PackedLinear, **options: object) -> jax.Array:
    return byte_linear(*args, backend=Backend.CPU, **options)  # type: ignore[arg-type]


def inputs(
    rows: int, num_inputs: int, num_outputs: int, group: int = 32
) -> tuple[jax.Array, PackedLinear, jax.Array]:
    x = jnp.asarray(RNG.standard_normal((rows, num_inputs)), jnp.bfloat16)
    weight = packed(num_inputs, num_outputs, group)
    return x, weight, jnp.asarray(RNG.standard_normal(num_outputs), jnp.bfloat16)


@pairwise(
    {
        "num_threads": THREADS,
        "rows": [1, 5, 6, 300],
        "sizes": [(32, 16), (100, 50), (384, 1536), (1536, 40)],
        "group": [32, 0],
        "gelu": [None, "gelu", "gelu_tanh"],
        "with_residual": [True, False],
    }
)
def test_is_within_its_rounding(
    num_threads: int,
    rows: int,
    sizes: tuple[int, int],
    group: int,
    gelu: GeluName | None,
    with_residual: bool,
) -> None:
    x, weight, bias = inputs(rows, *sizes, group)
    residual = None
    if with_residual:
        residual = jnp.asarray(RNG.standard_normal((rows, sizes[1])), x.dtype)
    out = run(x, weight, bias, gelu=gelu, residual=residual)
    assert out.dtype == x.dtype
    plain = np.asarray(unpack(weight), np.float64)
    exact = np.asarray(x, np.float64) @ plain + np.asarray(bias, np.float64)
    if gelu is not None:
        exact = np.asarray(jax.nn.gelu(jnp.asarray(exact), approximate=gelu == "gelu_tanh"))
    if residual is not None:
        exact = exact + np.asarray(residual, np.float64)
    # Each activation is off by half a step, a 127th of the largest of its block, at most; GELU's
    # slope is below 1.13.
    largest = np.abs(np.asarray(x, np.float64)).max()
    limit = 1.13 * np.abs(plain).sum(axis=0) * largest / 254 + np.abs(exact) * 2.0**-8 + 1e-3
    assert (np.abs(np.asarray(out, np.float64) - exact) <= limit).all()
    assert np.corrcoef(np.asarray(out, np.float64).ravel(), exact.ravel())[0, 1] > 0.999


@pairwise({"num_threads": THREADS, "gelu": [None, "gelu"]})
def test_a_row_has_the_same_bits_in_any_batch(num_threads: int, gelu: GeluName | None) -> None:
    x, weight, bias = inputs(300, 200, 100)
    together = np.asarray(run(x, weight, bias, gelu=gelu))
    for row in (0, 5, 127, 128, 299):
        alone = np.asarray(run(x[row : row + 1], weight, bias, gelu=gelu))
        assert alone.tobytes() == together[row : row + 1].tobytes()


def test_nan_stays_in_its_row() -> None:
    x, weight, bias = inputs(4, 64, 32)
    clean = np.asarray(run(x, weight, bias), np.float32)
    dirty = np.asarray(run(x.at[2, 5].set(jnp.nan), weight, bias), np.float32)
    assert np.isnan(dirty[2]).all()
    np.testing.assert_array_equal(dirty[[0, 1, 3]], clean[[0, 1, 3]])


def test_other_weights_and_dtypes_round_nothing_more() -> None:
    x, weight, bias = inputs(3, 64, 32)
    wide, plain = x.astype(jnp.float32), unpack(weight).astype(jnp.float32)
    found = run(wide, weight, bias.astype(jnp.float32))
    np.testing.assert_allclose(found, wide @ plain + bias[None], rtol=1e-4, atol=1e-4)


def test_its_gradient_is_the_exact_products() -> None:
    x, weight, bias = inputs(3, 64, 32)
    found = jax.grad(lambda x: run(x, weight, bias, gelu="gelu").sum().astype(jnp.float32))(x)
    assert bool(jnp.isfinite(found).all())
    assert float(jnp.abs(found).max()) > 0
