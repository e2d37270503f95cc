"""What is nearly what our kernels do at once, and must not be taken for it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

D, N, H = 64, 4, 16


def of(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    """Something of a shape."""
    return jnp.zeros(shape, dtype)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary embedding as transformers applies it."""
    turned = jnp.concatenate([-x[..., H // 2 :], x[..., : H // 2]], axis=-1)
    return x * cos + turned * sin


def wide_weight(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Rounded after the weight, and not before it: Gemma's."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-5)
    return (wide * scale * weight[None, None].astype(jnp.float32)).astype(x.dtype)


def narrow(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean of squares is not in float32."""
    scale = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + jnp.bfloat16(1e-5))
    return weight[None, None] * (x * scale)


def cubed(x: jax.Array, weight: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.mean(x**3, axis=-1, keepdims=True) + 1e-5)
    return weight[None, None] * (x * scale)


def of_others(x: jax.Array, weight: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.mean((x + 1) ** 2, axis=-1, keepdims=True) + 1e-5)
    return weight[None, None] * (x * scale)


def over_tokens(x: jax.Array, weight: jax.Array) -> jax.Array:
    mean = jnp.sum(x**2, axis=-2)[..., None] / D
    return weight[None, None] * (x * jax.lax.rsqrt(mean + 1e-5))


def along_tokens(x: jax.Array, weight: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
    return jax.lax.broadcast_in_dim(weight, x.shape, (1,)) * (x * scale)


def other_power(x: jax.Array, weight: jax.Array) -> jax.Array:
    power = jax.lax.pow(jnp.abs(x), jnp.full_like(x, 2.5))
    scale = jax.lax.rsqrt(jnp.mean(power, axis=-1, keepdims=True) + 1e-5)
    return weight[None, None] * (jnp.abs(x) * scale)


def summed(x: jax.Array, weight: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) / 3 + 1e-5)
    return weight[None, None] * (x * scale)


def halfway(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The norm is in float16."""
    wide = x.astype(jnp.float16)
    total = jax.lax.reduce_sum(wide**2, axes=(2,))
    scale = jax.lax.rsqrt(total[..., None] / D + jnp.float16(1e-2))
    return weight[None, None] * (wide * scale).astype(x.dtype)


def of_products(x: jax.Array, weight: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.mean(x * (x + 1), axis=-1, keepdims=True) + 1e-5)
    return weight[None, None] * (x * scale)


def given_eps(x: jax.Array, weight: jax.Array) -> jax.Array:
    mean = jnp.mean(x**2, axis=-1, keepdims=True)
    return weight[None, None] * (x * jax.lax.rsqrt(mean + weight[0]))


def scaled(x: jax.Array, weight: jax.Array) -> jax.Array:
    scale = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)
    return 3 * (x * scale)


def of_scalars(x: jax.Array, weight: jax.Array) -> jax.Array:
    one = weight[0]
    cubed = one * (one * one)
    table = jnp.concatenate([weight, weight])
    turned = jnp.concatenate([-weight, weight])
    return cubed * (cubed * (one * cubed)) + (3 * (one * turned) + turned * table)[0]


def silu_used_again(x: jax.Array, gate: jax.Array) -> jax.Array:
    gated = jax.nn.silu(x @ gate)
    return gated * (x @ (2 * gate)) + gated


def other_share(x: jax.Array, gate: jax.Array) -> jax.Array:
    gated = x @ gate
    return gated * jax.nn.sigmoid(2 * gated) * (x @ (2 * gate))


def share_used_again(x: jax.Array, gate: jax.Array) -> jax.Array:
    gated = x @ gate
    share = jax.nn.sigmoid(gated)
    return gated * share * (x @ (2 * gate)) * share


def unit_used_again(x: jax.Array, weight: jax.Array) -> jax.Array:
    branch = 1.0 * (x @ weight)
    return (x + branch) * branch


def other_axes(x: jax.Array, gate: jax.Array) -> jax.Array:
    return jax.nn.silu(x @ gate) * jnp.einsum("...I,OI->...O", x, gate)


def gate_twice(x: jax.Array, gate: jax.Array) -> jax.Array:
    return jax.nn.silu(x @ gate) * (x @ gate + 1)


def gate_used_again(x: jax.Array, gate: jax.Array) -> jax.Array:
    gated = x @ gate
    return jax.nn.silu(gated) * (x @ (2 * gate)) * gated


def two_inputs(x: jax.Array, gate: jax.Array) -> jax.Array:
    return jax.nn.silu(x @ gate) * ((x + 1) @ gate)


def branch_used_again(x: jax.Array, weight: jax.Array) -> jax.Array:
    branch = x @ weight
    return (x + branch) * branch


def broadcast_residual(x: jax.Array, weight: jax.Array) -> jax.Array:
    return x[:, :1] + x @ weight


def wide_branch(x: jax.Array, weight: jax.Array) -> jax.Array:
    return x + jnp.matmul(x, weight, preferred_element_type=jnp.float32)


def other_sines(x: jax.Array, cos: jax.Array) -> jax.Array:
    same = jnp.concatenate([cos, cos], axis=-1)
    return rotate(x, same, jnp.concatenate([cos, 2 * cos], axis=-1))


def other_cosines(x: jax.Array, cos: jax.Array) -> jax.Array:
    same = jnp.concatenate([cos, cos], axis=-1)
    return rotate(x, jnp.concatenate([cos, 2 * cos], axis=-1), same)


def other_turn(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.concatenate([cos, cos], axis=-1)
    turned = jnp.concatenate([x[..., H // 2 :], -x[..., : H // 2]], axis=-1)
    return x * table + turned * table


def unswapped(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.concatenate([cos, cos], axis=-1)
    turned = jnp.concatenate([-x[..., : H // 2], x[..., H // 2 :]], axis=-1)
    return x * table + turned * table


def strided(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.concatenate([cos, cos], axis=-1)
    head = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, 1, 1, 2))
    return x * table + jnp.concatenate([-x[..., H // 2 :], head], axis=-1) * table


def in_three(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.concatenate([cos, cos], axis=-1)
    parts = [-x[..., H // 2 :], x[..., : H // 4], x[..., H // 4 : H // 2]]
    return x * table + jnp.concatenate(parts, axis=-1) * table


def of_another(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.concatenate([cos, cos], axis=-1)
    other = x + 1
    turned = jnp.concatenate([-other[..., H // 2 :], other[..., : H // 2]], axis=-1)
    return x * table + turned * table


def two_shapes(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.concatenate([cos, cos], axis=-1)
    return rotate(x, jnp.broadcast_to(table, x.shape), table)


def interleaved(x: jax.Array, cos: jax.Array) -> jax.Array:
    table = jnp.repeat(cos, 2, axis=-1)
    return rotate(x, table, table)


NORM = of(1, 8, D), of(D)
ROUNDED = of(1, 8, D, dtype=jnp.bfloat16), of(D, dtype=jnp.bfloat16)
PRODUCT = of(1, 8, D), of(D, D)
ANGLES = of(1, 8, N, H), of(1, 8, 1, H // 2)

CASES: list[Any] = [
    (wide_weight, ROUNDED),
    (narrow, ROUNDED),
    (halfway, ROUNDED),
    *((function, NORM) for function in (cubed, of_others, of_products, summed)),
    *((function, NORM) for function in (given_eps, scaled, of_scalars)),
    *((function, (of(1, D, D), of(D))) for function in (over_tokens, along_tokens)),
    (other_power, NORM),
    *((function, PRODUCT) for function in (share_used_again, unit_used_again)),
    *((function, PRODUCT) for function in (gate_twice, gate_used_again, two_inputs)),
    *((function, PRODUCT) for function in (silu_used_again, other_share, other_axes)),
    *((function, PRODUCT) for function in (branch_used_again, broadcast_residual)),
    (wide_branch, (of(1, 8, D, dtype=jnp.bfloat16), of(D, D, dtype=jnp.bfloat16))),
    *((function, ANGLES) for function in (other_sines, other_cosines, other_turn, interleaved)),
    *((function, ANGLES) for function in (unswapped, strided, in_three, of_another)),
    (two_shapes, ANGLES),
]
