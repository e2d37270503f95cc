"""Passes packed weights to a compiled step by address instead of one argument for each.

Each argument of a compiled step costs about 3 us of host time in every call, and a quantized model
has 700. A bound tree has one table of addresses for the packed weights of each layer. XLA does not
know that a step reads this memory: whoever binds arrays must keep them alive, unchanged and not
donated, until the last step that reads them has finished.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from flaxen.kernels.linear.packed import SCALE_DTYPES, Leaf, PackedLinear

_NUM_ADDRESSES = 3  # of each weight: data, scales, mins


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """The address of a PackedLinear's arrays, used in place of its data."""

    table: Leaf  # [n, 6] uint32: the halves of three addresses, 0 for none
    row: int = dataclasses.field(metadata={"static": True})
    has_mins: bool = dataclasses.field(metadata={"static": True})
    scale_dtype: str = dataclasses.field(metadata={"static": True})  # of scales and mins


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bound:
    """A dict of parameters whose packed weights are given by address."""

    table: Leaf
    others: dict[str, Any]
    orders: dict[str | int, Any]  # of the weights that have one
    # Names and weights; each has an Address without its table.
    packed: tuple[tuple[str | int, PackedLinear], ...] = dataclasses.field(
        metadata={"static": True}
    )


def bind(params: Any) -> Any:
    """Returns the tree with packed weights by address. The module's docstring says what to keep
    alive.

    Args:
      params: a tree of dicts, tuples and arrays on the CPU.
    """
    if isinstance(params, tuple):
        return tuple(bind(each) for each in params)
    if not isinstance(params, dict):
        return params
    packed = {name: each for name, each in params.items() if isinstance(each, PackedLinear)}
    others = {name: bind(each) for name, each in params.items() if name not in packed}
    if not packed:
        return others
    return _Bound(
        table=jax.device_put(np.array([_addresses(each) for each in packed.values()], np.uint32)),
        others=others,
        orders={name: each.order for name, each in packed.items() if each.order is not None},
        packed=tuple((name, _shell(each, row)) for row, (name, each) in enumerate(packed.items())),
    )


def expand(params: Any) -> Any:
    """Turns a bound tree back into the model's own, in a trace; other trees are unchanged."""
    if isinstance(params, tuple):
        return tuple(expand(each) for each in params)
    if isinstance(params, dict):
        return {name: expand(each) for name, each in params.items()}
    if not isinstance(params, _Bound):
        return params
    packed = {
        name: dataclasses.replace(
            shell,
            data=dataclasses.replace(shell.data, table=params.table),
            order=params.orders.get(name),
        )
        for name, shell in params.packed
    }
    return {**expand(params.others), **packed}


def _addresses(weight: PackedLinear) -> np.ndarray:
    found = np.zeros(_NUM_ADDRESSES, np.uint64)
    for index, leaf in enumerate((weight.data, weight.scales, weight.mins)):
        if leaf is not None:
            found[index] = leaf.unsafe_buffer_pointer()
    return found.view(np.uint32)


def _shell(weight: PackedLinear, row: int) -> PackedLinear:
    dtype = SCALE_DTYPES[0] if weight.scales is None else weight.scales.dtype.name
    address = Address(table=None, row=row, has_mins=weight.mins is not None, scale_dtype=dtype)
    return dataclasses.replace(weight, data=address, scales=None, mins=None, order=None)
