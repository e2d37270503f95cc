"""A mesh with the rules that lay arrays over it, as one value that is passed down.

Deliberately does not know models, nor what the arrays mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from flaxen.sharding.mesh import shape_of
from flaxen.sharding.rules import partition
from flaxen.sharding.shape import AXES, MeshShape


@dataclass(frozen=True)
class Placement:
    """The mesh that arrays are laid over. Hashable: it is static in a jit.

    None in place of it is JAX's default device, alone.
    """

    mesh: Mesh | AbstractMesh  # an abstract one has no devices: it says how arrays are divided

    @property
    def shape(self) -> MeshShape:
        """The sizes of the mesh's axes."""
        return shape_of(self.mesh)

    def spec(
        self, axes: Sequence[str | None], shape: Sequence[int], *, head_dim: int = 1
    ) -> PartitionSpec:
        """The partition of an array: `rules.partition` on this mesh."""
        return partition(axes, shape, self.shape, head_dim=head_dim)

    def sharding(
        self, axes: Sequence[str | None], shape: Sequence[int], *, head_dim: int = 1
    ) -> NamedSharding:
        """The sharding of an array.

        Args:
          axes: the logical name of each of its axes; None is not divided.
          shape: the array's.
          head_dim: as in `rules.partition`.
        """
        return NamedSharding(self.mesh, self.spec(axes, shape, head_dim=head_dim))

    def shard_map(self, run: Callable[..., Any], *, in_specs: Any, out_specs: Any) -> Any:
        """`jax.shard_map` over the mesh; within one over the stages, over the axes that are left.

        Args:
          run: computes one device's part.
          in_specs: how the arguments are divided.
          out_specs: how the results are divided.
        """
        taken = jax.sharding.get_abstract_mesh().manual_axes
        return jax.shard_map(
            run,
            mesh=None if taken else self.mesh,  # JAX has the one that we are in
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=frozenset(AXES) - frozenset(taken),
            check_vma=False,  # a Pallas kernel does not say over which axes its output varies
        )

    def stage(self, index: int) -> Placement:
        """The devices of one pipeline stage alone."""
        axis = AXES.index("pipeline")
        part = np.take(self.mesh.devices, [index], axis=axis)
        return Placement(Mesh(part, AXES, axis_types=self.mesh.axis_types))

    @property
    def replicated(self) -> NamedSharding:
        """A copy of the whole array on each device."""
        return NamedSharding(self.mesh, PartitionSpec())
