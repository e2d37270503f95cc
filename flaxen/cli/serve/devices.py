"""The facts of the announcement about the devices that compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flaxen.cli.cpu import Cpu, describe_kernels
from flaxen.cli.serve.fact import Fact

if TYPE_CHECKING:
    from flaxen.sharding.shape import MeshShape


def about_computing(cpu: Cpu) -> Iterator[Fact]:
    """The device or kernels that compute, and an accelerator that is left unused."""
    fields: dict[str, Any] = {"device": cpu.accelerator or "cpu"}
    if cpu.accelerator is None:
        fields |= {"kernels": cpu.isa, "num_threads": cpu.num_threads}
        yield Fact(label="kernels", text=describe_kernels(cpu), fields=fields)
    else:
        yield Fact(label="device", text=cpu.accelerator, fields=fields)
    if cpu.overlooked is not None:
        yield Fact(label="unused", text=cpu.overlooked, fields={"unused_device": cpu.overlooked})


def about_mesh(mesh: MeshShape) -> Iterator[Fact]:
    """The devices that the model is divided over, if there are several."""
    if mesh.num_devices == 1:
        return
    from flaxen.sharding.processes import this_process

    num_processes = this_process().count
    text = f"{mesh}, {mesh.num_devices} devices"
    if num_processes > 1:
        text += f" of {num_processes} processes; they end together"
    if mesh.data > 1:
        text += f": {mesh.data} replicas of the model, each with a KV cache of its own"
    fields = {"mesh": mesh.sizes(), "num_processes": num_processes, "num_replicas": mesh.data}
    yield Fact(label="mesh", text=text, fields=fields)
