"""The router through the C++ kernel, whose sums of a row have one order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.expert_kernels.routing import reference
from flaxen.expert_kernels.routing.spec import RoutingSpec
from flaxen.kernels import cpu_library, derivatives


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def route(
    logits: jax.Array, bias: jax.Array | None, spec: RoutingSpec
) -> tuple[jax.Array, jax.Array]:
    """Like `reference.route`."""
    return _call(logits, bias, spec)


def _call(
    logits: jax.Array, bias: jax.Array | None, spec: RoutingSpec
) -> tuple[jax.Array, jax.Array]:
    shape = (logits.shape[0], spec.k)
    call = cpu_library.kernel(
        "routing",
        [jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.float32)],
    )
    ids, weights = call(
        logits,
        *(() if bias is None else (bias,)),
        is_sigmoid=np.bool_(spec.score == "sigmoid"),
        normalize=np.bool_(spec.normalize),
        num_groups=np.int64(spec.num_groups),
        groups_used=np.int64(spec.groups_used),
        group_best=np.int64(spec.group_best),
        epsilon=np.float32(spec.epsilon),
        scale=np.float32(spec.scale),
    )
    return ids, weights


def _forward(
    logits: jax.Array, bias: jax.Array | None, spec: RoutingSpec
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array | None]]:
    ids, weights = derivatives.call(_call, reference.route, (logits, bias), (spec,))
    return (ids, weights), (logits, ids, bias)


def _backward(
    spec: RoutingSpec,
    saved: tuple[jax.Array, jax.Array, jax.Array | None],
    cotangents: tuple[Any, jax.Array],  # integers have none
) -> tuple[jax.Array, jax.Array | None]:
    logits, ids, bias = saved
    _, pull_back = jax.vjp(lambda logits: reference.weights_of(logits, ids, spec), logits)
    (logits_bar,) = pull_back(cotangents[1])
    return logits_bar, None if bias is None else jnp.zeros_like(bias)


route.defvjp(_forward, _backward)
