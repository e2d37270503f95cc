"""A definition's operations, and where they can be cut before the scores of words.

Deliberately does not know what the operations compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from flaxen.bridges.jaxpr.graph import needed
from flaxen.bridges.jaxpr.patterns import Step, find_patterns


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A definition at one shape: a jaxpr over parameters, tokens, positions, perhaps a key."""

    jaxpr: ClosedJaxpr
    hidden: Var  # what the scores are computed from: [B, T, D], as narrow as there is
    forward: tuple[Step, ...]  # up to there, and to all outputs but the scores
    unembed: tuple[Step, ...]  # from there, and from the parameters, to the scores

    @property
    def others(self) -> Sequence[Any]:
        """The outputs but the scores."""
        others: Sequence[Any] = self.jaxpr.jaxpr.outvars[1:]
        return others

    def env(self, args: Sequence[Any]) -> dict[Any, Any]:
        """The values of the variables that are given; fewer arguments are the first ones."""
        inner = self.jaxpr.jaxpr
        return {
            **dict(zip(inner.constvars, self.jaxpr.consts, strict=True)),
            **dict(zip(inner.invars, args, strict=False)),
        }


def make_trace(jaxpr: ClosedJaxpr, num_params: int) -> Trace:
    """Cuts a definition in two.

    Args:
      jaxpr: its first output is [B, T, V] scores.
      num_params: how many of its arguments are parameters; all others vary.
    """
    inner = jaxpr.jaxpr
    scores = inner.outvars[0]
    hidden = _narrowest(inner.eqns, set(inner.invars[num_params:]), scores)
    return Trace(
        jaxpr=jaxpr,
        hidden=hidden,
        forward=_steps(inner.eqns, [hidden, *inner.outvars[1:]]),
        unembed=() if hidden is scores else _steps(inner.eqns, [scores], stop=hidden),
    )


def _narrowest(eqns: Sequence[JaxprEqn], varying: set[Var], scores: Var) -> Var:
    """The last variable through which all goes that the scores depend on, and that is narrower.

    Walks back from the scores: whenever there is only one variable left that is needed and varies,
    the operations can be cut there.
    """
    for eqn in eqns:
        if any(var in varying for var in _vars(eqn.invars)):
            varying.update(eqn.outvars)
    shape, frontier = shape_of(scores).shape, {scores}
    for eqn in reversed(eqns):
        if frontier.isdisjoint(eqn.outvars):
            continue
        frontier.difference_update(eqn.outvars)
        frontier.update(var for var in _vars(eqn.invars) if var in varying)
        if len(frontier) != 1:
            continue
        (found,) = frontier
        aval = shape_of(found)
        if (
            aval.ndim == 3
            and aval.shape[:2] == shape[:2]
            and aval.shape[2] < shape[2]
            and jnp.issubdtype(aval.dtype, jnp.floating)
        ):
            return found
    return scores


def shape_of(var: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a jaxpr's variable."""
    return abstract(var.aval.shape, var.aval.dtype)


def scan_parts(params: Mapping[str, Any], values: list[Any]) -> list[list[Any]]:
    """What a scan takes: constants, what is carried, and what it goes along."""
    if "num_consts" in params:
        first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
        return [values[:first], values[first:second], values[second:]]
    return [list(part) for part in params["ft_in"].update(values).unpack()]  # jax 0.12


def _steps(
    eqns: Sequence[JaxprEqn], outputs: Sequence[Any], *, stop: Var | None = None
) -> tuple[Step, ...]:
    return find_patterns(needed(eqns, outputs, stop=stop), outputs)


def _vars(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def abstract(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array of which only shape and dtype matter."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype)
