"""Makes a mesh of JAX's devices, and the meshes of its data replicas.

Deliberately does not know models, nor the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from flaxen.sharding.shape import AXES, MeshShape


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the first devices, in JAX's order.

    Args:
      shape: the sizes of its axes.
      devices: those to take from; None are all of JAX's default platform, in all processes.

    Raises:
      ValueError: there are fewer devices than the shape needs.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) < shape.num_devices:
        found = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
        raise ValueError(
            f"the mesh {shape} needs {shape.num_devices} devices, and {devices[0].platform} has "
            f"{found} here: use a smaller mesh, or more machines. To try a mesh on a CPU, set "
            f"JAX_NUM_CPU_DEVICES={shape.num_devices}"
        )
    sizes = tuple(shape.sizes().values())
    arranged = np.array(devices[: math.prod(sizes)], dtype=object).reshape(sizes)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_without_devices(shape: MeshShape) -> AbstractMesh:
    """A mesh to find out how arrays are divided, where there are no such devices."""
    sizes = tuple(shape.sizes().values())
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@contextmanager
def without_mesh() -> Iterator[None]:
    """No mesh is set in the block, or in a function with this decorator, whatever its caller set by
    `jax.set_mesh`: a definition is examined on one device.
    """
    with jax.set_mesh(Mesh(np.empty((), object), ())):
        yield


def shape_of(mesh: Mesh | AbstractMesh) -> MeshShape:
    """The shape of a mesh made here."""
    return MeshShape(**dict(mesh.shape))


def replicas(mesh: Mesh) -> list[Mesh]:
    """One mesh for each data replica: the same axes, with data=1."""
    parts = np.split(mesh.devices, mesh.devices.shape[AXES.index("data")])
    return [Mesh(part, AXES, axis_types=mesh.axis_types) for part in parts]
