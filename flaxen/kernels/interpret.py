"""Runs a Pallas kernel compiled on its own device, and interpreted where the device is a CPU.

The platform is that for which JAX lowers, not the process's default device: a step that is compiled
ahead of time for a TPU or GPU, on a machine that has none, contains the compiled kernel. So a whole
engine with Backend.GPU or Backend.TPU computes on a CPU, slowly, which is what tests need.
Deliberately does not know any kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

Outputs = TypeVar("Outputs")


def by_platform(kernel: Callable[..., Outputs], *operands: Any) -> Outputs:
    """Returns kernel(*operands, interpret=...) with interpret=True where the platform is a CPU.

    XLA removes the choice: the compiled program has the one kernel, and arrays that it writes in
    place stay in place.

    Args:
      kernel: takes the operands and `interpret`, which it passes to `pallas_call`.
      operands: trees of arrays.
    """
    found: Outputs = jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(kernel, interpret=True),
        default=functools.partial(kernel, interpret=False),
    )
    return found
