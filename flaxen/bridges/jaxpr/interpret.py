"""Runs a traced definition with our attention instead of `attend`, and with our kernels.

A definition is traced to a jaxpr, whose operations run one after another, nearly all unchanged.
Loops over layers are unrolled, because each layer has its own cache, and because the compiled step
is faster. Deliberately does not know which framework the definition was written in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from flaxen.bridges.jaxpr.fused import run_pattern
from flaxen.bridges.jaxpr.patterns import Pattern, Step, find_patterns
from flaxen.bridges.jaxpr.products import dot, gather, sum_of_last
from flaxen.bridges.jaxpr.run import Normed, Run, plain
from flaxen.bridges.jaxpr.trace import scan_parts, shape_of
from flaxen.bridges.jaxpr.views import View
from flaxen.models.attention import attend_p
from flaxen.models.cache import attention_cache
from flaxen.models.model import AttentionSpec


def evaluate(run: Run, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Computes the outputs of a jaxpr: arrays, or views where it returns an input unchanged.

    Raises:
      ValueError: the definition's attention can't be served.
    """
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    return evaluate_eqns(run, _steps(jaxpr), env, jaxpr.outvars)


@functools.lru_cache(maxsize=256)
def _steps(jaxpr: Jaxpr) -> tuple[Step, ...]:
    return find_patterns(jaxpr.eqns, jaxpr.outvars)


