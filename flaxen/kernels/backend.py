"""What computes: the value that selects an op's implementation.

It is chosen once (`kernels.choice`) and handed down: every op takes it as `backend=`, and nothing
asks the process what it is. Deliberately does not know what is installed, nor any op.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

Implementation = TypeVar("Implementation")


class Backend(Enum):
    """Whose code runs an op. A value of it is static in a jit: it selects what is compiled."""

    REFERENCE = "reference"  # plain jax.numpy, compiled by XLA for whatever JAX computes on
    CPU = "cpu"  # our C++ kernels
    GPU = "gpu"  # no kernels of ours yet: each op's table says so
    TPU = "tpu"  # no kernels of ours yet: each op's table says so

    @property
    def packs_weights(self) -> bool:
        """Whether matrices are kept as PackedLinear, perhaps quantized; else as plain arrays."""
        return self is Backend.CPU

    @property
    def fuses_definitions(self) -> bool:
        """Whether parts of a definition run as the fused ops that they amount to; else as written.

        With it, a definition's sums also get one order for each row, whatever the rows beside it.
        """
        return self is Backend.CPU

    @property
    def pads_cheaply(self) -> bool:
        """Whether padding of a step costs next to nothing, so that few shapes are compiled."""
        return self is Backend.CPU

    @property
    def default_dtype(self) -> str:
        """What is computed in where nobody said: XLA's code for bfloat16 products is several times
        slower than for float32 on a CPU, where REFERENCE is chosen."""
        return "float32" if self is Backend.REFERENCE else "bfloat16"


def find_implementation(
    op: str, implementations: Mapping[Backend, Implementation], backend: Backend
) -> Implementation:
    """An op's implementation for a backend, from the op's table.

    Args:
      op: its name, for the message.
      implementations: the op's table.
      backend: what is to compute.

    Raises:
      ValueError: the table has none for this backend.
    """
    if backend not in implementations:
        there_are = ", ".join(each.value for each in implementations)
        raise ValueError(
            f"{op} has no implementation for the backend {backend.value}: it has {there_are}. Use "
            "one of these, or add an entry to its table (docs/how-to/add-a-kernel.md)"
        )
    return implementations[backend]
