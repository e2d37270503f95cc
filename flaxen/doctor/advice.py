"""Makes findings of facts: each is something to fix, with the command that fixes it.

One function for each subject, pure. Deliberately does not know how facts are found or shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor

from flaxen.doctor.facts import (
    Compute,
    Facts,
    Failure,
    Kernels,
    Machine,
    Network,
    Place,
    PulledModel,
    Requirement,
    Software,
)
from flaxen.kernels.accelerators import KINDS

_LITTLE_MEMORY = 2 * 10**9  # what a small model takes to serve and to train an adapter
_LITTLE_DISK = 2 * 10**9  # what one small model and its compiled programs take
_GOOD_FEATURES = {"avx2", "fma", "f16c"}
_REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to fix."""

    is_broken: bool  # something does not work; False if it only works less well than it could
    text: str
    fix: str


def findings(facts: Facts) -> list[Finding]:
    """Everything that is to be fixed, what is broken first."""
    found = list(_failures(facts.failures))
    if facts.software is not None:
        found += _libraries(facts.software.requirements)
    if facts.compute is not None:
        found += _compute(facts.compute, facts.software)
        if facts.machine is not None:
            found += _accelerators(facts.machine, facts.compute)
    if facts.machine is not None:
        kernels = facts.compute.kernels if facts.compute else None
        found += _machine(facts.machine, kernels)
    for place in facts.places or ():
        found += _place(place)
    for model in facts.models or ():
        found += _model(model)
    if facts.network is not None:
        found += _network(facts.network)
    return sorted(found, key=lambda each: not each.is_broken)


def _failures(failures: tuple[Failure, ...]) -> Iterator[Finding]:
    for module in dict.fromkeys(each.module for each in failures if each.module):
        library = module.partition(".")[0]
        yield Finding(
            is_broken=True,
            text=f"the module {module} can't be imported",
            fix=f"pip install --force-reinstall {library}",
        )
    for each in failures:
        if each.module is None:
            yield Finding(
                is_broken=False,
                text=f"the probe of the {each.probe} failed: {each.error}",
                fix="this may be a defect of flaxen doctor: report it with this output",
            )


def _libraries(requirements: tuple[Requirement, ...]) -> Iterator[Finding]:
    for each in requirements:
        if each.fits or (each.extra and each.version is None):
            continue  # nobody needs every extra
        asks = f"flaxen[{each.extra}]" if each.extra else "flaxen"
        here = "is not installed" if each.version is None else f"is version {each.version} here"
        yield Finding(
            is_broken=each.extra is None,
            text=f"{each.name} {here}, and {asks} was made for {each.text}",
            fix=f"pip install '{each.text}'",
        )


def _compute(compute: Compute, software: Software | None) -> Iterator[Finding]:
    checkout = software.checkout if software else None
    rebuild = f"{_REBUILD} {checkout or 'DIRECTORY_OF_A_CHECKOUT'}"
    if compute.jax_error is not None and compute.wanted_device is not None:
        yield Finding(
            is_broken=True,
            text=f"--device {compute.wanted_device} does not work: {compute.jax_error}",
            fix="what the message says, or leave --device out",
        )
    elif compute.jax_error is not None:
        asked = compute.jax_platforms
        yield Finding(
            is_broken=True,
            text=f"JAX can't be used{f' with JAX_PLATFORMS={asked}' if asked else ''}: "
            f"{compute.jax_error}",
            fix="unset JAX_PLATFORMS" if asked else "pip install --force-reinstall jax jaxlib",
        )
    if compute.kernels_error is not None:
        fix = "unset FLAXEN_CPU_ISA" if compute.wanted_isa else rebuild
        yield Finding(
            is_broken=True,
            text=f"the CPU kernels can't be started: {compute.kernels_error}",
            fix=fix,
        )
    if compute.speeds_error is not None:
        yield Finding(
            is_broken=True,
            text=f"a measurement with the chosen kernels failed: {compute.speeds_error}",
            fix="FLAXEN_CPU_ISA=portable flaxen doctor, and report what both say",
        )
    kernels = compute.kernels
    if kernels is None or kernels.has_accelerator:
        return
    if kernels.missing_reason is not None:
        compiler = "" if software and software.compilers else "apt-get install g++ && "
        yield Finding(
            is_broken=False,
            text="flaxen was installed without its CPU kernels, so XLA computes, which is several "
            "times slower",
            fix=compiler + rebuild,
        )
    elif (
        compute.wanted_isa is not None and kernels.supported and kernels.isa != kernels.supported[0]
    ):
        yield Finding(
            is_broken=False,
            text=f"FLAXEN_CPU_ISA={compute.wanted_isa} selects a slower path than this machine's "
            f"{kernels.supported[0]}",
            fix="unset FLAXEN_CPU_ISA",
        )


