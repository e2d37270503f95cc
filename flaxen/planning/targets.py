"""The hardware of a plan by its name, `v6e-8` or `h100-8`, and the mesh over it.

Deliberately does not know models, nor what is planned.
"""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.kernels.backend import Backend
from flaxen.sharding.chips import CHIPS, GPUS, Chip
from flaxen.sharding.shape import MeshShape
from flaxen.sharding.topologies import Target, find_target


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Devices to plan for."""

    name: str  # v6e-8, h100
    chip: Chip
    num_devices: int  # as JAX shows them
    backend: Backend
    slice: Target | None  # of TPUs, for which steps can be compiled here; None for GPUs


def find_hardware(name: str) -> Hardware:
    """Finds hardware by its name.

    Args:
      name: a TPU slice, as v6e-8; or a GPU and how many of them, as h100-8, or h100 for one.

    Raises:
      ValueError: there is no such hardware, or not this many.
    """
    kind, _, count = name.partition("-")
    if kind in CHIPS:
        found = find_target(name)
        return Hardware(
            name=name,
            chip=found.chip,
            num_devices=found.num_devices,
            backend=Backend.TPU,
            slice=found,
        )
    if kind not in GPUS:
        raise ValueError(
            f"the target {name!r} is not known: name a TPU slice, of {', '.join(CHIPS)}, as v6e-8; "
            f"or GPUs, of {', '.join(GPUS)}, as h100-8"
        )
    if count not in ("", *map(str, range(1, 9))):
        raise ValueError(
            f"there is no target {name!r}: name 1 to 8 GPUs of one machine, as {kind}-8"
        )
    return Hardware(
        name=name,
        chip=GPUS[kind],
        num_devices=int(count or 1),
        backend=Backend.GPU,
        slice=None,
    )


def check_mesh(mesh: MeshShape, hardware: Hardware, proposed: MeshShape) -> None:
    """Refuses a mesh that has not as many devices as the hardware.

    Args:
      mesh: the mesh.
      hardware: the devices.
      proposed: a mesh that has, for the message.

    Raises:
      ValueError: the mesh has more or fewer devices.
    """
    if mesh.num_devices == hardware.num_devices:
        return
    has = _count(hardware.num_devices, "device")
    named = "one device is not a mesh of" if mesh.num_devices == 1 else f"the mesh {mesh} is not of"
    raise ValueError(
        f"{named} {has}, which {hardware.name} has: use --mesh {proposed}, or another target"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