def evaluate_eqns(
    run: Run, eqns: Sequence[Step], env: dict[Any, Any], outvars: Sequence[Any]
) -> list[Any]:
    """Like `evaluate`, for a part of a jaxpr's operations, given the values of some variables.

    Args:
      run: the current run; it is updated.
      eqns: the operations, in order.
      env: values by variable; it is updated.
      outvars: the variables to return.
    """

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else env[var]

    for eqn in eqns:
        if isinstance(eqn, Pattern):
            out = run_pattern(run, eqn, [read(var) for var in eqn.operands])
            outs = _unfused(run, eqn, env) if out is None else [out]
        else:
            outs = _run_eqn(run, eqn, [read(var) for var in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in outvars]


def _unfused(run: Run, pattern: Pattern, env: dict[Any, Any]) -> list[Any]:
    """Runs a pattern's own operations, without batching its products with others."""
    before = len(run.products)
    outs = evaluate_eqns(run, pattern.eqns, env, pattern.outvars)
    run.products[before:] = [replace(each, x=None) for each in run.products[before:]]
    return outs


def _run_eqn(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    if eqn.primitive.name != "dot_general":
        values = [plain(run, value) if isinstance(value, Normed) else value for value in values]
    has_views = any(isinstance(value, View) for value in values)
    rule = _RULES.get(eqn.primitive.name)
    if rule is not None and (has_views or attends(eqn) or _sums(run, eqn)):
        found = rule(run, eqn, values)
        if found is not None:
            return found
    elif attends(eqn):
        raise ValueError(
            f"attention inside {eqn.primitive.name} can't have a cache of its own: call it "
            "from a Python loop, or from scan, remat, jit or vmap"
        )
    values = [plain(run, value) for value in values]
    outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    if eqn.primitive.name == "reshape" and outs.shape[:2] == values[0].shape[:2]:
        run.keep_zeros(values[0], outs)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def attends(eqn: JaxprEqn) -> bool:
    """Whether an operation contains attention."""
    if eqn.primitive is attend_p:
        return True
    return any(attends(inner) for body in _bodies(eqn) for inner in body.eqns)


def _sums(run: Run, eqn: JaxprEqn) -> bool:
    """Whether an operation contains a sum whose order XLA would choose by the number of rows."""
    if eqn.primitive.name == "reduce_sum":
        return run.backend.fuses_definitions
    return any(_sums(run, inner) for body in _bodies(eqn) for inner in body.eqns)


def _bodies(eqn: JaxprEqn) -> list[Jaxpr]:
    found = []
    for value in eqn.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)  # unwraps a ClosedJaxpr
            if isinstance(each, Jaxpr):
                found.append(each)
    return found


def _attend(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    q, k, v = (plain(run, value) for value in values)
    tokens = run.token_shape
    if q.shape[-3] != tokens[-1] or math.prod(q.shape[:-3]) != math.prod(tokens[:-1]):
        raise ValueError(
            f"attention over {q.shape[:-2]} is not over the model's tokens {tokens}: only causal "
            "self-attention can be served"
        )
    window = eqn.params["window"]
    spec = AttentionSpec(window=window, scale=eqn.params["scale"], softcap=eqn.params["softcap"])
    number = len(run.specs)
    run.specs.append(attention_cache(k.shape[-2], k.shape[-1], window))
    run.num_heads.append(q.shape[-2])
    entry = run.cache[number] if run.cache else None
    kept = [leaf.dtype for leaf in jax.tree.leaves(entry)]
    if any(dtype != q.dtype for dtype in kept):
        raise ValueError(
            f"the definition's attention computes in {q.dtype}, but the engine stores keys "
            f"and values in {kept[0]}: serve it with dtype={q.dtype}, or give its modules another "
            "dtype"
        )
    q_, k_, v_ = (each.reshape(*tokens, *each.shape[-2:]) for each in (q, k, v))
    out, entry = run.attend(spec, q_, k_, v_, entry)
    run.entries.append(entry)
    out = out.reshape(q.shape)
    if run.is_token is not None and q.shape[:-2] == run.is_token.shape:
        run.mark_zeros(out)  # every `attend` returns zeros for padding
    return [out]


def _reshaped(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    found = values[0].reshape(shape_of(eqn.outvars[0]).shape)
    return None if found is None else [found]


def _broadcast(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Handles a broadcast that only adds axes of size 1, without moving the others."""
    aval = shape_of(eqn.outvars[0])
    in_order = list(eqn.params["broadcast_dimensions"]) == sorted(
        eqn.params["broadcast_dimensions"]
    )
    if math.prod(aval.shape) != math.prod(values[0].shape) or not in_order:
        return None
    return _reshaped(run, eqn, values)


def _sliced(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Handles a slice that takes one of stacked layers, as `stack[3]` in a Python loop does."""
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    shape = values[0].shape
    takes_one = stops[0] - starts[0] == 1 < shape[0]
    if not takes_one or any(starts[1:]) or tuple(stops[1:]) != shape[1:] or eqn.params["strides"]:
        return None
    found = values[0].layer(starts[0])
    return None if found is None else [found.reshape(shape_of(eqn.outvars[0]).shape)]


def _inline(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Runs the operations of a function that is called."""
    for name in ("jaxpr", "call_jaxpr"):
        if name in eqn.params:
            body = eqn.params[name]
    return _evaluate_body(run, body, values)


def _evaluate_body(run: Run, body: Any, values: list[Any]) -> list[Any]:
    """Runs a jaxpr, closed or not; jax 0.12 has one class for both."""
    return evaluate(run, getattr(body, "jaxpr", body), getattr(body, "consts", ()), values)


def _custom(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Keeps a function's custom derivative, unless the function contains attention.

    A custom rule for the ordinary derivative, such as softmax's, is dropped, so that the sum in it
    can be replaced.
    """
    is_only_a_way = eqn.primitive.name == "custom_jvp_call" and _sums(run, eqn)
    return _inline(run, eqn, values) if attends(eqn) or is_only_a_way else None


def _remat(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Keeps the definition's rematerialisation in training, which is where there is no cache."""
    if any(entry is not None for entry in run.cache):
        return _inline(run, eqn, values)
    places = [index for index, value in enumerate(values) if not isinstance(value, View)]

    def body(*arrays: Any) -> list[Any]:
        filled = list(values)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        return [plain(run, out) for out in _inline(run, eqn, filled)]

    options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
    found: list[Any] = jax.checkpoint(body, **options)(*(values[place] for place in places))
    return found


def _scan(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Unrolls a scan that contains attention; any other scan stays a loop."""
    if not attends(eqn):
        return None
    params, length = eqn.params, eqn.params["length"]
    consts, carry, inputs = scan_parts(params, values)
    num_carry, body = len(carry), params["jaxpr"]
    collected: list[list[Any]] = []
    order = range(length)
    for index in reversed(order) if params["reverse"] else order:
        each = [_slice(run, value, index) for value in inputs]
        outs = _evaluate_body(run, body, [*consts, *carry, *each])
        carry = outs[:num_carry]
        collected.append([plain(run, out) for out in outs[num_carry:]])
    if params["reverse"]:
        collected.reverse()
    return [*carry, *(jnp.stack(ys) for ys in zip(*collected, strict=True))]


def _slice(run: Run, value: Any, index: int) -> Any:
    if isinstance(value, View):
        found = value.layer(index)
        if found is not None:
            return found
        value = plain(run, value)
    return jax.lax.index_in_dim(value, index, keepdims=False)


_Rule = Callable[[Run, JaxprEqn, list[Any]], list[Any] | None]
_RULES: dict[str, _Rule] = {
    attend_p.name: _attend,
    "broadcast_in_dim": _broadcast,
    "checkpoint": _remat,
    "closed_call": _inline,
    "convert_element_type": lambda run, eqn, values: [values[0].cast(eqn.params["new_dtype"])],
    "copy": lambda run, eqn, values: values,
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
    "dot_general": dot,
    "expand_dims": _reshaped,
    "gather": gather,
    "jit": _inline,
    "pjit": _inline,
    "reduce_sum": sum_of_last,
    "remat2": _remat,
    "reshape": _reshaped,
    "scan": _scan,
    "slice": _sliced,
    "squeeze": _reshaped,
    "transpose": lambda run, eqn, values: [values[0].transpose(eqn.params["permutation"])],
}
