"""Few rows of quantized weights take another way than many where AMX exists, to the same bits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.expert_kernels.experts.cpu import grouped_linear
from flaxen.kernels import cpu_library
from tests.kernels.on_cpu import gated_linear, linear, linears
from tests.kernels.test_cpu_linear import QUANTIZED, activations, packed

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

WIDE = jnp.dtype(jnp.float32)


def raw(x: jax.Array) -> np.ndarray:
    return np.asarray(x).view(np.uint8)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_few_rows_have_the_bits_of_many(isa: str, kind: str) -> None:
    """Every number of rows around the few, with more tiles than are multiplied at once."""
    x = activations(40, 576, "bfloat16")
    weight, up = (packed(kind, 576, 150, seed) for seed in (1, 2))
    many, many_gated = linear(x, weight, out_dtype=WIDE), gated_linear(x, weight, up)
    for rows in range(1, 9):
        few = slice(rows, 2 * rows)
        np.testing.assert_array_equal(raw(linear(x[few], weight, out_dtype=WIDE)), raw(many[few]))
        np.testing.assert_array_equal(raw(gated_linear(x[few], weight, up)), raw(many_gated[few]))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_few_tiny_rows_have_the_bits_of_many(isa: str, kind: str) -> None:
    """Inputs from subnormal to huge numbers: their products leave float32's range at both ends."""
    sizes = np.float32(10.0) ** np.linspace(-40, 36, 36 * 64, dtype=np.float32)
    x = activations(36, 64, "float32") * np.random.default_rng(0).permutation(sizes).reshape(36, 64)
    x = x.astype(jnp.bfloat16)
    weight = packed(kind, 64, 50)
    tiny = x * jnp.asarray(1e-30, jnp.bfloat16)
    for rows in (x, tiny):
        many = linear(rows, weight, out_dtype=WIDE)
        for first in (0, 7, 35):
            few = linear(rows[first : first + 1], weight, out_dtype=WIDE)
            np.testing.assert_array_equal(raw(few[0]), raw(many[first]))


def test_weights_of_several_formats_have_the_bits_of_many(isa: str) -> None:
    """Side by side in a call; with a bfloat16 weight among them all go through tiles."""
    x = activations(40, 100, "bfloat16")
    kinds = ("int8, per channel", "float4", "float8, per channel")
    mixed = [packed(kind, 100, 50) for kind in kinds]
    for weights in (tuple(mixed), (*mixed, packed("bfloat16", 100, 50))):
        none = (None,) * len(weights)
        many, few = linears(x, weights, none), linears(x[2:5], weights, none)
        for found, expected in zip(few, many, strict=True):
            np.testing.assert_array_equal(raw(found), raw(expected[2:5]))


@pytest.mark.parametrize("kind", ["bfloat16", "int8, per channel", "int4, groups of 32, minima"])
def test_experts_of_few_rows_have_the_bits_of_many(isa: str, kind: str) -> None:
    """Some experts have few rows and others have many, in one call."""
    counts = [1, 30, 0, 6, 7, 2]
    each = [packed(kind, 100, 50, seed) for seed in range(len(counts))]
    leaves = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)
    stack = dataclasses.replace(leaves, num_experts=len(counts))
    x = activations(sum(counts), 100, "bfloat16")
    starts = np.cumsum([0, *counts]).astype(np.int32)
    found = grouped_linear(x, stack, jnp.asarray(starts))
    for expert, weight in enumerate(each):
        own = slice(starts[expert], starts[expert + 1])
        alone = linear(jnp.tile(x[own], (9, 1)), weight, out_dtype=WIDE)[: counts[expert]]
        np.testing.assert_array_equal(raw(found[own]), raw(alone))
