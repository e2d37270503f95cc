"""A traced definition, cut in two: forward up to the hidden states, and unembedding.

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
    """A definition at one shape: a jaxpr over parameters, tokens, positions and perhaps a key."""

    jaxpr: ClosedJaxpr
    hidden: Var  # the hidden states [B, T, D] from which the logits are computed
    forward: tuple[
        Step, ...
    ]  # the operations up to `hidden`, and to the outputs other than the logits
    unembed: tuple[Step, ...]  # the operations from `hidden` and the parameters to the logits

    @property
    def others(self) -> Sequence[Any]:
        """The outputs other than the logits."""
        others: Sequence[Any] = self.jaxpr.jaxpr.outvars[1:]
        return others

    def env(self, args: Sequence[Any]) -> dict[Any, Any]:
        """Binds arguments to the jaxpr's variables; there may be fewer arguments than variables."""
        inner = self.jaxpr.jaxpr
        return {
            **dict(zip(inner.constvars, self.jaxpr.consts, strict=True)),
            **dict(zip(inner.invars, args, strict=False)),
        }


def make_trace(jaxpr: ClosedJaxpr, num_params: int) -> Trace:
    """Cuts a definition in two.

    Args:
      jaxpr: its first output is the logits [B, T, V].
      num_params: how many of its arguments are parameters; all others vary.
    """
    inner = jaxpr.jaxpr
    logits = inner.outvars[0]
    hidden = _narrowest(inner.eqns, set(inner.invars[num_params:]), logits)
    return Trace(
        jaxpr=jaxpr,
        hidden=hidden,
        forward=_steps(inner.eqns, [hidden, *inner.outvars[1:]]),
        unembed=() if hidden is logits else _steps(inner.eqns, [logits], stop=hidden),
    )


def _narrowest(eqns: Sequence[JaxprEqn], varying: set[Var], logits: Var) -> Var:
    """The last variable narrower than the logits through which all their dependencies go.

    Walks back from the logits: whenever only one needed variable varies, the operations can be cut
    there.
    """
    for eqn in eqns:
        if any(var in varying for var in _vars(eqn.invars)):
            varying.update(eqn.outvars)
    shape, frontier = shape_of(logits).shape, {logits}
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
    return logits


def shape_of(var: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a jaxpr's variable."""
    return abstract(var.aval.shape, var.aval.dtype)


def scan_parts(params: Mapping[str, Any], values: list[Any]) -> list[list[Any]]:
    """Splits a scan's inputs: constants, carried values, and arrays that it iterates over."""
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
    """An abstract array: shape and dtype only."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype)
