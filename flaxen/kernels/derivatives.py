"""Derivatives of kernels: a kernel's call is differentiated like its reference in plain jnp.

A kernel's gradient is its reference's, or another kernel, by jax.custom_vjp: JAX can't
differentiate a kernel's call. For a gradient of a gradient, or a Hessian-vector product, it
differentiates the reference instead (decision 0165). Deliberately does not know any kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

Op = TypeVar("Op", bound=Callable[..., Any])


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 3))
def with_gradient(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    args: tuple[Any, ...],
    options: tuple[Any, ...] = (),
) -> Any:
    """Calls kernel(*args, *options). The reference's gradient is its gradient, of any order.

    A backward pass computes the reference again, so that only the arguments are kept for it.

    Args:
      kernel: as in `call`, like the others; a function of a module, so that it is always the same.
      reference: computes the same in plain jnp.
      args: trees of arrays; those of integers have no gradient.
      options: static arguments, which are not arrays.
    """
    return kernel(*args, *options)


def _forward(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    args: tuple[Any, ...],
    options: tuple[Any, ...],
) -> tuple[Any, tuple[Any, ...]]:
    return call(kernel, reference, args, options), args


def _backward(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    options: tuple[Any, ...],
    args: tuple[Any, ...],
    cotangents: Any,
) -> tuple[tuple[Any, ...]]:
    _, pull_back = jax.vjp(lambda *args: reference(*args, *options), *args)
    return (pull_back(cotangents),)


with_gradient.defvjp(_forward, _backward)


def by_kernel(reference: Callable[..., Any], *, num_options: int = 0) -> Callable[[Op], Op]:
    """Makes an op of a kernel's call, with the reference's gradient, of any order.

    The kernel has float32 and bfloat16; the reference computes other dtypes of the first argument.
    Arguments are passed by their places.

    Args:
      reference: computes the same in plain jnp, and has the same parameters.
      num_options: how many of the last parameters are static, and no arrays.
    """

    def make(kernel: Op) -> Op:
        @functools.wraps(kernel)
        def op(*args: Any) -> Any:
            if args[0].dtype not in (jnp.float32, jnp.bfloat16):
                return reference(*args)
            end = len(args) - num_options
            return with_gradient(kernel, reference, args[:end], args[end:])

        return cast(Op, op)

    return make
