"""Runs a traced definition, with our attention in place of `attend`, and the kernels' products.

A definition is traced to a jaxpr, whose operations are run one after another: nearly all as they
are. Loops over layers are unrolled, since each layer has its own cache, and since the compiled step
is faster for it. Deliberately does not know what the definition was written in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from flaxen.kernels import native
from flaxen.kernels.linear import LoraWeight, PackedLinear, embed, linear, pack
from flaxen.models.attend import attend_p
from flaxen.models.bridges.trace import shape_of
from flaxen.models.bridges.views import Axes, View
from flaxen.models.model import Attend, CacheSpec


@dataclass(frozen=True, kw_only=True)
class Use:
    """One way in which a definition uses a parameter."""

    leaf: int
    inputs: Axes = ()
    outputs: Axes = ()
    layers: int | None = None
    kind: str = "other"  # "product", "rows" of a table, or "other"


@dataclass(kw_only=True)
class Run:
    """What is filled in while a definition is run once."""

    token_shape: tuple[int, ...]  # of what the caller gave, [T] or [B, T]
    attend: Attend
    cache: Sequence[Any]  # an entry a layer; empty: there are as many as there turn out to be
    specs: list[CacheSpec] = field(default_factory=list)  # of the layers that were run
    entries: list[Any] = field(default_factory=list)  # of the new cache
    uses: list[Use] = field(default_factory=list)


def evaluate(run: Run, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr: arrays, and views where it hands on what it got.

    Raises:
      ValueError: attention that a model can't be served with.
    """
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    return evaluate_eqns(run, jaxpr.eqns, env, jaxpr.outvars)


def evaluate_eqns(
    run: Run, eqns: Sequence[JaxprEqn], env: dict[Any, Any], outvars: Sequence[Any]
) -> list[Any]:
    """As `evaluate`, of some of a jaxpr's operations and from the values of some of its variables.

    Args:
      run: is filled in.
      eqns: in their order.
      env: values by variable; is filled in.
      outvars: what is asked for.
    """

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else env[var]

    for eqn in eqns:
        outs = _run_eqn(run, eqn, [read(var) for var in eqn.invars])
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in outvars]


def _run_eqn(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    has_views = any(isinstance(value, View) for value in values)
    rule = _RULES.get(eqn.primitive.name)
    if rule is not None and (has_views or attends(eqn) or _sums(eqn)):
        found = rule(run, eqn, values)
        if found is not None:
            return found
    elif attends(eqn):
        raise ValueError(
            f"attention inside of {eqn.primitive.name} can't be given a cache of its own: call it "
            "from Python's loops, or from scan, remat, jit or vmap"
        )
    values = [plain(run, value) for value in values]
    outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def attends(eqn: JaxprEqn) -> bool:
    """Whether there is attention in an operation."""
    if eqn.primitive is attend_p:
        return True
    return any(attends(inner) for body in _bodies(eqn) for inner in body.eqns)


def _sums(eqn: JaxprEqn) -> bool:
    """Whether there is a sum in an operation whose order XLA would choose by the number of rows."""
    if eqn.primitive.name == "reduce_sum":
        return native.is_enabled()
    return any(_sums(inner) for body in _bodies(eqn) for inner in body.eqns)


def _bodies(eqn: JaxprEqn) -> list[Jaxpr]:
    found = []
    for value in eqn.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)  # of a ClosedJaxpr
            if isinstance(each, Jaxpr):
                found.append(each)
    return found


def plain(run: Run, value: Any) -> Any:
    """An array, also of a view; then the parameter can't be packed."""
    if not isinstance(value, View):
        return value
    run.uses.append(Use(leaf=value.leaf))
    return value.array()


