"""Sets up the CPU: --threads, and FLAXEN_CPU_ISA, which only this file reads.

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
    has_accelerator: bool = False  # JAX computes on an accelerator instead of the CPU
    missing_reason: str | None = None  # why our kernels are missing


def set_up_cpu(num_threads: int | None, *, is_built: bool | None = None) -> Cpu:
    """Sets threads and instruction set for the whole process, before JAX computes anything.

    Args:
      num_threads: the threads of our kernels and of XLA, at least 1; None is one for each CPU of
          the process.
      is_built: whether the C++ kernels were built; None checks.

    Raises:
      ValueError: FLAXEN_CPU_ISA names an unknown or unavailable instruction set.
    """
    if num_threads is not None:
        os.environ["PJRT_NPROC"] = str(num_threads)  # XLA reads it at its start

    from flaxen.kernels import cpu_library
    from flaxen.kernels.backend import Backend
    from flaxen.kernels.choice import choose_backend

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
    backend = choose_backend(backend_name(), is_built=is_built)
    isa = _XLA
    if backend is Backend.CPU:
        try:
            cpu_library.start(isa=wanted, num_threads=num_threads)
        except ValueError as error:
            raise ValueError(f"{ISA_VARIABLE}={wanted}: {error}") from error
        isa = cpu_library.isa()
    return Cpu(
        isa=isa,
        num_threads=num_threads or len(os.sched_getaffinity(0)),
        has_accelerator=backend in (Backend.GPU, Backend.TPU),
        missing_reason=None if is_built else cpu_library.missing_reason(),
    )


def backend_name() -> str:
    """EngineArgs.backend, by the environment: ISA_VARIABLE=xla leaves our kernels out."""
    return "reference" if os.environ.get(ISA_VARIABLE) == _XLA else "auto"


def announce(cpu: Cpu) -> None:
    """Prints what computes to stderr, unless it is an accelerator."""
    if not cpu.has_accelerator:
        print(describe(cpu), file=sys.stderr)


def describe(cpu: Cpu) -> str:
    """Describes what computes, as one line."""
    return f"CPU kernels: {describe_kernels(cpu)}"


def describe_kernels(cpu: Cpu) -> str:
    """Describes the kernels, or says why there are none."""
    if cpu.has_accelerator:
        return "none: JAX computes on an accelerator"
    threads = f"{cpu.num_threads} thread{'' if cpu.num_threads == 1 else 's'}"
    if cpu.isa != _XLA:
        return f"{cpu.isa}, {threads}"
    slow = f". This is the slower path: {cpu.missing_reason}" if cpu.missing_reason else ""
    return f"none, XLA with {threads}{slow}"
