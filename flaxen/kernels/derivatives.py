"""Derivatives of derivatives: a kernel's call, differentiated as plain jnp.

A kernel's own gradient is another kernel, by jax.custom_vjp. Both are calls that JAX knows no
derivative of; where it wants one, for a gradient of a gradient or a Hessian times a vector, it
takes that of the reference (decision 0165). Deliberately does not know any kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def call(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    args: tuple[Any, ...],
    options: tuple[Any, ...] = (),
) -> Any:
    """kernel(*args, *options), whose derivatives, of any order and in both modes, are reference's.

    Args:
      kernel: calls C++.
      reference: computes the same in plain jnp, in the same tree and dtypes.
      args: trees of arrays.
      options: what is the same for each call, and no array.
    """
    run = jax.custom_jvp(lambda *args: kernel(*args, *options))

    def derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        _, tangent = jax.jvp(lambda *args: reference(*args, *options), primals, tangents)
        return run(*primals), tangent

    run.defjvp(derivative)
    return run(*args)
