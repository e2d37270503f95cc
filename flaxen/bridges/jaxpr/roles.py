"""Finds the role of each parameter of a definition by following it through the trace.

Names and shapes do not tell: an attention kernel [D, H, d] is a matrix, but its bias [H, d] is not.
Deliberately does not know what roles are used for, nor how a definition is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from flaxen.bridges.jaxpr.trace import scan_parts, shape_of
from flaxen.models.attention import attend_p
from flaxen.models.param_spec import Role

# The origin of an array that varies with the tokens but comes from no parameter.
_ELSEWHERE, _ONE_HOT = -1, -2
_BROADCASTING = ("add", "broadcast_in_dim", "div", "max", "min", "mul", "select_n", "sub")
# A parameter with several uses has the first of these roles: a tied embedding is a table.
_ORDER: tuple[Role, ...] = ("table", "experts", "matrix", "vector")


@dataclass(frozen=True, kw_only=True)
class _Derivation:
    """The parameters that an array of the trace derives from, and how."""

    # The parameters whose values it contains, perhaps transposed, cast, sliced or scaled.
    leaves: frozenset[int] = frozenset()
    is_spread: bool = False  # broadcast to a larger shape, like a scale
    # The parameters (or _ELSEWHERE) that made it since the last product; empty if it does not vary
    # with the tokens.
    origins: frozenset[int] = frozenset()

    @property
    def varies(self) -> bool:
        """Whether the value depends on the tokens."""
        return bool(self.origins)

    def joined(self, other: _Derivation) -> _Derivation:
        """Merges this derivation with another's, for an array that may be either of the two."""
        return _Derivation(
            leaves=self.leaves | other.leaves,
            is_spread=self.is_spread and other.is_spread,
            origins=self.origins | other.origins,
        )


@dataclass(kw_only=True)
class _Found:
    """The uses found so far, by parameter."""

    uses: dict[int, set[Role]] = field(default_factory=dict)

    def add(self, values: Iterable[_Derivation], role: Role) -> None:
        """Records a use of the parameters in these values."""
        for value in values:
            for leaf in value.leaves:
                self.uses.setdefault(leaf, set()).add(role)


def find_roles(jaxpr: ClosedJaxpr, num_params: int) -> list[Role]:
    """The role of each parameter.

    The parameter of the last product before the logits is a table too (the unembedding), if nothing
    else contributes to the logits.

    Args:
      jaxpr: its first arguments are the parameters, all others vary; its first output is the
        logits.
      num_params: how many are parameters.
    """
    found = _Found()
    inner = jaxpr.jaxpr
    values = [_Derivation(leaves=frozenset([leaf])) for leaf in range(num_params)]
    values += [_varying(_ELSEWHERE)] * (len(inner.invars) - num_params)
    logits, *_ = _follow(found, inner, values)
    if logits.varies and min(logits.origins) >= 0:
        found.add([_Derivation(leaves=logits.origins)], "table")
    roles: list[Role] = []
    for leaf, var in zip(range(num_params), inner.invars, strict=False):
        uses = found.uses.get(leaf, set())
        has_axes = len(shape_of(var).shape) > 1  # an array with one axis is always a vector
        roles.append(next((role for role in _ORDER if role in uses and has_axes), "vector"))
    return roles


def _varying(*origins: int) -> _Derivation:
    return _Derivation(origins=frozenset(origins))


def _follow(found: _Found, jaxpr: Jaxpr, args: Sequence[_Derivation]) -> list[_Derivation]:
    """Returns what is known about a jaxpr's outputs."""
    known: dict[Any, _Derivation] = dict.fromkeys(jaxpr.constvars, _Derivation())
    known.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> _Derivation:
        return _Derivation() if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        outs = _follow_eqn(found, eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _follow_eqn(found: _Found, eqn: JaxprEqn, values: list[_Derivation]) -> list[_Derivation]:
    name = eqn.primitive.name
    if eqn.primitive is attend_p:
        return [_varying(_ELSEWHERE)]
    if name == "scan":
        return _scan(found, eqn, values)
    if name == "cond":
        branches = [_follow(found, _open(each), values[1:]) for each in eqn.params["branches"]]
        return [_union(outs) for outs in zip(*branches, strict=True)]
    for part in ("jaxpr", "call_jaxpr"):
        body = _open(eqn.params.get(part))
        if isinstance(body, Jaxpr) and len(body.invars) == len(values):
            return _follow(found, body, values)
    if not any(value.varies for value in values):
        return [_still(found, eqn, values)] * len(eqn.outvars)
    return [_mixed(found, eqn, values)] * len(eqn.outvars)


def _open(body: Any) -> Any:
    """Unwraps a jaxpr that may be closed."""
    return getattr(body, "jaxpr", body)


def _union(values: Iterable[_Derivation]) -> _Derivation:
    first, *rest = values
    for value in rest:
        first = first.joined(value)
    return first


def _scan(found: _Found, eqn: JaxprEqn, values: list[_Derivation]) -> list[_Derivation]:
    """Follows a loop repeatedly until nothing new is learned about its carried values."""
    body = _open(eqn.params["jaxpr"])
    consts, carry, inputs = scan_parts(eqn.params, values)
    while True:
        outs = _follow(found, body, [*consts, *carry, *inputs])
        joined = [old.joined(new) for old, new in zip(carry, outs, strict=False)]
        if joined == carry:
            return outs
        carry = joined


def _still(found: _Found, eqn: JaxprEqn, values: list[_Derivation]) -> _Derivation:
    """Handles an operation on parameters only, before tokens are involved."""
    name = eqn.primitive.name
    if name == "dot_general":  # two factors of an update that is added to a weight
        found.add(values, "matrix")
        return _Derivation()
    sizes = [math.prod(shape_of(atom).shape) for atom in eqn.invars]
    size = math.prod(shape_of(eqn.outvars[0]).shape)
    known = [
        replace(value, is_spread=value.is_spread or (name in _BROADCASTING and own < size))
        for value, own in zip(values, sizes, strict=True)
        if value.leaves
    ]
    if not known:
        return _Derivation()
    whole = [value for value in known if not value.is_spread]
    if whole:  # an array broadcast against a whole parameter scales or shifts it
        found.add([value for value in known if value.is_spread], "vector")
        known = whole
    return _union(known)


def _mixed(found: _Found, eqn: JaxprEqn, values: list[_Derivation]) -> _Derivation:
    """Handles an operation on tokens or on values computed from them."""
    name = eqn.primitive.name
    weights = [value for value in values if not value.varies and value.leaves]
    origins = frozenset(origin for value in values for origin in value.origins)
    if name == "eq":
        found.add(weights, "vector")
        return _varying(_ONE_HOT)
    if name in ("gather", "dynamic_slice") and not values[0].varies:
        long_axes = sum(size > 1 for size in eqn.params["slice_sizes"])
        found.add(values[:1], "table" if long_axes < 2 else "experts")
        return _varying(_ELSEWHERE)
    role: Role = "vector"
    if name == "dot_general":
        _, (batched, _) = eqn.params["dimension_numbers"]
        is_stack = batched and not any(value.is_spread for value in weights)
        role = "experts" if is_stack else "matrix"
        if origins == {_ONE_HOT}:
            role = "table"
    elif name.startswith("ragged_dot"):
        role = "experts"
    elif name == "conv_general_dilated":
        role = "matrix"
    found.add(weights, role)
    if role == "vector" and name != "dot_general":
        return _Derivation(origins=origins)
    made_by = frozenset(leaf for value in weights for leaf in value.leaves)
    return _Derivation(origins=made_by or frozenset([_ELSEWHERE]))
