"""Lays the arrays of a training step over a mesh: masters, optimizer state, gradients, batches.

Deliberately does not know the rules (`sharding.rules`), nor what a step computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding

from flaxen.kernels.backend import Backend
from flaxen.models.layout import check_layout
from flaxen.models.model import Model, Params
from flaxen.models.pipeline import pipelined
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.placement import Placement
from flaxen.sharding.putting import put
from flaxen.sharding.rules import RULES, num_parts
from flaxen.sharding.shape import MeshShape

Path = tuple[Any, ...]  # the keys from a tree's root to a leaf


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The mesh of a run, and where its master parameters are on it."""

    placement: Placement
    masters: Any  # a tree like the master parameters, of NamedSharding

    def of_state(self, opt_state: Any, masters: Params) -> Any:
        """The shardings of the optimizer's state, in a tree like it.

        What has a parameter's shape, at the end of a path that is the parameter's, is laid like it:
        an optimizer keeps its moments in trees like the parameters. All else, such as the number of
        steps, is on every device.
        """
        shapes = {path: leaf.shape for path, leaf in jax.tree.flatten_with_path(masters)[0]}
        places = dict(jax.tree.flatten_with_path(self.masters)[0])
        rest = self.placement.replicated

        def of(path: Path, leaf: Any) -> NamedSharding:
            own = _longest_end(path, places)
            return places[own] if own is not None and shapes[own] == leaf.shape else rest

        return jax.tree_util.tree_map_with_path(of, opt_state)


def keep(layout: Layout | None, masters: Params) -> Params:
    """Within a jit: keeps masters, or what is like them, in their places; None is one device."""
    return masters if layout is None else jax.lax.with_sharding_constraint(masters, layout.masters)


def keep_state(layout: Layout | None, opt_state: Any, masters: Params) -> Any:
    """Within a jit: lays the optimizer's state like the parameters that it belongs to."""
    if layout is None:
        return opt_state
    return jax.lax.with_sharding_constraint(opt_state, layout.of_state(opt_state, masters))


def lay_masters(layout: Layout | None, masters: Params) -> Params:
    """Puts master parameters in their places; nothing is copied that is there."""
    return masters if layout is None else put(masters, layout.masters)


def everywhere(layout: Layout | None, tree: Any) -> Any:
    """Puts the same arrays on every device."""
    return tree if layout is None else put(tree, layout.placement.replicated)


def lay_batch(placement: Placement | None, batch: Any) -> Any:
    """Puts each device's part of a microbatch [B, T] there: rows over data and fsdp, tokens over
    context.

    Raises:
      ValueError: the rows, or the tokens of a row, can't be divided into equal parts.
    """
    if placement is None:
        return batch
    num_rows, length = jax.tree.leaves(batch)[0].shape
    check_sizes(placement.shape, num_rows=num_rows, sequence_length=length)
    return put(batch, placement.sharding(("batch", "length"), (num_rows, length)))


def over(model: Model, backend: Backend, shape: MeshShape) -> Model:
    """The model for a backend, on a mesh to train or to evaluate on; as it is for one device.

    Raises:
      ValueError: the mesh needs more devices than there are, or can't divide the model.
    """
    if shape.num_devices == 1:
        return model.on(backend)
    placement = Placement(make_mesh(shape))
    check_layout(model.param_specs, placement)
    return pipelined(model.on(backend, placement))


def check_sizes(shape: MeshShape, *, num_rows: int | None, sequence_length: int | None) -> None:
    """Refuses sizes of a microbatch that the mesh can't divide.

    Args:
      shape: the mesh's.
      num_rows: of a microbatch; None is not checked.
      sequence_length: tokens of a row; None is not checked.

    Raises:
      ValueError: the parts would not be equal.
    """
    parts = num_batch_parts(shape)
    if num_rows is not None and num_rows % parts:
        raise ValueError(
            f"a microbatch has {num_rows} rows, and the mesh {shape} divides them into "
            f"{parts} equal parts, data times fsdp: use a multiple of {parts}, as batch_size over "
            "num_microbatches"
        )
    if sequence_length is not None and sequence_length % shape.context:
        raise ValueError(
            f"a row has {sequence_length} tokens, and the mesh {shape} divides them into "
            f"{shape.context} equal parts: use a sequence_length that is a multiple of "
            f"{shape.context}"
        )


def num_batch_parts(shape: MeshShape) -> int:
    """The number of parts into which a mesh divides the rows of a batch."""
    return num_parts(RULES["batch"], shape)


def _longest_end(path: Path, known: Mapping[Path, NamedSharding]) -> Path | None:
    """The longest of the known paths that a path ends with; None if there is none."""
    return next((path[i:] for i in range(len(path) + 1) if path[i:] in known), None)
