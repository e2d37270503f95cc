"""The published figures of each TPU: memory, bandwidth and peak operations.

The figures are the vendor's, for a device as JAX shows it, and nobody here has measured them.
Deliberately does not import JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The figures of one device: a whole chip, or one core of a chip that JAX shows as two."""

    name: str
    hbm_bytes: int  # memory
    hbm_bandwidth: float  # bytes a second
    bf16_peak: float  # operations a second, a product and a sum being two
    link_bandwidth: float  # bytes a second between chips, all links, both directions
    cores_per_device: int = 1  # TensorCores


# https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x. A device of v4 or v5p is
# one chip with two cores that compute as one; one of tpu7x is half a chip.
CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            hbm_bytes=32 * _GIB,
            hbm_bandwidth=1200e9,
            bf16_peak=275e12,
            link_bandwidth=600e9,
            cores_per_device=2,
        ),
        Chip(
            name="v5e",
            hbm_bytes=16 * _GIB,
            hbm_bandwidth=819e9,
            bf16_peak=197e12,
            link_bandwidth=400e9,
        ),
        Chip(
            name="v5p",
            hbm_bytes=95 * _GIB,
            hbm_bandwidth=2765e9,
            bf16_peak=459e12,
            link_bandwidth=1200e9,
            cores_per_device=2,
        ),
        Chip(
            name="v6e",
            hbm_bytes=32 * _GIB,
            hbm_bandwidth=1640e9,
            bf16_peak=918e12,
            link_bandwidth=800e9,
        ),
        Chip(
            name="tpu7x",
            hbm_bytes=96 * _GIB,
            hbm_bandwidth=3690e9,
            bf16_peak=1153.5e12,
            link_bandwidth=600e9,
        ),
    )
}
