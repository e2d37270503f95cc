"""Writes facts and findings as text. Deliberately does not know how they were found."""

from __future__ import annotations

import os
from collections.abc import Iterator

from flaxen.doctor.advice import Finding
from flaxen.doctor.facts import (
    Compute,
    Facts,
    Kernels,
    Machine,
    Network,
    Place,
    PulledModel,
    Software,
)
from flaxen.doctor.facts import Requirement as Library
from flaxen.hub.sizes import format_size

Row = tuple[str, str]


def sections(facts: Facts) -> list[tuple[str, list[Row]]]:
    """The report's sections, each with rows of a name and what is to be said of it."""
    found = [
        ("Machine", list(_machine(facts.machine)) if facts.machine else []),
        ("Software", list(_software(facts.software)) if facts.software else []),
        ("Computing", list(_compute(facts.compute)) if facts.compute else []),
        ("Directories", [_place(each) for each in facts.places or ()]),
        ("Models", list(_models(facts.models)) if facts.models is not None else []),
        ("Network", list(_network(facts.network)) if facts.network else []),
    ]
    return [(name, rows or [("", "not found out, see below")]) for name, rows in found]


def text(facts: Facts, found: list[Finding]) -> str:
    """The whole report."""
    lines = []
    for name, rows in sections(facts):
        lines.append(name)
        width = max(20, *(len(label) for label, _ in rows))
        lines += [f"  {label:<{width}}  {said}".rstrip() for label, said in rows]
        lines.append("")
    lines.append("What to fix")
    if not found:
        lines.append("  nothing")
    for each in found:
        lines.append(f"  {'broken' if each.is_broken else 'better'}: {each.text}")
        lines.append(f"          {each.fix}")
    return "\n".join(lines)


def _machine(machine: Machine) -> Iterator[Row]:
    yield "CPU", machine.cpu
    yield "instructions", " ".join(machine.cpu_features) or "none that the kernels use"
    limits = [f"{machine.num_cpus} CPUs", f"{machine.num_allowed_cpus} by affinity"]
    if machine.num_quota_cpus is not None:
        limits.append(f"{machine.num_quota_cpus:g} by the control group")
    yield "cores", ", ".join(limits)
    memory = (
        f"{format_size(machine.memory_bytes)}, {format_size(machine.available_bytes)} available"
    )
    if machine.memory_limit_bytes is not None:
        memory += f", {format_size(machine.memory_limit_bytes)} by the control group"
    yield "memory", memory
    yield "accelerators", ", ".join(machine.accelerators) or "none"
    if machine.drivers:
        yield "drivers", ", ".join(machine.drivers)


def _software(software: Software) -> Iterator[Row]:
    yield "flaxen", f"{software.flaxen}, {software.source}"
    place = "" if software.in_environment else ", in no virtual environment"
    yield "Python", f"{software.python}, {software.python_path}{place}"
    yield (
        "libraries",
        ", ".join(f"{name} {version or 'missing'}" for name, version in software.versions.items()),
    )
    yield "extras", ", ".join(_extras(software.requirements)) or "none"
    yield "compilers", "; ".join(software.compilers) or "none"


def _extras(requirements: tuple[Library, ...]) -> Iterator[str]:
    names = dict.fromkeys(each.extra for each in requirements if each.extra)
    for name in names:
        parts = [each for each in requirements if each.extra == name]
        missing = [each.name for each in parts if each.version is None]
        versions = " ".join(f"{each.name} {each.version}" for each in parts if each.version)
        if not missing:
            yield f"{name} ({versions})"
        elif versions:
            yield f"{name} in part ({versions}; without {' '.join(missing)})"
        else:
            yield f"no {name}"


def _compute(compute: Compute) -> Iterator[Row]:
    if compute.jax_error is not None:
        yield "JAX", compute.jax_error
        if compute.plugins:
            yield "plugins", ", ".join(compute.plugins.values())
        return
    yield "JAX", f"computes on {compute.platform}: {', '.join(compute.devices)}"
    if compute.platform != "cpu" and compute.described is not None:
        yield "device", compute.described
    if compute.plugins:
        yield "plugins", ", ".join(compute.plugins.values())
    if (num_devices := len(compute.devices)) > 1:
        yield "mesh", f"{num_devices} devices, as --mesh tensor={num_devices}"
    if compute.kernels_error is not None:
        yield "kernels", compute.kernels_error
    if compute.kernels is not None:
        yield "kernels", kernels_said(compute.kernels, compute.wanted_isa)
    if compute.speeds is not None:
        yield "memory bandwidth", f"{compute.speeds.read_bytes_s / 1e9:.1f} GB/s"
        yield (
            "products",
            ", ".join(
                f"{flops / 1e9:,.0f} GFLOP/s in {dtype}"
                for dtype, flops in compute.speeds.matmul_flops.items()
            ),
        )


def kernels_said(kernels: Kernels, wanted: str | None) -> str:
    """Which kernels compute, and why these."""
    threads = f"{kernels.num_threads} thread{'' if kernels.num_threads == 1 else 's'}"
    if kernels.has_accelerator:
        return "none, JAX computes on an accelerator"
    if kernels.missing_reason is not None:
        return f"none, XLA with {threads}: {kernels.missing_reason}"
    if wanted is not None:
        return f"{kernels.isa}, {threads}, by FLAXEN_CPU_ISA"
    others = [each for each in kernels.supported if each != kernels.isa]
    less = f" (also {', '.join(others)})" if others else ""
    return f"{kernels.isa}, {threads}, the best of this machine{less}"


def _place(place: Place) -> Row:
    state = format_size(place.used_bytes) if place.is_writable else "NOT WRITABLE"
    free = "" if place.free_bytes is None else f", {format_size(place.free_bytes)} free"
    home = os.path.expanduser("~")
    path = place.path.replace(home, "~", 1) if place.path.startswith(home) else place.path
    return place.name, f"{path}: {state}{free}"


def _models(models: tuple[PulledModel, ...]) -> Iterator[Row]:
    if not models:
        yield "", "none on this machine: `flaxen pull` downloads one"
    for each in models:
        yield each.name, f"{each.kind}, {format_size(each.num_bytes)}"


def _network(network: Network) -> Iterator[Row]:
    token = "with a token" if network.has_token else "without a token"
    offline = "never: by --offline or HF_HUB_OFFLINE"
    yield "downloads", offline if network.is_offline else f"from {network.endpoint}, {token}"
    yield f"port {network.port}", "free" if network.is_port_free else "in use"
