"""Sets up what computes: --device, --threads, and FLAXEN_CPU_ISA, which only this file reads.

Deliberately does not know models.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

ISA_VARIABLE = "FLAXEN_CPU_ISA"
_XLA = "xla"  # used like an instruction set, for none of our kernels


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The code that computes on the CPU."""

    isa: str  # our kernels' instruction set; "xla" if they are not in use
    num_threads: int
    num_devices: int = 1  # of the mesh; on a CPU they are virtual
    accelerator: str | None = None  # what computes in place of the CPU, in words
    overlooked: str | None = None  # an accelerator that JAX leaves unused, and how to use it
    missing_reason: str | None = None  # why our kernels are missing


def set_up_cpu(
    num_threads: int | None,
    device: str = "auto",
    *,
    num_devices: int = 1,
    num_local_devices: int | None = None,
    is_built: bool | None = None,
) -> Cpu:
    """Sets device, threads and instruction set for the whole process, before JAX computes anything.

    Args:
      num_threads: the threads of our kernels and of XLA, at least 1; None is one for each CPU of
          the process.
      device: where JAX computes, as EngineArgs.device.
      num_devices: those of the mesh.
      num_local_devices: this process's own: a CPU gets as many virtual ones, to try a mesh on. None
          is all of the mesh's.
      is_built: whether the C++ kernels were built; None checks.

    Raises:
      ValueError: the device is not there, or FLAXEN_CPU_ISA names an unknown or unavailable
        instruction set.
    """
    if num_threads is not None:
        os.environ["PJRT_NPROC"] = str(num_threads)  # XLA reads it at its start

    import jax

    from flaxen.kernels import cpu_library
    from flaxen.kernels.accelerators import look_around, overlooked
    from flaxen.kernels.backend import Backend
    from flaxen.kernels.choice import choose_backend
    from flaxen.kernels.device import describe_devices, gpu_memory_settings

    os.environ.update(gpu_memory_settings(os.environ))
    num_virtual = num_devices if num_local_devices is None else num_local_devices
    if num_virtual > max(1, jax.config.jax_num_cpu_devices):  # type: ignore[attr-defined]
        jax.config.update("jax_num_cpu_devices", num_virtual)
    wanted = os.environ.get(ISA_VARIABLE) or None
    is_built = cpu_library.is_built() if is_built is None else is_built
    known = (*cpu_library.ISAS, _XLA)
    if wanted is not None and wanted not in known:
        raise ValueError(
            f"{ISA_VARIABLE}={wanted}: there is no CPU ISA {wanted!r}: use one of "
            f"{', '.join(known)}"
        )
    if wanted not in (None, _XLA) and not is_built:
        raise ValueError(
            f"{ISA_VARIABLE}={wanted}: the CPU ISA {wanted} was asked for, but "
            f"{cpu_library.missing_reason()}"
        )
    backend = choose_backend(backend_name(), device, num_devices=num_devices, is_built=is_built)
    isa = _XLA
    if backend is Backend.CPU:
        try:
            cpu_library.start(isa=wanted, num_threads=num_threads)
        except ValueError as error:
            raise ValueError(f"{ISA_VARIABLE}={wanted}: {error}") from error
        isa = cpu_library.isa()
    is_cpu = jax.default_backend() == "cpu"
    # Who set JAX_PLATFORMS, or the option, knows what the machine has.
    is_free = device == "auto" and not jax.config.jax_platforms  # type: ignore[attr-defined]
    return Cpu(
        isa=isa,
        num_threads=num_threads or len(os.sched_getaffinity(0)),
        num_devices=num_devices,
        accelerator=None if is_cpu else describe_devices(),
        overlooked=overlooked(look_around()) if is_cpu and is_free else None,
        missing_reason=None if is_built else cpu_library.missing_reason(),
    )


def backend_name() -> str:
    """EngineArgs.backend, by the environment: ISA_VARIABLE=xla leaves our kernels out."""
    return "reference" if os.environ.get(ISA_VARIABLE) == _XLA else "auto"


def announce(cpu: Cpu) -> None:
    """Prints what computes to stderr, and once that an accelerator is left unused."""
    print(describe(cpu), file=sys.stderr)
    if cpu.overlooked is not None:
        print(cpu.overlooked, file=sys.stderr)


def describe(cpu: Cpu) -> str:
    """Describes what computes, as one line."""
    if cpu.accelerator is not None:
        return f"device: {cpu.accelerator}"
    return f"CPU kernels: {describe_kernels(cpu)}"


def describe_kernels(cpu: Cpu) -> str:
    """Describes the CPU's kernels, or says why there are none."""
    threads = f"{cpu.num_threads} thread{'' if cpu.num_threads == 1 else 's'}"
    if cpu.isa != _XLA:
        return f"{cpu.isa}, {threads}"
    if cpu.num_devices > 1:
        return f"none, XLA with {threads} for {cpu.num_devices} virtual devices, to try a mesh on"
    slow = f". This is the slower path: {cpu.missing_reason}" if cpu.missing_reason else ""
    return f"none, XLA with {threads}{slow}"
