"""Checks in a definition's trace that its tables have a row for the last position.

JAX does not report an index beyond a table: it takes the last row, or gives NaN. So the index
operations are evaluated for the last position, and the index is compared with the table's size.
Deliberately does not know what else is computed with positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from flaxen.bridges.jaxpr.trace import scan_parts, shape_of

_MOST_ELEMENTS = 1 << 20  # of an array that is evaluated here
# Operations that leave a parameter the same table.
_SAME = ("convert_element_type", "copy", "reshape", "squeeze", "transpose")


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """The facts that the search has established about one array of the trace."""

    array: Any = None  # known integers or a mask, which depend on positions only
    is_of_positions: bool = False
    name: str | None = None  # the parameter's name, if it is one


def check_positions(
    jaxpr: ClosedJaxpr, names: Sequence[str], positions: int, max_position: int
) -> None:
    """Refuses a definition whose tables of positions are too short.

    Args:
      jaxpr: the definition.
      names: the names of its first arguments, the parameters.
      positions: the index of the argument with the positions [B, T].
      max_position: the most tokens of a sequence.

    Raises:
      ValueError: the last position's index is beyond a table.
    """
    inner = jaxpr.jaxpr
    shape = shape_of(inner.invars[positions]).shape
    last = np.full(shape, max_position - 1, np.int32)
    last[:, 0] = 0
    args = [_Facts(name=name) for name in names]
    args += [_Facts()] * (len(inner.invars) - len(names))
    args[positions] = _Facts(array=jnp.asarray(last), is_of_positions=True)
    consts = [_constant(each) for each in jaxpr.consts]
    _follow(inner, consts, args, max_position)


def _follow(
    jaxpr: Jaxpr, consts: Sequence[_Facts], args: Sequence[_Facts], max_position: int
) -> list[_Facts]:
    """Returns what is known about a jaxpr's outputs."""
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> _Facts:
        return _constant(atom.val) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        _check(eqn, values, max_position)
        known.update(zip(eqn.outvars, _outputs(eqn, values, max_position), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _outputs(eqn: JaxprEqn, values: list[_Facts], max_position: int) -> list[_Facts]:
    unknown = [_Facts()] * len(eqn.outvars)
    name = eqn.primitive.name
    if name == "scan":
        return _scan(eqn, values, max_position)
    if name == "cond":
        for branch in eqn.params["branches"]:
            _follow(*_opened(branch), values[1:], max_position)
        return unknown
    for part in ("jaxpr", "call_jaxpr"):
        body = eqn.params.get(part)
        inner = getattr(body, "jaxpr", body)
        if isinstance(inner, Jaxpr) and len(inner.invars) == len(values):
            return _follow(*_opened(body), values, max_position)
    if name in _SAME and values[0].name is not None:
        return [replace(values[0], array=None)]
    return _computed(eqn, values) if _is_small(eqn, values) else unknown


def _scan(eqn: JaxprEqn, values: list[_Facts], max_position: int) -> list[_Facts]:
    """Follows one iteration of a loop; values that change between iterations are unknown."""
    inner, consts = _opened(eqn.params["jaxpr"])
    constants, carry, inputs = scan_parts(eqn.params, values)
    before = inner.invars[len(constants) : len(constants) + len(carry)]
    unchanged = [
        value if var is after else _Facts()
        for value, var, after in zip(carry, before, inner.outvars, strict=False)
    ]
    slices = [_Facts(name=value.name) for value in inputs]
    outs = _follow(inner, consts, [*constants, *unchanged, *slices], max_position)
    num_stacked = len(eqn.outvars) - len(carry)
    return [*outs[: len(carry)], *([_Facts()] * num_stacked)]


def _opened(body: Any) -> tuple[Jaxpr, list[_Facts]]:
    """Returns the inner jaxpr of a closed or open one, and its constants."""
    consts = [_constant(each) for each in getattr(body, "consts", ())]
    return getattr(body, "jaxpr", body), consts


def _constant(value: Any) -> _Facts:
    is_whole = jnp.issubdtype(jnp.result_type(value), jnp.integer) or value is True
    return _Facts(array=value) if is_whole and np.size(value) <= _MOST_ELEMENTS else _Facts()


def _is_small(eqn: JaxprEqn, values: list[_Facts]) -> bool:
    """Whether an operation's inputs are known integers or masks: a float is never an index."""
    if eqn.primitive.multiple_results or any(value.array is None for value in values):
        return False
    inputs_are_whole = not any(
        jnp.issubdtype(jnp.result_type(value.array), jnp.inexact) for value in values
    )
    return inputs_are_whole and np.prod(shape_of(eqn.outvars[0]).shape) <= _MOST_ELEMENTS


def _computed(eqn: JaxprEqn, values: list[_Facts]) -> list[_Facts]:
    arrays = [value.array for value in values]
    found = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    return [_Facts(array=found, is_of_positions=any(value.is_of_positions for value in values))]


def _check(eqn: JaxprEqn, values: list[_Facts], max_position: int) -> None:
    name = eqn.primitive.name
    if name == "gather":
        table, indices = values
        if indices.is_of_positions:
            numbers = eqn.params["dimension_numbers"]
            _check_indices(eqn, table, indices.array, numbers.start_index_map, max_position)
    elif name == "dynamic_slice":
        for axis, start in enumerate(values[1:]):
            if start.is_of_positions:
                _check_indices(eqn, values[0], start.array[..., None], (axis,), max_position)
    elif name == "dot_general":
        for place, value in enumerate(values):
            if value.is_of_positions and jnp.ndim(value.array) == 3:
                _check_one_hot(values[1 - place], value.array, max_position)


def _check_indices(
    eqn: JaxprEqn, table: _Facts, indices: Any, axes: Sequence[int], max_position: int
) -> None:
    shape = shape_of(eqn.invars[0]).shape
    for place, axis in enumerate(axes):
        last = shape[axis] - eqn.params["slice_sizes"][axis]
        beyond = int(jnp.max(indices[..., place])) - last
        if beyond > 0:
            _refuse(table, shape[axis], max_position - beyond, max_position)


def _check_one_hot(table: _Facts, mask: Any, max_position: int) -> None:
    """Checks a product of a table with one-hot rows of the positions."""
    rows = np.asarray(mask).reshape(-1, mask.shape[-1])
    if rows[0].any() and not rows[-1].any():
        _refuse(table, mask.shape[-1], mask.shape[-1], max_position)


def _refuse(table: _Facts, num_rows: int, most: int, max_position: int) -> None:
    raise ValueError(
        f"max_position is {max_position}, and the definition's table of positions "
        f"{f'{table.name} ' if table.name else ''}has {num_rows} rows: for positions beyond them "
        f"JAX takes the last row, or gives NaN. Give max_position={most} or less, or a longer table"
    )
