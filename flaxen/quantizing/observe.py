"""Observes what a function multiplies its weights with, without changing the function.

The function is traced to a jaxpr, which is run operation by operation within the caller's trace;
where a weight meets a product, the gram matrix of the other operand is kept. Deliberately does not
know models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

Names = dict[core.Var, str]  # the weights among the variables of a jaxpr
Grams = dict[str, jax.Array]

# Operations that call a jaxpr of their own, and the parameter that holds it.
_CALLS = {
    "pjit": "jaxpr",
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
# Operations whose result stands for the weight that they get.
_SAME = ("convert_element_type", "copy", "reduce_precision")


def observed(
    function: Callable[..., Any], weights: Mapping[str, jax.Array], *args: Any
) -> tuple[Any, Grams]:
    """Calls function(weights, *args), and sums x xᵀ over the inputs x of each weight's products.

    Args:
      function: of arrays; may contain jits.
      weights: the weights [in, out] by name.
      *args: trees of arrays.

    Returns:
      The function's result, and for each weight that was multiplied the gram matrix, float32 [in,
      in]. A weight that met no product is not in there.
    """
    flat, tree = jax.tree.flatten((dict(weights), *args))
    found: list[Any] = []

    def flat_function(*leaves: Any) -> list[Any]:
        outs, out_tree = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        found.append(out_tree)
        return outs

    closed = jax.make_jaxpr(flat_function)(*flat)
    # Dicts are flattened in the order of their names.
    names: Names = dict(zip(closed.jaxpr.invars, sorted(weights), strict=False))
    grams: Grams = {}
    outs = _run(closed, flat, names, grams)
    return jax.tree.unflatten(found[-1], outs), grams


def _run(closed: Any, args: list[Any], names: Names, grams: Grams) -> list[Any]:
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def value(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else values[var]

    def name(var: Any) -> str | None:
        return None if isinstance(var, core.Literal) else names.get(var)

    for eqn in jaxpr.eqns:
        given = [value(var) for var in eqn.invars]
        kind = eqn.primitive.name
        if kind in _CALLS:
            inner = eqn.params[_CALLS[kind]]
            inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            own = {
                var: found
                for var, outer in zip(inner.jaxpr.invars, eqn.invars, strict=True)
                if (found := name(outer)) is not None
            }
            outs = _run(inner, given, own, grams)
        else:
            if kind == "dot_general":
                _observe(eqn, [name(var) for var in eqn.invars], given, grams)
            found = eqn.primitive.bind(*given, **eqn.params)
            outs = list(found) if eqn.primitive.multiple_results else [found]
        values |= zip(eqn.outvars, outs, strict=True)
        if kind in _SAME and (same := name(eqn.invars[0])) is not None:
            names[eqn.outvars[0]] = same
    return [value(var) for var in jaxpr.outvars]


def _observe(eqn: Any, named: list[str | None], given: list[Any], grams: Grams) -> None:
    """Adds to the gram matrix of a weight that the product has as an operand."""
    contracting, _ = eqn.params["dimension_numbers"]
    for at in (0, 1):
        name = named[at]
        if name is None or tuple(contracting[at]) != (0,):
            continue
        inputs, (axis,) = given[1 - at], contracting[1 - at]
        rows = jnp.moveaxis(inputs, axis, -1).reshape(-1, inputs.shape[axis]).astype(jnp.float32)
        gram = jax.lax.dot(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
        grams[name] = grams[name] + gram if name in grams else gram
