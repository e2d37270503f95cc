"""The shape of a mesh: how many devices each of its axes has.

Deliberately does not know JAX, nor what is laid over which axis (`rules`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

AXES = ("data", "fsdp", "pipeline", "context", "tensor")


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """The number of devices along each axis of a mesh. One device has 1 along all.

    The axes are in the order of how rarely their devices talk to each other: those along `tensor`
    add up activations in every layer, so they are neighbours.

    Raises:
      ValueError: a number below 1.
    """

    data: int = 1  # replicas: each has all parameters, and its own part of the batch
    fsdp: int = 1  # fully sharded data parallelism: parts of the batch and of the parameters
    pipeline: int = 1  # stages: each has some of the layers
    context: int = 1  # parts of each sequence
    tensor: int = 1  # parts of the attention heads, of the MLP and of the vocabulary

    def __post_init__(self) -> None:
        for name, size in self.sizes().items():
            if size < 1:
                raise ValueError(f"the mesh axis {name} must have at least 1 device, got {size}")

    def sizes(self) -> dict[str, int]:
        """The number of devices along each axis, in the order of the mesh."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def num_devices(self) -> int:
        """The number of devices of the whole mesh."""
        return math.prod(self.sizes().values())

    def with_axis(self, name: str, size: int | None) -> MeshShape:
        """The shape with another size of one axis; None changes nothing.

        Raises:
          ValueError: the axis has another size already.
        """
        if size is None:
            return self
        if getattr(self, name) not in (1, size):
            raise ValueError(
                f"the mesh has {name}={getattr(self, name)}, and {name}={size} was asked for too: "
                "give only one of the two"
            )
        return replace(self, **{name: size})

    def __str__(self) -> str:
        used = [f"{name}={size}" for name, size in self.sizes().items() if size > 1]
        return ",".join(used) or "one device"


ONE_DEVICE = MeshShape()


def check_serving(shape: MeshShape) -> None:
    """Refuses axes that an engine does not have.

    Raises:
      ValueError: an axis that divides training alone has several devices.
    """
    for axis in ("fsdp", "context"):
        if shape.sizes()[axis] > 1:
            raise ValueError(
                f"the mesh axis {axis} divides training, and an engine has no use for it: use "
                "tensor, pipeline and data"
            )


def parse_mesh(text: str) -> MeshShape:
    """Reads a shape such as `tensor=4,data=2`; the empty text is one device.

    Raises:
      ValueError: an unknown or repeated axis, or a size that is no whole number above 0.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, is_given, size = (each.strip() for each in part.partition("="))
        if name not in AXES:
            raise ValueError(
                f"the mesh axis {name!r} is not known: use {', '.join(AXES)}, for example "
                "tensor=4,data=2"
            )
        if not is_given or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise ValueError(
                f"the mesh axis {name} needs a number of devices, for example {name}=2, got "
                f"{part!r}"
            )
        if name in sizes:
            raise ValueError(f"the mesh axis {name} is given twice: give it once")
        sizes[name] = int(size)
    return MeshShape(**sizes)


def combine_mesh(
    text: str, *, tensor: int | None, pipeline: int | None, data: int | None
) -> MeshShape:
    """The shape of a text for `parse_mesh` and of vLLM's three sizes, each of one axis.

    Args:
      text: as in `parse_mesh`.
      tensor: tensor_parallel_size; None is not given, like the next two.
      pipeline: pipeline_parallel_size.
      data: data_parallel_size.

    Raises:
      ValueError: as in `parse_mesh`, or an axis is given twice with different sizes.
    """
    shape = parse_mesh(text).with_axis("tensor", tensor)
    return shape.with_axis("pipeline", pipeline).with_axis("data", data)
