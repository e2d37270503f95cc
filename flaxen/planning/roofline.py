"""The least time of a step on one device: bytes over bandwidth, operations over peak, what is sent
over the links.

No engine reaches it: it is a bound, without the time to begin an operation or a message. Knows
numbers only. Deliberately does not know models, nor JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.planning.collectives import Collective, sent_bytes
from flaxen.sharding.chips import Chip


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one device in one step."""

    weight_bytes: int  # read once
    cache_bytes: int  # of keys and values, read and written
    other_bytes: int  # activations and logits that can't stay on the chip
    num_operations: float  # a product and a sum being two
    collectives: tuple[Collective, ...]

    @property
    def num_bytes(self) -> int:
        """All that moves between the memory and the chip."""
        return self.weight_bytes + self.cache_bytes + self.other_bytes


@dataclass(frozen=True, kw_only=True)
class Times:
    """The seconds of a step that each limit asks for."""

    memory_s: float
    compute_s: float
    links_s: float

    @property
    def least_s(self) -> float:
        """Memory and products overlap; what is sent is waited for, in every layer."""
        return max(self.memory_s, self.compute_s) + self.links_s

    @property
    def limit(self) -> str:
        """The part that takes longest: memory, compute or links."""
        named = {"memory": self.memory_s, "compute": self.compute_s, "links": self.links_s}
        return max(named, key=lambda name: named[name])


def step_times(work: Work, chip: Chip, peak: float) -> Times:
    """The times of a step.

    Args:
      work: what one device does.
      chip: the device.
      peak: its operations a second in the dtype of the products.
    """
    return Times(
        memory_s=work.num_bytes / chip.hbm_bandwidth,
        compute_s=work.num_operations / peak,
        links_s=links_s(work.collectives, chip),
    )


def links_s(collectives: Sequence[Collective], chip: Chip) -> float:
    """The seconds to send what collectives send. The published bandwidth counts both directions,
    and a device can't send with more than half of it.
    """
    return sum(map(sent_bytes, collectives)) / (chip.link_bandwidth / 2)
