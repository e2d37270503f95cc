"""Where arrays are on a mesh: a mesh and the rules, as one value that is passed down.

Deliberately does not know models, nor what the arrays mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxen.sharding.mesh import shape_of
from flaxen.sharding.rules import partition
from flaxen.sharding.shape import MeshShape


@dataclass(frozen=True)
class Placement:
    """The mesh that arrays are laid over. Hashable: it is static in a jit.

    None in place of it is JAX's default device, alone.
    """

    mesh: Mesh

    @property
    def shape(self) -> MeshShape:
        """The sizes of the mesh's axes."""
        return shape_of(self.mesh)

    def spec(
        self, axes: Sequence[str | None], shape: Sequence[int], *, head_dim: int = 1
    ) -> PartitionSpec:
        """How an array is divided: `rules.partition` on this mesh."""
        return partition(axes, shape, self.shape, head_dim=head_dim)

    def sharding(
        self, axes: Sequence[str | None], shape: Sequence[int], *, head_dim: int = 1
    ) -> NamedSharding:
        """Where the parts of an array are.

        Args:
          axes: the logical name of each of its axes; None is not divided.
          shape: the array's.
          head_dim: as in `rules.partition`.
        """
        return NamedSharding(self.mesh, self.spec(axes, shape, head_dim=head_dim))

    @property
    def replicated(self) -> NamedSharding:
        """A copy of the whole array on each device."""
        return NamedSharding(self.mesh, PartitionSpec())
