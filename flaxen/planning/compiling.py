"""Compiles lowered programs, and reads what the compiler says of them.

Deliberately does not know what the programs compute.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from flaxen.planning.collectives import Collective, read_collectives
from flaxen.planning.memory import Compiled


class RefusedError(ValueError):
    """The compiler refuses a program: most often because it does not fit into the memory."""


def compile_for(
    lowered: jax.stages.Lowered, name: str, num_devices: int
) -> tuple[Compiled, tuple[Collective, ...]]:
    """Compiles a program for the devices that it was lowered for.

    Args:
      lowered: the program.
      name: what it is, for the message.
      num_devices: of its mesh.

    Raises:
      RefusedError: the compiler's message says why.
    """
    started_s = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise RefusedError(f"the compiler refuses the {name} step: {_short(str(error))}") from error
    seconds = time.perf_counter() - started_s
    memory: Any = compiled.memory_analysis()
    assert memory is not None, "the compilers of all targets say it"
    cost = compiled.cost_analysis() or {}
    found = Compiled(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        num_operations=cost.get("flops"),
        seconds=seconds,
    )
    return found, read_collectives(compiled.as_text() or "", num_devices)


def _short(message: str, length: int = 400) -> str:
    """The beginning of a message: the compiler lists all that it allocated after that."""
    first = " ".join(message.split("\n\n")[0].split())
    return first if len(first) <= length else first[:length] + " ..."
