"""Finds operations in a definition's jaxpr that one of our fused kernels computes at once.

The patterns are those that our decoder uses too: an RMS norm, a SiLU gate, a residual added to a
product, rotary embedding. One more is a product that goes into a sum: depending on the shape, XLA
may fuse the two into one multiply-add, which rounds once instead of twice. Deliberately does not
know how a pattern is run, or whether it can be: fused.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from flaxen.bridges.jaxpr.graph import (
    Graph,
    OtherError,
    flat,
    is_var,
    needed,
    number,
    require,
    sides,
)

Match = tuple[str, tuple[Any, ...], float]  # the kind, operands and eps of a Pattern


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern:
    """A group of operations, with what is needed to run them fused or one by one."""

    kind: str  # a key of fused.py's rules
    operands: tuple[Any, ...]  # the variables that the rule takes, in order
    eqns: tuple[JaxprEqn, ...]  # the operations, in order; the last one makes the output
    eps: float = 0.0  # a norm's epsilon

    @property
    def invars(self) -> list[Any]:
        """All variables that are read from outside."""
        made = set(itertools.chain.from_iterable(eqn.outvars for eqn in self.eqns))
        return [var for eqn in self.eqns for var in eqn.invars if is_var(var) and var not in made]

    @property
    def products(self) -> list[JaxprEqn]:
        """The operations that are products with parameters."""
        return [eqn for eqn in self.eqns if eqn.primitive.name == "dot_general"]

    @property
    def outvars(self) -> list[Any]:
        """The one output."""
        outvars: list[Any] = self.eqns[-1].outvars
        return outvars


Step = JaxprEqn | Pattern


def find_patterns(eqns: Sequence[JaxprEqn], outvars: Sequence[Any]) -> tuple[Step, ...]:
    """Replaces operations by the patterns that they match.

    Args:
      eqns: the operations, in order. Function calls are inlined.
      outvars: the outputs; operations that they do not depend on are dropped.
    """
    whole = list(flat(eqns, {}))
    graph = Graph(whole, outvars)
    return needed([_pattern(graph, eqn) or eqn for eqn in whole], outvars)


def _norm(graph: Graph, weight: Any, normed: Any) -> Match:
    """weight * round(x / sqrt(mean(x^2) + eps)), the norm in float32: [x, weight]."""
    dtype = normed.aval.dtype
    vector = graph.vector(weight)
    if dtype != jnp.float32:
        normed = graph.made(normed, "convert_element_type").invars[0]
    wide, scale = graph.made(normed, "mul").invars
    if scale.aval.shape[-1:] != (1,):
        wide, scale = scale, wide
    require(wide.aval.dtype == jnp.float32 and vector.aval.ndim == 1)
    require(wide.aval.shape[-1:] == vector.aval.shape)
    (D,) = vector.aval.shape
    shifted, eps = graph.made(graph.made(scale, "rsqrt").invars[0], "add").invars
    mean, size = graph.made(shifted, "div").invars
    added = number(eps)
    if number(size) != D or added is None:
        raise OtherError
    (narrow,) = graph.made(mean, "broadcast_in_dim", "reshape").invars
    total = graph.made(narrow, "reduce_sum")
    require(tuple(total.params["axes"]) == (wide.aval.ndim - 1,))
    require(mean.aval.shape == (*narrow.aval.shape, 1))
    _require_square(graph.made(total.invars[0], "integer_pow", "mul", "pow", "square"), wide)
    x = wide
    if dtype != jnp.float32:
        x = graph.made(wide, "convert_element_type").invars[0]
    require(x.aval.dtype == dtype)
    return "norm", (x, vector), added


def _require_square(eqn: JaxprEqn, of: Any) -> None:
    name, (base, *power) = eqn.primitive.name, eqn.invars
    require(base is of)
    if name == "mul":
        require(power[0] is of)
    elif name == "pow":
        require(number(power[0]) == 2)
    elif name == "integer_pow":
        require(eqn.params["y"] == 2)


def _gated(graph: Graph, gated: Any, up: Any) -> Match:
    """silu(x @ gate) * (x @ up): [x, gate, up]."""
    require(graph.num_uses(gated) == 1)
    for gate, share in sides(graph.made(gated, "mul")):
        if graph.is_made(share, "logistic"):
            require(graph.made(share, "logistic").invars[0] is gate and graph.num_uses(share) == 1)
            one, other = graph.product(gate, 2), graph.product(up, 1)
            require(one.invars[0] is other.invars[0])
            require(one.params["dimension_numbers"] == other.params["dimension_numbers"])
            return "gated", (one.invars[0], one.invars[1], other.invars[1]), 0.0
    raise OtherError


def _residual(graph: Graph, x: Any, branch: Any) -> Match:
    """x + h @ weight: [h, weight, x]."""
    require(x.aval.shape == branch.aval.shape)
    product = graph.product(graph.once(branch), 1)
    return "residual", (*product.invars, x), 0.0


def _rope(graph: Graph, first: Any, second: Any) -> Match:
    """x * cos + concatenate(-x2, x1) * sin where x is x1, x2: [x, cos, sin]."""
    unscaled = graph.factor(second, 1.0)
    second = second if unscaled is None else unscaled
    turned, sin = graph.made(second, "mul").invars
    halves = graph.made(turned, "concatenate")
    require(len(halves.invars) == 2)
    minus, head = halves.invars
    tail = graph.factor(minus, -1.0)
    if tail is None:
        tail = graph.made(minus, "neg").invars[0]
    parts = [graph.made(head, "slice"), graph.made(tail, "slice")]
    x, cos = graph.made(first, "mul").invars
    require(x.aval.shape == turned.aval.shape)
    H, ndim = x.aval.shape[-1], x.aval.ndim
    for part, start in zip(parts, (0, H // 2), strict=True):
        require(part.invars[0] is x and part.outvars[0].aval.shape == (*x.aval.shape[:-1], H // 2))
        require(tuple(part.params["start_indices"]) == (*(0,) * (ndim - 1), start))
        require(part.params["strides"] is None)
    require(graph.is_doubled(cos) and graph.is_doubled(sin))
    require(cos.aval.shape == sin.aval.shape)
    return "rope", (x, cos, sin), 0.0


_MATCHES: dict[str, Sequence[Callable[[Graph, Any, Any], Match]]] = {
    "mul": (_norm, _gated),
    "add": (_residual, _rope),
}


def _pattern(graph: Graph, root: JaxprEqn) -> Pattern | None:
    """The pattern whose last operation is `root`, or None."""
    for match, place in itertools.product(_MATCHES.get(root.primitive.name, ()), (0, 1)):
        graph.found = [root]
        try:
            kind, operands, eps = match(graph, *sides(root)[place])
        except OtherError:
            continue
        eqns = {graph.order[id(eqn)]: eqn for eqn in graph.found}
        ordered = tuple(eqns[place] for place in sorted(eqns))
        return Pattern(kind=kind, operands=operands, eqns=ordered, eps=eps)
    if _is_rounded(graph, root):
        return Pattern(kind="rounded", operands=tuple(root.invars), eqns=(root,))
    return None


def _is_rounded(graph: Graph, eqn: JaxprEqn) -> bool:
    """Whether an operation is a product that goes into a sum and is rounded."""
    out: Any = eqn.outvars[0]
    if eqn.primitive.name not in ("integer_pow", "mul", "square"):
        return False
    factors = [abs(value) for each in eqn.invars if (value := number(each))]
    is_exact = any(math.frexp(factor)[0] == 0.5 for factor in factors)  # a power of two is exact
    is_float = jnp.issubdtype(out.aval.dtype, jnp.floating)
    return is_float and not is_exact and graph.is_summed(out)
