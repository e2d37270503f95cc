"""A jaxpr's operations as a graph: who makes a variable, and how often it is used.

Deliberately does not know what is looked for in it: patterns.py.
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
# What keeps both halves of the last axis equal; ends at a concatenation of the same twice.
_OF_ANGLES = ("broadcast_in_dim", "concatenate", "convert_element_type", "cos", "mul", "sin")


def needed(
    steps: Sequence[Any], outputs: Sequence[Any], *, stop: Var | None = None
) -> tuple[Any, ...]:
    """The operations that outputs depend on, in order; those before `stop` are left out."""
    wanted = {var for var in outputs if is_var(var)}
    found = []
    for step in reversed(steps):
        wanted.discard(stop)
        if not wanted.isdisjoint(step.outvars):
            found.append(step)
            wanted.update(var for var in step.invars if is_var(var))
    return tuple(reversed(found))


def is_var(atom: Any) -> bool:
    """Whether it is no literal."""
    return not isinstance(atom, Literal)


def flat(eqns: Sequence[JaxprEqn], names: Mapping[Any, Any]) -> Iterator[JaxprEqn]:
    """Functions' operations in place of their calls, with variables of their own for each call.

    Args:
      eqns: of one function.
      names: by its variables, those that stand for them outside.
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
    """The function that is called, if its outputs are all made by its operations, each once."""
    if eqn.primitive.name not in _CALLS or "jaxpr" not in eqn.params:
        return None
    closed = eqn.params["jaxpr"]
    body: Jaxpr = getattr(closed, "jaxpr", closed)
    made = [var for each in body.eqns for var in each.outvars]
    own = [var for var in body.outvars if is_var(var) and var in made]
    is_whole = len(set(own)) == len(body.outvars)
    return body if is_whole and not getattr(closed, "consts", ()) else None


class OtherError(Exception):
    """The operations are not the pattern's."""


class Graph:
    """Who makes a variable, and how often it is used; and the operations of a match on its way."""

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
        """Whether by an operation of one of these names."""
        return is_var(atom) and atom in self.makers and self.makers[atom].primitive.name in names

    def num_uses(self, atom: Any) -> int:
        """How often it is used."""
        return len(self.users.get(atom, ())) + self.outvars.count(atom) if is_var(atom) else 0

    def is_summed(self, var: Any) -> bool:
        """Whether a sum takes it, also after operations that only move numbers."""
        for eqn in self.users.get(var, ()):
            name = eqn.primitive.name
            if name in ("add", "sub") or (name in _MOVES and self.is_summed(eqn.outvars[0])):
                return True
        return False

    def made(self, atom: Any, *names: str) -> Any:
        """The operation that makes it, which becomes part of the match."""
        if not self.is_made(atom, *names):
            raise OtherError
        self.found.append(self.makers[atom])
        return self.makers[atom]

    def factor(self, atom: Any, value: float) -> Any:
        """What is multiplied by a number, or None."""
        if self.is_made(atom, "mul"):
            for one, other in sides(self.makers[atom]):
                if number(one) == value:
                    self.found.append(self.makers[atom])
                    return other
        return None

    def once(self, atom: Any) -> Any:
        """It, or what it is by a factor of 1, which torchax writes; used for nothing else."""
        inner = self.factor(atom, 1.0)
        for each in (atom,) if inner is None else (atom, inner):
            require(self.num_uses(each) == 1)
        return atom if inner is None else inner

    def product(self, atom: Any, uses: int) -> Any:
        """A product that gives [..., outputs] in the dtype of what is multiplied."""
        eqn = self.made(atom, "dot_general")
        (_, summed), (batched, _) = eqn.params["dimension_numbers"]
        x, weight = eqn.invars
        require(not batched and weight.aval.ndim == len(summed) + 1)
        require(eqn.outvars[0].aval.dtype == x.aval.dtype and self.num_uses(atom) == uses)
        return eqn

    def vector(self, atom: Any) -> Any:
        """[D], of what is broadcast to [..., D]."""
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
        """Whether the halves of the last axis are equal, as tables of angles have them."""
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
    """The value of a literal that is a real number; None of anything else."""
    if is_var(atom) or atom.aval.shape or atom.aval.dtype.kind == "c":
        return None
    return float(atom.val)
