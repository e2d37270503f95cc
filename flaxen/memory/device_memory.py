"""Divides the memory of an accelerator: weights, the temporaries of a step, and the KV cache.

Deliberately does not know: JAX, how any of these is measured or estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_UTILIZATION = 0.9


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The parts of a device's memory that an engine takes.

    Raises:
      ValueError: the utilization is not a share.
    """

    limit_bytes: int  # that JAX may take on the device
    utilization: float = DEFAULT_UTILIZATION  # the share of it that the engine may take, 0 to 1
    param_bytes: int  # of the weights
    step_bytes: int  # of the largest step's temporaries, and of the rows

    def __post_init__(self) -> None:
        check_utilization(self.utilization)

    @property
    def pool_bytes(self) -> int:
        """The bytes that are left for the KV cache; 0 if nothing is left."""
        allowed = int(self.limit_bytes * self.utilization)
        return max(0, allowed - self.param_bytes - self.step_bytes)


def check_utilization(utilization: float) -> None:
    """Raises ValueError if the utilization is not a share above 0."""
    if not 0 < utilization <= 1:  # refuses NaN too
        raise ValueError(
            f"gpu_memory_utilization must be above 0 and at most 1, got {utilization}: it is the "
            "share of the device's memory that the engine may take"
        )
