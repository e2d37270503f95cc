"""GPTQ: the grid of its numbers, and the error of products that it makes smaller."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.quantizing import gptq
from flaxen.quantizing.observe import observed
from flaxen.quantizing.schemes import SCHEMES, Scheme, choose_scheme, round_to_nearest


def correlated_inputs(num_inputs: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    few = rng.standard_normal((600, num_inputs // 4))
    return few @ rng.standard_normal((num_inputs // 4, num_inputs)) + 0.1 * rng.standard_normal(
        (600, num_inputs)
    )


@pytest.mark.parametrize(("name", "gain"), [("int8", 0.7), ("int4", 0.7), ("fp8", 0.7)])
def test_products_with_the_inputs_change_less_than_by_rounding(name: str, gain: float) -> None:
    weight = np.random.default_rng(1).standard_normal((48, 192)).astype(np.float32)
    inputs = correlated_inputs(192)
    scheme = choose_scheme(name, None, {192})
    rounded = round_to_nearest(weight, scheme)
    found = gptq.quantize(weight, gptq.inputs_of(inputs.T @ inputs), scheme)

    def error(values: np.ndarray) -> float:
        return float(np.square(inputs @ (values - weight).T).sum())

    assert error(found.values) < gain * error(rounded.values)
    for each in (found, rounded):
        assert each.scales.shape == (48, 192 // 64 if name == "int4" else 1)
        assert each.numbers.min() >= scheme.lowest
        assert each.numbers.max() <= scheme.highest
        np.testing.assert_array_equal(scheme.numbers(each.values, each.spread_scales), each.numbers)


def one_by_one(weight: np.ndarray, gram: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The numbers by the paper's first form: after each column the inverse of what is left."""
    rest, scales = weight.astype(np.float64), scheme.scales(weight, np.diag(gram).astype("float32"))
    damping = gptq.DAMPING * np.diag(gram).mean() * np.eye(len(gram))
    inverse, found = np.linalg.inv(gram + damping), np.empty_like(weight)
    for column in np.argsort(-np.diag(gram)):
        scale = scales[:, column // scheme.group if scheme.group else 0]
        found[:, column] = scheme.numbers(rest[:, column].astype(np.float32), scale)
        error = (rest[:, column] - found[:, column] * scale) / inverse[column, column]
        rest -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return found


# Not of fp8: its smallest numbers lie closer than float32 adds up the errors of all columns.
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_blocks_of_columns_give_what_single_columns_give(name: str) -> None:
    weight = np.random.default_rng(4).standard_normal((7, 320)).astype(np.float32)
    inputs = correlated_inputs(320) * np.linspace(0.5, 2, 320)  # in another order than the columns
    gram, scheme = inputs.T @ inputs, choose_scheme(name, None, {320})
    found = gptq.quantize(weight, gptq.inputs_of(gram), scheme)
    np.testing.assert_array_equal(found.numbers, one_by_one(weight, gram, scheme))


def test_four_bits_clip_large_numbers_where_that_is_less_error() -> None:
    weight = np.random.default_rng(5).standard_normal((64, 128)).astype(np.float32)
    scheme = choose_scheme("int4", None, {128})
    importance = np.where(np.arange(128) == 3, np.float32(1e4), np.float32(1))

    def error(scales: np.ndarray) -> float:
        numbers = scheme.numbers(weight, scales)
        return float((np.square(numbers * scales - weight) * importance).sum())

    full = scheme.scales(weight)
    assert full.min() > 0.99 * np.abs(weight).max(axis=1).min() / 7.5
    assert error(scheme.scales(weight, importance)) < 0.5 * error(full)
    ones = np.ones_like(importance)
    assert error(scheme.scales(weight, importance)) < 0.5 * error(scheme.scales(weight, ones))


def test_inputs_that_are_not_correlated_leave_rounding() -> None:
    weight = np.random.default_rng(2).standard_normal((8, 64)).astype(np.float32)
    scheme = SCHEMES["int8"]
    found = gptq.quantize(weight, gptq.inputs_of(np.eye(64)), scheme)
    np.testing.assert_array_equal(found.numbers, round_to_nearest(weight, scheme).numbers)


def test_inputs_that_are_always_zero_get_zeros() -> None:
    gram = np.eye(64)
    gram[5, 5] = 0
    found = gptq.quantize(np.ones((4, 64), np.float32), gptq.inputs_of(gram), SCHEMES["int8"])
    assert not found.numbers[:, 5].any()
    assert found.numbers[:, 6].all()


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite on the calibration texts"):
        gptq.inputs_of(np.full((64, 64), np.nan))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("int3", None, {64}), "scheme 'int3' is not supported: use one of int8, int4, fp8"),
        (("int8", 64, {64}), "--group-size is for int4"),
        (("int4", 128, {64, 192}), "groups of 128 inputs do not divide .* 64, 192: use 64 or 32"),
        (("int4", None, {48}), "int4 needs weights whose inputs are a multiple of 32"),
        (("int4", 32, {48}), "groups of 32 .* 48: use --scheme int8 or fp8"),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(args: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_scheme(*args)


def test_inputs_are_observed_through_jits_and_casts() -> None:
    x = jnp.asarray(np.random.default_rng(3).standard_normal((5, 7, 16)), jnp.float32)
    weights = {
        name: jnp.full(shape, 0.1) for name, shape in (("b", (16, 8)), ("a", (8, 4)), ("c", (3, 3)))
    }

    @jax.jit
    def inner(weight: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("...i,io->...o", x, weight.astype(jnp.bfloat16))

    def function(weights: Any, x: jax.Array) -> Any:
        h = jax.checkpoint(inner)(weights["b"], x)
        return {"out": inner(weights["a"], jax.nn.silu(h)), "h": h}

    out, grams = observed(function, weights, x)
    expected = function(weights, x)
    jax.tree.map(np.testing.assert_array_equal, out, expected)
    assert set(grams) == {"a", "b"}  # nothing was multiplied with c
    for name, inputs in (("b", x), ("a", jax.nn.silu(expected["h"]))):
        rows = np.asarray(inputs, np.float64).reshape(35, -1)
        np.testing.assert_allclose(grams[name], rows.T @ rows, rtol=1e-5, atol=1e-5)
