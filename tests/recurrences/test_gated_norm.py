"""The gated norm: by hand, kernel = reference, a row's bits are its own, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.recurrences.gated_norm import gated_norm
from tests.kernels.arrays import normal
from tests.kernels.pairwise import ISAS, THREADS, pairwise

EPS = 1e-5
LIMIT = {"float32": 2e-6, "bfloat16": 2.0**-7}


def inputs(rows: int, width: int, dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, gate = (normal(name, rows, width, dtype=dtype) for name in ("x", "gate"))
    return x, gate, normal("weight", width, dtype=dtype)


@pairwise(
    {
        "isa": ISAS,
        "width, group": [(12, 12), (12, 4), (64, 64), (96, 24), (20000, 10000)],
        "is_gate_first": [False, True],
        "dtype": LIMIT,
        "num_threads": THREADS,
    }
)
def test_is_the_equation_and_a_row_has_its_own_bits(
    isa: str, width: int, group: int, is_gate_first: bool, dtype: str, num_threads: int
) -> None:
    args = inputs(33, width, dtype)
    options = {"group": group, "is_gate_first": is_gate_first}
    x, gate, weight = (np.asarray(each, np.float64) for each in args)
    opened = gate / (1 + np.exp(-gate))
    before = (x * opened if is_gate_first else x).reshape(33, -1, group)
    normed = before / np.sqrt((before**2).mean(-1, keepdims=True) + EPS)
    expected = normed.reshape(x.shape) * weight * (1 if is_gate_first else opened)
    for backend in (Backend.REFERENCE, Backend.CPU):
        found = np.asarray(gated_norm(*args, EPS, **options, backend=backend), np.float32)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=LIMIT[dtype], atol=LIMIT[dtype])

    def bits(rows: slice) -> bytes:
        of_rows = (args[0][rows], args[1][rows], args[2])
        return np.asarray(gated_norm(*of_rows, EPS, **options, backend=Backend.CPU)).tobytes()  # type: ignore[arg-type]

    together = bits(slice(0, 33))
    cpu_library.start(num_threads=1)
    assert b"".join(bits(slice(row, row + 1)) for row in range(33)) == together


@pytest.mark.parametrize("is_gate_first", [False, True])
def test_its_gradient_is_the_references(is_gate_first: bool) -> None:
    def loss(backend: Backend, *args: jax.Array) -> jax.Array:
        out = gated_norm(*args, EPS, group=4, is_gate_first=is_gate_first, backend=backend)
        return jnp.sum(out * jnp.arange(36.0).reshape(3, 12))

    args = inputs(3, 12, "float32")
    expected, found = (
        jax.grad(loss, argnums=(1, 2, 3))(backend, *args)
        for backend in (Backend.REFERENCE, Backend.CPU)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


def test_groups_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be divided into groups of 5"):
        gated_norm(*inputs(2, 12, "float32"), EPS, group=5, is_gate_first=True, backend=Backend.CPU)
