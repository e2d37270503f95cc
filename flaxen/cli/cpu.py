"""How the CPU is used: --threads, and FLAXEN_CPU_ISA, which nothing else reads.

Deliberately does not know what is computed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

ISA_VARIABLE = "FLAXEN_CPU_ISA"


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """What computes on the CPU."""

    isa: str  # of our kernels; "xla" where there are none
    num_threads: int
    missing_reason: str | None = None  # why there are no kernels to choose from


def set_up_cpu(num_threads: int | None) -> Cpu:
    """Sets threads and instruction set for the whole process, before JAX computes anything.

    Args:
      num_threads: of our kernels and of XLA, at least 1; None is one for each CPU that we may use.

    Raises:
      ValueError: FLAXEN_CPU_ISA names no instruction set, or one that is not to be had.
    """
    if num_threads is not None:
        os.environ["PJRT_NPROC"] = str(num_threads)  # XLA reads it when it starts

    from flaxen.kernels import cpu_library

    isa = os.environ.get(ISA_VARIABLE) or None
    try:
        cpu_library.configure(isa=isa, num_threads=num_threads)
    except ValueError as error:
        raise ValueError(f"{ISA_VARIABLE}={isa}: {error}") from error
    return Cpu(
        isa=cpu_library.isa(),
        num_threads=num_threads or len(os.sched_getaffinity(0)),
        missing_reason=None if cpu_library.is_built() else cpu_library.missing_reason(),
    )


def backend_name() -> str:
    """EngineArgs.backend, by the environment: ISA_VARIABLE=xla leaves our kernels out."""
    return "reference" if os.environ.get(ISA_VARIABLE) == "xla" else "auto"


def announce(cpu: Cpu) -> None:
    """Says on stderr what computes, unless that is an accelerator."""
    import jax

    if jax.default_backend() == "cpu":
        print(describe(cpu), file=sys.stderr)


def describe(cpu: Cpu) -> str:
    """What computes, in words."""
    threads = f"{cpu.num_threads} thread{'' if cpu.num_threads == 1 else 's'}"
    if cpu.isa != "xla":
        return f"CPU kernels: {cpu.isa}, {threads}"
    slow = f". This is the slower path: {cpu.missing_reason}" if cpu.missing_reason else ""
    return f"CPU kernels: none, XLA with {threads}{slow}"