def _attend(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    q, k, v = (plain(run, value) for value in values)
    tokens = run.token_shape
    if q.shape[-3] != tokens[-1] or math.prod(q.shape[:-3]) != math.prod(tokens[:-1]):
        raise ValueError(
            f"attention over {q.shape[:-2]} is not over the model's tokens {tokens}: only causal "
            "self-attention can be served"
        )
    window = eqn.params["window"]
    spec = CacheSpec(
        kind="full" if window is None else "sliding",
        num_kv_heads=k.shape[-2],
        head_dim=k.shape[-1],
        window=window,
        scale=eqn.params["scale"],
        softcap=eqn.params["softcap"],
    )
    number = len(run.specs)
    run.specs.append(spec)
    entry = run.cache[number] if run.cache else None
    kept = [leaf.dtype for leaf in jax.tree.leaves(entry)]
    if any(dtype != q.dtype for dtype in kept):
        raise ValueError(
            f"the definition's attention computes in {q.dtype}, and the engine was to keep keys "
            f"and values in {kept[0]}: serve it with dtype={q.dtype}, or give its modules another "
            "dtype"
        )
    q_, k_, v_ = (each.reshape(*tokens, *each.shape[-2:]) for each in (q, k, v))
    out, entry = run.attend(spec, q_, k_, v_, entry)
    run.entries.append(entry)
    return [out.reshape(q.shape)]


def _dot(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    (contracted, batched) = eqn.params["dimension_numbers"]
    is_weight = [isinstance(value, View) for value in values]
    if all(is_weight) or batched[0]:
        return None
    weight, x = (0, 1) if is_weight[0] else (1, 0)
    view, array = values[weight], values[x]
    summed = contracted[weight]
    free = [axis for axis in range(len(view.axes)) if axis not in summed]
    inputs = tuple(axis for each in summed for axis in view.axes[each])
    outputs = tuple(axis for each in free for axis in view.axes[each])
    run.uses.append(
        Use(leaf=view.leaf, inputs=inputs, outputs=outputs, layers=view.layers, kind="product")
    )
    matrix = view.matrix
    if matrix is None:
        values = [value.array() if isinstance(value, View) else value for value in values]
        return [eqn.primitive.bind(*values, **eqn.params)]
    in_order = _ordered(summed, view, matrix.inputs)
    out_order = _ordered(free, view, matrix.outputs)
    if in_order is None or out_order is None or array.dtype != view.dtype:
        return None
    x_summed = [contracted[x][list(summed).index(axis)] for axis in in_order]
    x_free = [axis for axis in range(array.ndim) if axis not in x_summed]
    rows = array.transpose(*x_free, *x_summed)
    lead = rows.shape[: len(x_free)]
    rows = rows.reshape(*lead, -1)
    if isinstance(view.source, LoraWeight):
        rows = rows.reshape(*view.source.ids.shape, -1)
    out = linear(rows, view.source, out_dtype=shape_of(eqn.outvars[0]).dtype)
    out = out.reshape(*lead, *(view.shape[axis] for axis in out_order))
    back = [len(lead) + out_order.index(axis) for axis in free]
    lead_axes = list(range(len(lead)))
    return [out.transpose(*back, *lead_axes) if weight == 0 else out.transpose(*lead_axes, *back)]


def _ordered(axes: Sequence[int], view: View, wanted: Axes) -> list[int] | None:
    """A view's axes in an order in which the parameter's are as wanted; None: there is none."""
    named = [axis for axis in axes if view.axes[axis]]
    if any(view.axes[axis][0] not in wanted for axis in named):
        return None
    named.sort(key=lambda axis: wanted.index(view.axes[axis][0]))
    if tuple(each for axis in named for each in view.axes[axis]) != wanted:
        return None
    return [*named, *(axis for axis in axes if not view.axes[axis])]


def _gather(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Rows of a table, by the ids of tokens."""
    table, indices = values
    numbers = eqn.params["dimension_numbers"]
    if not isinstance(table, View) or isinstance(indices, View) or len(table.axes) != 2:
        return None
    takes_rows = (
        numbers.start_index_map == numbers.collapsed_slice_dims == (0,)
        and numbers.offset_dims == (indices.ndim - 1,)
        and not numbers.operand_batching_dims
        and tuple(eqn.params["slice_sizes"]) == (1, table.shape[1])
    )
    if not takes_rows:
        return None
    run.uses.append(Use(leaf=table.leaf, inputs=table.axes[1], outputs=table.axes[0], kind="rows"))
    matrix = table.matrix
    if matrix is None:
        return [eqn.primitive.bind(table.array(), indices, **eqn.params)]
    fits = (matrix.inputs, matrix.outputs) == (table.axes[1], table.axes[0])
    if not fits or not isinstance(table.source, PackedLinear):
        return None
    return [embed(table.source, indices[..., 0], table.dtype)]


def _sum(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """A sum over the last axes, such as a norm's: by a product with ones, in one order for any
    number of rows."""
    x = plain(run, values[0])
    axes = sorted(eqn.params["axes"])
    is_float = x.dtype in (jnp.float32, jnp.bfloat16)
    if not is_float or not axes or axes != list(range(x.ndim - len(axes), x.ndim)):
        return [eqn.primitive.bind(x, **eqn.params)]
    lead = x.shape[: axes[0]]
    size = math.prod(x.shape[axes[0] :])
    ones = pack(jnp.ones((size, 1), x.dtype))
    rows = x.reshape(math.prod(lead), size)
    return [linear(rows, ones, out_dtype=x.dtype).reshape(lead)]


def _reshaped(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    found = values[0].reshape(shape_of(eqn.outvars[0]).shape)
    return None if found is None else [found]


def _broadcast(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Only to more axes of size 1, in the same order."""
    aval = shape_of(eqn.outvars[0])
    in_order = list(eqn.params["broadcast_dimensions"]) == sorted(
        eqn.params["broadcast_dimensions"]
    )
    if math.prod(aval.shape) != math.prod(values[0].shape) or not in_order:
        return None
    return _reshaped(run, eqn, values)


def _inline(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Of a function in a function: its operations."""
    for name in ("jaxpr", "call_jaxpr"):
        if name in eqn.params:
            body = eqn.params[name]
    consts = getattr(body, "consts", ())
    return evaluate(run, getattr(body, "jaxpr", body), consts, values)


def _custom(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Keeps the derivative that a function brings with it, unless there is attention in it.

    One that is only another way to the same derivative, as softmax's, goes for a sum's sake.
    """
    is_only_a_way = eqn.primitive.name == "custom_jvp_call" and _sums(eqn)
    return _inline(run, eqn, values) if attends(eqn) or is_only_a_way else None


def _remat(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Keeps what the definition says of memory where gradients are computed: there is no cache."""
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
    """Unrolls a loop over layers; another stays one."""
    if not attends(eqn):
        return None
    params = eqn.params
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry = values[:num_consts], values[num_consts : num_consts + num_carry]
    inputs = values[num_consts + num_carry :]
    body = params["jaxpr"]
    collected: list[list[Any]] = []
    order = range(length)
    for index in reversed(order) if params["reverse"] else order:
        each = [_slice(run, value, index) for value in inputs]
        outs = evaluate(run, body.jaxpr, body.consts, [*consts, *carry, *each])
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
    "dot_general": _dot,
    "expand_dims": _reshaped,
    "gather": _gather,
    "jit": _inline,
    "pjit": _inline,
    "reduce_sum": _sum,
    "remat2": _remat,
    "reshape": _reshaped,
    "scan": _scan,
    "squeeze": _reshaped,
    "transpose": lambda run, eqn, values: [values[0].transpose(eqn.params["permutation"])],
}
