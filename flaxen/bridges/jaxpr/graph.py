"""A jaxpr's operations as a graph: which one makes a variable, and how often it is used.

Deliberately does not know which patterns are searched for: patterns.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

_CALLS = ("jit", "pjit", "closed_call")
_MOVES = (
    *("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "neg"),
    *("reshape", "slice", "squeeze", "transpose"),
)
# Operations that keep equal halves of the last axis equal; the start is concatenate(x, x).
_OF_ANGLES = ("broadcast_in_dim", "concatenate", "convert_element_type", "cos", "mul", "sin")


def needed(
    steps: Sequence[Any], outputs: Sequence[Any], *, stop: Var | None = None
) -> tuple[Any, ...]:
    """The operations that the outputs depend on, in order, without those that `stop` depends on."""
    wanted = {var for var in outputs if is_var(var)}
    found = []
    for step in reversed(steps):
        wanted.discard(stop)
        if not wanted.isdisjoint(step.outvars):
            found.append(step)
            wanted.update(var for var in step.invars if is_var(var))
    return tuple(reversed(found))


def is_var(atom: Any) -> bool:
    """Whether an atom is a variable, not a literal."""
    return not isinstance(atom, Literal)


def flat(eqns: Sequence[JaxprEqn], names: Mapping[Any, Any]) -> Iterator[JaxprEqn]:
    """Inlines function calls; each call gets fresh variables.

    Args:
      eqns: the operations of one function.
      names: maps the function's variables to the caller's.
    """

    def named(atom: Any) -> Any:
        return names.get(atom, atom) if is_var(atom) else atom

    for eqn in eqns:
        eqn = eqn.replace(
            invars=[named(atom) for atom in eqn.invars],
            outvars=[named(var) for var in eqn.outvars],
        )
        body = _called(eqn)
        if body is None:
            yield eqn
            continue
        own: dict[Any, Any] = {var: Var(var.aval) for each in body.eqns for var in each.outvars}
        own |= zip(body.invars, eqn.invars, strict=True)
        own |= zip(body.outvars, eqn.outvars, strict=True)
        yield from flat(body.eqns, own)


def _called(eqn: JaxprEqn) -> Jaxpr | None:
    """The called function, if its operations make all of its outputs and none is returned twice."""
    if eqn.primitive.name not in _CALLS or "jaxpr" not in eqn.params:
        return None
    closed = eqn.params["jaxpr"]
    body: Jaxpr = getattr(closed, "jaxpr", closed)
    made = [var for each in body.eqns for var in each.outvars]
    own = [var for var in body.outvars if is_var(var) and var in made]
    is_whole = len(set(own)) == len(body.outvars)
    return body if is_whole and not getattr(closed, "consts", ()) else None


class OtherError(Exception):
    """The operations do not match the pattern."""


class Graph:
    """Which operation makes each variable, how often each is used, and the match in progress."""

    def __init__(self, eqns: Sequence[JaxprEqn], outvars: Sequence[Any]) -> None:
        self.order = {id(eqn): place for place, eqn in enumerate(eqns)}
        self.makers = {var: eqn for eqn in eqns for var in eqn.outvars}
        self.outvars = list(outvars)
        self.users: dict[Any, list[JaxprEqn]] = {}
        for eqn in eqns:
            for atom in filter(is_var, eqn.invars):
                self.users.setdefault(atom, []).append(eqn)
        self.found: list[JaxprEqn] = []

    def is_made(self, atom: Any, *names: str) -> bool:
        """Whether an operation with one of these names makes the atom."""
        return is_var(atom) and atom in self.makers and self.makers[atom].primitive.name in names

    def num_uses(self, atom: Any) -> int:
        """How often the atom is used."""
        return len(self.users.get(atom, ())) + self.outvars.count(atom) if is_var(atom) else 0

    def is_summed(self, var: Any) -> bool:
        """Whether a sum uses the variable, perhaps after operations that only move values."""
        for eqn in self.users.get(var, ()):
            name = eqn.primitive.name
            if name in ("add", "sub") or (name in _MOVES and self.is_summed(eqn.outvars[0])):
                return True
        return False

    def made(self, atom: Any, *names: str) -> Any:
        """Returns the operation that makes the atom, and adds it to the match."""
        if not self.is_made(atom, *names):
            raise OtherError
        self.found.append(self.makers[atom])
        return self.makers[atom]

    def factor(self, atom: Any, value: float) -> Any:
        """The operand that the atom multiplies by `value`, or None."""
        if self.is_made(atom, "mul"):
            for one, other in sides(self.makers[atom]):
                if number(one) == value:
                    self.found.append(self.makers[atom])
                    return other
        return None

    def once(self, atom: Any) -> Any:
        """The atom, without a factor of 1 (which torchax adds); must have no other use."""
        inner = self.factor(atom, 1.0)
        for each in (atom,) if inner is None else (atom, inner):
            require(self.num_uses(each) == 1)
        return atom if inner is None else inner

    def product(self, atom: Any, uses: int) -> Any:
        """The matrix product that makes the atom: [..., outputs], in the dtype of its operands."""
        eqn = self.made(atom, "dot_general")
        (_, summed), (batched, _) = eqn.params["dimension_numbers"]
        x, weight = eqn.invars
        require(not batched and weight.aval.ndim == len(summed) + 1)
        require(eqn.outvars[0].aval.dtype == x.aval.dtype and self.num_uses(atom) == uses)
        return eqn

    def vector(self, atom: Any) -> Any:
        """The vector [D] that is broadcast to the atom [..., D]."""
        while atom.aval.ndim > 1:
            eqn = self.made(atom, "broadcast_in_dim", "reshape")
            (inner,) = eqn.invars
            require(is_var(inner) and inner.aval.shape[-1:] == atom.aval.shape[-1:])
            places = eqn.params.get("broadcast_dimensions")
            if places is None:
                require(math.prod(atom.aval.shape) == math.prod(inner.aval.shape))
            else:
                require(places[-1] == atom.aval.ndim - 1)
            atom = inner
        return atom

    def is_doubled(self, atom: Any) -> bool:
        """Whether both halves of the last axis are equal, as in rope's tables of angles."""
        while self.is_made(atom, *_OF_ANGLES):
            eqn = self.makers[atom]
            inner: list[Any] = [each for each in eqn.invars if number(each) is None]
            if eqn.primitive.name == "concatenate":
                is_last = eqn.params["dimension"] == atom.aval.ndim - 1
                return is_last and len(inner) == 2 and inner[0] is inner[1]
            if len(inner) != 1 or inner[0].aval.shape[-1:] != atom.aval.shape[-1:]:
                return False
            places = eqn.params.get("broadcast_dimensions", (atom.aval.ndim - 1,))
            if tuple(places)[-1:] != (atom.aval.ndim - 1,):
                return False
            atom = inner[0]
        return False


def require(fits: bool) -> None:
    if not fits:
        raise OtherError


def sides(eqn: JaxprEqn) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    one, other = eqn.invars
    return (one, other), (other, one)


def number(atom: Any) -> float | None:
    """The value of a literal that is a real number; None for anything else."""
    if is_var(atom) or atom.aval.shape or atom.aval.dtype.kind == "c":
        return None
    return float(atom.val)