def _accelerators(machine: Machine, compute: Compute) -> Iterator[Finding]:
    """An accelerator that the machine has and JAX leaves unused, if nobody asked for the CPU."""
    if compute.platform not in (None, "cpu") or compute.wanted_device or compute.jax_platforms:
        return
    for name, kind in KINDS.items():
        if kind.hardware not in machine.accelerators:
            continue
        if name in compute.plugins:
            yield Finding(
                is_broken=True,
                text=f"JAX could not start the {kind.hardware} of this machine with "
                f"{compute.plugins[name]}, so that the CPU computes",
                fix=f"flaxen doctor --device {name} says why; {kind.check}",
            )
        else:
            yield Finding(
                is_broken=False,
                text=f"JAX has no plugin for the {kind.hardware} of this machine, so that the CPU "
                "computes",
                fix=f"pip install 'flaxen[{name}]'",
            )


def _machine(machine: Machine, kernels: Kernels | None) -> Iterator[Finding]:
    quota = machine.num_quota_cpus
    num_threads = kernels.num_threads if kernels else machine.num_allowed_cpus
    if quota is not None and num_threads > quota:
        fitting = max(1, floor(quota))
        yield Finding(
            is_broken=False,
            text=f"{num_threads} threads compute by default, and the control group allows "
            f"{quota:g} CPUs: threads that are paused make the others wait",
            fix=f"give the commands --threads {fitting}, or the container {num_threads} CPUs",
        )
    room = min(machine.available_bytes, machine.memory_limit_bytes or machine.available_bytes)
    if room < _LITTLE_MEMORY:
        limit = "the control group allows" if room != machine.available_bytes else "are available:"
        yield Finding(
            is_broken=False,
            text=f"only {room / 1e9:.1f} GB of memory {limit} "
            f"{'it' if room != machine.available_bytes else 'a small model takes 2'}",
            fix="flaxen serve MODEL --kv-cache-size 128MiB --max-num-seqs 4",
        )
    is_x86 = bool(machine.cpu_features) or (kernels is not None and "portable" in kernels.supported)
    if is_x86 and not set(machine.cpu_features) >= _GOOD_FEATURES:
        yield Finding(
            is_broken=False,
            text=f"the CPU ({machine.cpu}) shows no AVX2 here, so that the portable kernels run, "
            "many times slower",
            fix="in a virtual machine, pass the host's CPU through (QEMU: -cpu host)",
        )


def _place(place: Place) -> Iterator[Finding]:
    if not place.is_writable:
        yield Finding(
            is_broken=True,
            text=f"the directory of {place.name}, {place.path}, can't be written",
            fix=f"export {place.variable}=DIR of one that can, or: chmod u+rwx {place.path}",
        )
    elif place.free_bytes is not None and place.free_bytes < _LITTLE_DISK:
        yield Finding(
            is_broken=False,
            text=f"the disk of {place.name}, {place.path}, has only "
            f"{place.free_bytes / 1e9:.1f} GB free",
            fix=f"remove what is not needed, or: export {place.variable}=DIR on another disk",
        )


def _model(model: PulledModel) -> Iterator[Finding]:
    if model.kind == "incomplete":
        yield Finding(
            is_broken=False,
            text=f"the download of {model.name} is not finished",
            fix=f"flaxen pull {model.name}, or: flaxen rm {model.name}",
        )


def _network(network: Network) -> Iterator[Finding]:
    if not network.is_port_free:
        yield Finding(
            is_broken=False,
            text=f"port {network.port} is in use, so flaxen serve can't listen on it",
            fix=f"flaxen serve MODEL --port {network.port + 1}, or end the other server",
        )
