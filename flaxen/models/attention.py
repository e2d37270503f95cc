"""`flaxen.attend`: attention as one op that definitions call and flaxen replaces.

In serving it becomes attention over pages, in training attention over packed segments. Called
anywhere else it is plain causal attention, so that a definition also runs without flaxen.
Deliberately does not know how it is replaced: bridges/jaxpr/interpret.py.
"""

from __future__ import annotations

import functools
import math
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.kernels.backend import Backend

attend_p = Primitive("flaxen_attend")


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Each token attends to itself and to earlier tokens of its own sequence.

    A definition calls it in place of its own attention. In serving it reads the paged KV cache, in
    training it stays within the sequences packed into a row; anywhere else it is plain causal
    attention over the axis T, with gradients.

        q, k, v = (each.reshape(B, T, N, H) for each in jnp.split(x @ qkv, 3, axis=-1))
        x = x + flaxen.attend(q, k, v).reshape(x.shape) @ out

    Args:
      q: [..., T, N, H] queries, rotated.
      k: [..., T, K, H] keys of the same tokens, rotated; N is a multiple of K.
      v: [..., T, K, H] values.
      window: the number of tokens seen, the current one included; None sees all.
      scale: multiplies the scores q . k; None is H ** -0.5.
      softcap: scores become softcap * tanh(scores / softcap); None for no cap.

    Returns:
      [..., T, N, H] in q's dtype.

    Raises:
      ValueError: the shapes do not fit together, or the window is no whole number above 0.
    """
    check_attention("flaxen.attend", q.shape, k.shape, v.shape, window)
    out: jax.Array = attend_p.bind(q, k, v, window=window, scale=scale, softcap=softcap)
    return out


Shape = tuple[int, ...]


def check_attention(name: str, q: Shape, k: Shape, v: Shape, window: int | None) -> None:
    """Refuses what attention can't compute, for every framework alike.

    Args:
      name: of the function, for the message.
      q: the shape of the queries.
      k: the shape of the keys.
      v: the shape of the values.
      window: as in `attend`.

    Raises:
      ValueError: as in `attend`.
    """
    if len(q) < 3 or k != v or q[:-2] != k[:-2] or q[-1] != k[-1]:
        raise ValueError(
            f"{name} takes q [..., T, N, H] and k, v [..., T, K, H] of the same tokens, got "
            f"{q}, {k} and {v}"
        )
    if q[-2] % k[-2]:
        raise ValueError(
            f"{q[-2]} query heads can't share {k[-2]} key heads: the first must be a multiple of "
            "the second"
        )
    if window is not None and (not isinstance(window, Integral) or window < 1):
        raise ValueError(
            f"the window of {name} must be a whole number of tokens, at least 1, got {window!r}: "
            "None sees all tokens"
        )


def _alone(q: jax.Array, k: jax.Array, v: jax.Array, **options: Any) -> jax.Array:
    """The implementation outside served and trained models: the reference."""
    rows = math.prod(q.shape[:-3])
    flat = (each.reshape(rows, *each.shape[-3:]) for each in (q, k, v))
    return causal_attention(*flat, **options, backend=Backend.REFERENCE).reshape(q.shape)


def _jvp(primals: Any, tangents: Any, **options: Any) -> Any:
    tangents = [
        ad.instantiate_zeros(tangent) if isinstance(tangent, ad.Zero) else tangent
        for tangent in tangents
    ]
    return jax.jvp(functools.partial(_alone, **options), primals, tuple(tangents))


def _batch(operands: Any, axes: Any, **options: Any) -> Any:
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    in_front = [
        jnp.broadcast_to(x[None], (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    return attend_p.bind(*in_front, **options), 0


attend_p.def_impl(jax.jit(_alone, static_argnames=("window", "scale", "softcap")))
attend_p.def_abstract_eval(lambda q, k, v, **options: q)
mlir.register_lowering(attend_p, mlir.lower_fun(_alone, multiple_results=False))
ad.primitive_jvps[attend_p] = _jvp
batching.primitive_batchers[attend_p] = _batch
