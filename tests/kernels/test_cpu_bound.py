"""Packed weights by address = as arguments, to the bit; a bound tree is small."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.linear.bound import bind, expand
from flaxen.kernels.linear.packed import PackedLinear
from tests.kernels.on_cpu import embed, gated_linear, linears

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

INPUTS, OUTPUTS = 64, 48


def quantized(seed: int, *, has_mins: bool, scale_dtype: str) -> PackedLinear:
    rng = np.random.default_rng(seed)
    shape = (OUTPUTS // 16, INPUTS // 32, 16)
    return PackedLinear(
        data=jnp.asarray(rng.integers(-128, 128, (OUTPUTS // 16, INPUTS, 16)).astype(np.int8)),
        scales=jnp.asarray(rng.uniform(0.01, 0.02, shape).astype(scale_dtype)),
        mins=jnp.asarray(rng.standard_normal(shape).astype(scale_dtype)) if has_mins else None,
        format="int8",
        num_inputs=INPUTS,
        num_outputs=OUTPUTS,
        group=32,
    )


def params() -> dict[str, Any]:
    layer = {
        "wq": quantized(1, has_mins=True, scale_dtype="float16"),
        "wk": quantized(2, has_mins=False, scale_dtype="float32"),
        "norm": jnp.linspace(0.5, 1.5, INPUTS, dtype=jnp.bfloat16),
    }
    table = quantized(3, has_mins=True, scale_dtype="float32")
    return {"embed": table, "layers": (layer, layer), "norm": layer["norm"]}


def compute(tree: Any, x: jax.Array, ids: jax.Array) -> tuple[jax.Array, ...]:
    tree = expand(tree)
    layer = tree["layers"][1]
    pair = (layer["wq"], layer["wk"])
    outs = linears(x, pair, (None, None), norm=(layer["norm"], 1e-5))
    return *outs, gated_linear(x, *pair), embed(tree["embed"], ids, jnp.bfloat16)


def test_bound_weights_give_the_bits_of_arguments() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, INPUTS)), jnp.bfloat16)
    ids = jnp.asarray([0, OUTPUTS - 1, -1], jnp.int32)
    given = params()
    bound = bind(given)
    for jit in (False, True):
        call = jax.jit(compute) if jit else compute
        expected, found = call(given, x, ids), call(bound, x, ids)
        for one, other in zip(expected, found, strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert any(np.asarray(one, np.float32).any() for one in found)


def test_a_bound_tree_has_one_leaf_for_the_weights_of_a_dict() -> None:
    bound = bind(params())
    assert len(jax.tree.leaves(params())) == 3 + 2 * (3 + 2 + 1) + 1
    assert len(jax.tree.leaves(bound)) == 1 + 2 * (1 + 1) + 1


def test_a_tree_without_packed_weights_stays_as_it_is() -> None:
    plain = {"layers": ({"w": jnp.ones(2)},), "norm": jnp.zeros(1)}
    assert jax.tree.structure(bind(plain)) == jax.tree.structure(plain)
    assert expand(plain)["norm"] is plain["norm"]
