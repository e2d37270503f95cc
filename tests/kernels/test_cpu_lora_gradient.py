"""The C++ gradients of adapters = the products they are, in the same order on any threads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.linear import LoraWeight
from flaxen.kernels.linear.cpu_calls import lora_gradient
from tests.kernels.pairwise import ISAS, THREADS, pairwise

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

DTYPES = ("float32", "bfloat16")


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def make_case(
    sizes: tuple[int, int, int], R: int, n: int, dtype: str
) -> tuple[jax.Array, jax.Array, LoraWeight]:
    """T, I and O; rows of every adapter, of none, and of one that there is not."""
    T, I, O = sizes  # noqa: E741
    weight = LoraWeight(
        base=None,
        a=jnp.asarray(random(1, n, I, R)),
        b=jnp.asarray(random(2, n, R, O)),
        scales=jnp.arange(1.0, n + 1) / 2,
        ids=jnp.asarray(np.random.default_rng(T).integers(-1, n + 1, T).astype(np.int32)),
    )
    return jnp.asarray(random(3, T, I), dtype), jnp.asarray(random(4, T, O), dtype), weight


def expected_gradient(
    h: jax.Array, out_bar: jax.Array, weight: LoraWeight
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every adapter by itself, in float64."""
    x, y = (np.asarray(each, np.float64) for each in (h, out_bar))
    a_bars, b_bars, scales_bar = [], [], []
    for number, (a, b, scale) in enumerate(zip(weight.a, weight.b, weight.scales, strict=True)):
        a, b, own = np.asarray(a), np.asarray(b), np.asarray(weight.ids) == number
        b_bar = (x[own] @ a).T @ y[own]
        a_bars.append(x[own].T @ (y[own] @ b.T) * float(scale))
        b_bars.append(b_bar * float(scale))
        scales_bar.append(np.sum(b_bar * b))
    return np.stack(a_bars), np.stack(b_bars), np.stack(scales_bar)


def as_bytes(results: tuple[jax.Array, ...]) -> list[bytes]:
    return [np.asarray(each).tobytes() for each in results]


@pairwise(
    {
        "isa": ISAS,
        "sizes": [(1, 5, 3), (50, 100, 150), (400, 64, 33), (200, 7, 192)],
        "R": [1, 4, 8, 16, 24],
        "n": [1, 3],
        "dtype": DTYPES,
    }
)
def test_equals_the_products(
    isa: str, sizes: tuple[int, int, int], R: int, n: int, dtype: str
) -> None:
    case = make_case(sizes, R, n, dtype)
    for found, expected in zip(lora_gradient(*case), expected_gradient(*case), strict=True):
        assert found.dtype == jnp.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pairwise({"isa": ISAS, "num_threads": THREADS, "R": [4, 24], "n": [1, 3], "dtype": DTYPES})
def test_the_same_bits_with_any_threads_padding_and_rows_of_others(
    isa: str, num_threads: int, R: int, n: int, dtype: str
) -> None:
    h, out_bar, weight = make_case((300, 100, 150), R, n, dtype)
    cpu_library.start(num_threads=1)
    expected = as_bytes(lora_gradient(h, out_bar, weight))
    cpu_library.start(num_threads=num_threads)
    assert as_bytes(lora_gradient(h, out_bar, weight)) == expected

    def with_ids(ids: np.ndarray) -> LoraWeight:
        fields = {name: getattr(weight, name) for name in ("base", "a", "b", "scales")}
        return LoraWeight(**fields, ids=jnp.asarray(ids))

    ids = np.asarray(weight.ids)
    padded = (jnp.pad(each, ((0, 40), (0, 0))) for each in (h, out_bar))
    assert as_bytes(lora_gradient(*padded, with_ids(np.pad(ids, (0, 40))))) == expected
    # Alone, its rows give an adapter what they give it among those of others, in one order.
    own = ids == n - 1
    alone = lora_gradient(h[own], out_bar[own], with_ids(ids[own]))
    last = [np.asarray(each[n - 1]).tobytes() for each in lora_gradient(h, out_bar, weight)]
    assert [np.asarray(each[n - 1]).tobytes() for each in alone] == last


@pytest.mark.parametrize("T", [0, 5])
def test_without_rows_there_are_zeros(isa: str, T: int) -> None:
    h, out_bar, weight = make_case((T, 20, 30), 4, 3, "bfloat16")
    nobody = LoraWeight(
        base=None, a=weight.a, b=weight.b, scales=weight.scales, ids=jnp.full(T, -1, jnp.int32)
    )
    for found, like in zip(
        lora_gradient(h, out_bar, nobody), (weight.a, weight.b, weight.scales), strict=True
    ):
        np.testing.assert_array_equal(found, jnp.zeros_like(like))
