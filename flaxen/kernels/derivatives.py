"""Higher derivatives: a kernel's call is differentiated like its reference in plain jnp.

A kernel's gradient is another kernel, by jax.custom_vjp. JAX can't differentiate either call. For a
gradient of a gradient, or a Hessian-vector product, it differentiates the reference instead
(decision 0165). Deliberately does not know any kernel.
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
    """Calls kernel(*args, *options); its derivatives, of any order and mode, are the reference's.

    Args:
      kernel: a function that calls C++.
      reference: computes the same in plain jnp, with the same output tree and dtypes.
      args: trees of arrays.
      options: static arguments, which are not arrays.
    """
    run = jax.custom_jvp(lambda *args: kernel(*args, *options))

    def derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        _, tangent = jax.jvp(lambda *args: reference(*args, *options), primals, tangents)
        return run(*primals), tangent

    run.defjvp(derivative)
    return run(*args)
