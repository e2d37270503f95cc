"""The C++ rotation = the reference; a token's bits are its own; gradients; NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.rope import reference
from tests.kernels.on_cpu import apply_rope
from tests.kernels.pairwise import ISAS, THREADS, pairwise

RNG = np.random.default_rng(4)


def inputs(
    leading: tuple[int, ...], heads: int, head_dim: int, dtype: str = "float32"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = jnp.asarray(RNG.standard_normal((*leading, heads, head_dim)), dtype)
    angles = RNG.uniform(-9, 9, (*leading, 1, head_dim // 2))
    return x, *(jnp.asarray(1.2 * f(angles), jnp.float32) for f in (np.cos, np.sin))


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


@pairwise(
    {
        "isa": ISAS,
        "heads": [1, 9],
        "head_dim": [2, 16, 36, 64, 80, 128],
        "dtype": ["float32", "bfloat16"],
    }
)
def test_equals_the_reference(isa: str, heads: int, head_dim: int, dtype: str) -> None:
    x, cos, sin = map(np.asarray, inputs((64,), heads, head_dim, dtype))
    x1, x2 = np.split(x.astype(np.float64), 2, axis=-1)
    exact = np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)
    # Two products and a sum, of values up to 6: then rounded once, to the nearest.
    limit = 2e-6 + (np.abs(exact) * 2.0**-8 if dtype == "bfloat16" else np.zeros_like(exact))
    for num_tokens in (1, 2, 17, 64):
        found = apply_rope(*(jnp.asarray(y[:num_tokens]) for y in (x, cos, sin)))
        assert found.dtype == x.dtype
        error = np.abs(np.asarray(found, np.float64) - exact[:num_tokens])
        assert (error <= limit[:num_tokens]).all()


@pairwise(
    {
        "isa": ISAS,
        "num_threads": THREADS,
        "head_dim": [64, 36],
        "dtype": ["float32", "bfloat16"],
    }
)
def test_a_token_has_the_same_bits_in_any_batch(
    isa: str, num_threads: int, head_dim: int, dtype: str
) -> None:
    x, cos, sin = inputs((300,), 9, head_dim, dtype)
    together = apply_rope(x, cos, sin)
    folded = apply_rope(*(y.reshape(3, 100, *y.shape[1:]) for y in (x, cos, sin)))
    assert as_bytes(folded) == as_bytes(together)
    cpu_library.start(num_threads=1)
    assert as_bytes(apply_rope(x, cos, sin)) == as_bytes(together)
    for t in (0, 1, 63, 299):
        assert as_bytes(apply_rope(x[t], cos[t], sin[t])) == as_bytes(together[t])
        one = slice(t, t + 1)
        assert as_bytes(apply_rope(x[one, 2:3], cos[one], sin[one])) == as_bytes(together[one, 2:3])


def test_nan_stays_in_its_pair(isa: str) -> None:
    x, cos, sin = inputs((3,), 2, 12)
    found = np.isnan(apply_rope(x.at[1, 0, 4].set(jnp.nan), cos, sin))
    assert np.argwhere(found).tolist() == [[1, 0, 4], [1, 0, 10]]


def test_zeros_stay_zeros(isa: str) -> None:
    _, cos, sin = inputs((3,), 2, 12)
    np.testing.assert_array_equal(apply_rope(jnp.zeros((3, 2, 12)), cos, sin), 0)


def test_gradients_are_the_references() -> None:
    x, cos, sin = inputs((2, 5), 3, 12)
    upstream = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    def loss(rotate, *args):  # type: ignore[no-untyped-def]
        return jnp.sum(rotate(*args) * upstream)

    expected = jax.grad(loss, argnums=(1, 2, 3))(reference.apply_rope, x, cos, sin)
    found = jax.jit(jax.grad(lambda *args: loss(apply_rope, *args), argnums=(0, 1, 2)))(x, cos, sin)
    checkpointed = jax.checkpoint(lambda *args: loss(apply_rope, *args))
    again = jax.jit(jax.grad(checkpointed, argnums=(0, 1, 2)))(x, cos, sin)
    for got in (found, again):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected
        )


def test_under_vmap(isa: str) -> None:
    x, cos, sin = inputs((3, 5), 2, 12)
    assert as_bytes(jax.vmap(apply_rope)(x, cos, sin)) == as_bytes(apply_rope(x, cos, sin))
    same = jax.vmap(apply_rope, in_axes=(0, None, None))(x, cos[0], sin[0])
    assert as_bytes(same[2]) == as_bytes(apply_rope(x[2], cos[0], sin[0]))


def test_other_dtypes_go_to_the_reference() -> None:
    x, cos, sin = inputs((2,), 2, 12, "float16")
    found = apply_rope(x, cos, sin)
    assert found.dtype == jnp.float16
    np.testing.assert_array_equal(found, reference.apply_rope(x, cos, sin))


def test_tables_of_another_head_dim_are_refused() -> None:
    _, cos, sin = inputs((2,), 2, 20)
    with pytest.raises(ValueError, match="10 angles are more than half of a head of 16"):
        apply_rope(jnp.zeros((2, 2, 16)), cos, sin)


@pairwise({"isa": ISAS[:2], "head_dim": [16, 20], "interleaved": [False, True]})
def test_a_part_of_a_head_and_interleaved_pairs(isa: str, head_dim: int, interleaved: bool) -> None:
    x, cos, sin = inputs((5,), 3, head_dim)
    c, s = (np.asarray(each)[..., :6] for each in (cos, sin))  # 12 numbers of a head are rotated
    found = np.asarray(apply_rope(x, jnp.asarray(c), jnp.asarray(s), interleaved=interleaved))
    pairs = np.asarray(x)[..., :12]
    first, second = (
        (pairs[..., ::2], pairs[..., 1::2]) if interleaved else (pairs[..., :6], pairs[..., 6:])
    )
    turned = [first * c - second * s, second * c + first * s]
    expected = np.stack(turned, -1).reshape(5, 3, 12) if interleaved else np.concatenate(turned, -1)
    np.testing.assert_allclose(found[..., :12], expected, atol=2e-6)
    np.testing.assert_array_equal(found[..., 12:], np.asarray(x)[..., 12:])
