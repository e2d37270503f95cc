"""The backend: the value that selects each op's implementation.

It is chosen once (`kernels.choice`) and passed down: every op takes it as `backend=`, and nothing
else asks which one is in use. Deliberately does not know what is installed, nor any op.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

Implementation = TypeVar("Implementation")


class Backend(Enum):
    """Whose code runs an op. A backend is static in a jit: it selects what is compiled."""

    REFERENCE = "reference"  # plain jax.numpy, compiled by XLA for JAX's device
    CPU = "cpu"  # our C++ kernels
    GPU = "gpu"  # our Pallas kernels, and XLA: each op's table says which
    # The same with sums of one order for each row, whatever is beside it (--batch-invariant).
    GPU_INVARIANT = "gpu-invariant"
    TPU = "tpu"  # our Pallas kernels, and XLA: each op's table says which
    TPU_TOKAMAX = "tpu-tokamax"  # the same, but for attention over pages, which is tokamax's

    @property
    def packs_weights(self) -> bool:
        """Whether matrices are PackedLinear, perhaps quantized, instead of plain arrays."""
        return self is Backend.CPU

    @property
    def keeps_quantized(self) -> bool:
        """Whether weights that a file has quantized stay so unless another form is requested.

        REFERENCE would expand them in every step; it does if they are requested.
        """
        return self is not Backend.REFERENCE

    @property
    def fuses_definitions(self) -> bool:
        """Whether parts of a definition that match a fused op run as that op.

        If so, a definition's sums also have one order for each row, whatever the batch.
        """
        return self is Backend.CPU

    @property
    def pads_cheaply(self) -> bool:
        """Whether padding of a step costs almost nothing, so that few shapes are compiled."""
        return self is Backend.CPU

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a token's bits depend on its own sequence alone, whatever is beside it."""
        return self in (Backend.CPU, Backend.GPU_INVARIANT)

    @property
    def has_command_buffers(self) -> bool:
        """Whether XLA records the kernels of a step, to start all of them by one call."""
        return self in (Backend.GPU, Backend.GPU_INVARIANT)

    @property
    def default_dtype(self) -> str:
        """The dtype of compute unless another is requested. REFERENCE computes on a CPU, where
        XLA's bfloat16 products are several times slower than float32.
        """
        return "float32" if self is Backend.REFERENCE else "bfloat16"


def implementations(
    reference: Implementation, own: Mapping[Backend, Implementation]
) -> Mapping[Backend, Implementation]:
    """The table of an op: `own`, and the reference, which XLA compiles, on all other backends."""
    return {**dict.fromkeys(Backend, reference), **own}


def find_implementation(
    op: str, implementations: Mapping[Backend, Implementation], backend: Backend
) -> Implementation:
    """Finds an op's implementation for a backend in the op's table.

    Args:
      op: its name, for the message.
      implementations: the op's table.
      backend: the backend that computes.

    Raises:
      ValueError: the table has no implementation for this backend.
    """
    if backend not in implementations:
        there_are = ", ".join(each.value for each in implementations)
        raise ValueError(
            f"{op} has no implementation for the backend {backend.value}: it has {there_are}. Use "
            "one of these, or add an entry to its table (docs/how-to/add-a-kernel.md)"
        )
    return implementations[backend]
