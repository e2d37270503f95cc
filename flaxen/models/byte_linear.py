"""An encoder's linear layer: eight-bit weights meet activations of eight bits (decision 0291).

Where the CPU, the dtype or the weight is not made for that, it is `linear` and GELU, which round
nothing more. Deliberately does not know the algorithm: csrc/byte_linear.inc.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library
from flaxen.kernels.activation import activation
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear, Weight, linear
from flaxen.kernels.linear.cpu_repack import weight_fields, weight_leaves

GeluName = Literal["gelu", "gelu_tanh"]
# Only these have an instruction for it; on others 16-bit activations are as fast, or faster.
ISAS = ("avx512_bf16",)
_KINDS: Mapping[GeluName | None, int] = {None: 0, "gelu": 1, "gelu_tanh": 2}
_HAS_MINS = 4  # the place of that number among a weight's fields


def byte_linear(
    x: jax.Array,
    weight: Weight,
    bias: jax.Array,
    *,
    gelu: GeluName | None = None,
    residual: jax.Array | None = None,
    backend: Backend,
) -> jax.Array:
    """gelu(x @ weight + bias) + residual, [..., O] in x's dtype.

    Args:
      x: [..., I] activations. In the C++ kernel, which takes bfloat16 and int8 weights, each 32 of
        them are rounded to eight bits with a step of their own.
      weight: [I, O].
      bias: [O].
      gelu: which of its forms, or None for none.
      residual: [..., O] or None.
      backend: what computes.
    """
    if backend is not Backend.CPU or x.dtype != jnp.bfloat16 or not _fits(weight):
        return _exact(backend, gelu, x, weight, bias, residual)
    out: jax.Array = _run(gelu, x, weight, bias, residual)
    return out


def _fits(weight: Weight) -> bool:
    return (
        isinstance(weight, PackedLinear)
        and (weight.format, weight.zero, weight.num_experts) == ("int8", 0, 0)
        and weight.order is None
        and not weight_fields(weight)[_HAS_MINS]
        and cpu_library.isa() in ISAS
    )


def _exact(
    backend: Backend,
    gelu: GeluName | None,
    x: jax.Array,
    weight: Any,
    bias: jax.Array,
    residual: jax.Array | None,
) -> jax.Array:
    if gelu is None:
        return linear(x, weight, bias, residual=residual, backend=backend)
    out = activation(linear(x, weight, bias, backend=backend), gelu, backend=backend)
    return out if residual is None else out + residual


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
    gelu: GeluName | None,
    x: jax.Array,
    weight: Any,
    bias: jax.Array,
    residual: jax.Array | None,
) -> jax.Array:
    rows = math.prod(x.shape[:-1])
    shape = (rows, weight.num_outputs)
    call = cpu_library.kernel("byte_linear", jax.ShapeDtypeStruct(shape, x.dtype))
    fields = [*weight_fields(weight)[:-3], 1, 0, 0]  # with a bias, without adapters
    out: jax.Array = call(
        x.reshape(rows, x.shape[-1]),
        *(() if residual is None else (residual.astype(x.dtype).reshape(shape),)),
        *weight_leaves(weight),
        bias.astype(x.dtype),
        weights=np.array(fields, np.int64),
        has_residual=np.bool_(residual is not None),
        gelu=np.int64(_KINDS[gelu]),
    )
    return out.reshape(*x.shape[:-1], weight.num_outputs)


def _forward(gelu: GeluName | None, *args: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    return _run(gelu, *args), args


def _backward(gelu: GeluName | None, kept: tuple[Any, ...], gradient: jax.Array) -> Any:
    """The gradient of the exact products, as of every rounding."""
    _, pull_back = jax.vjp(functools.partial(_exact, Backend.CPU, gelu), *kept)
    return pull_back(gradient)


_run.defvjp(_forward, _backward)
