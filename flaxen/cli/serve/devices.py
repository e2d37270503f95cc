"""The facts of the announcement about the devices that compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flaxen.cli.cpu import Cpu, describe_kernels
from flaxen.serving.fact import Fact


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
