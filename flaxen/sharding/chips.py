"""The published figures of each TPU and GPU: memory, bandwidth and peak operations.

The figures are the vendors', for a device as JAX shows it, and nobody here has measured them. Peaks
are those of dense products: NVIDIA's tables also give twice that, for sparse ones.
Deliberately does not import JAX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """The figures of one device: a whole chip, or one core of a chip that JAX shows as two."""

    name: str
    hbm_bytes: int  # memory
    hbm_bandwidth: float  # bytes a second
    bf16_peak: float  # operations a second, a product and a sum being two
    link_bandwidth: float  # bytes a second between chips, all links, both directions
    cores_per_device: int = 1  # TensorCores


def _by_name(*chips: Chip) -> Mapping[str, Chip]:
    return {chip.name: chip for chip in chips}


_GIB = 2**30

# https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x. A device of v4 or v5p is
# one chip with two cores that compute as one; one of tpu7x is half a chip.
CHIPS = _by_name(
    Chip("v4", 32 * _GIB, 1200e9, 275e12, 600e9, cores_per_device=2),
    Chip("v5e", 16 * _GIB, 819e9, 197e12, 400e9),
    Chip("v5p", 95 * _GIB, 2765e9, 459e12, 1200e9, cores_per_device=2),
    Chip("v6e", 32 * _GIB, 1640e9, 918e12, 800e9),
    Chip("tpu7x", 96 * _GIB, 3690e9, 1153.5e12, 600e9),
)

GPUS = _by_name(
    # https://www.nvidia.com/en-us/data-center/a100/, SXM with 80 GB
    Chip("a100", 80 * _GIB, 2039e9, 312e12, 600e9),
    # https://www.nvidia.com/en-us/data-center/h100/ and h200/, SXM
    Chip("h100", 80 * _GIB, 3350e9, 989.4e12, 900e9),
    Chip("h200", 141 * _GIB, 4800e9, 989.4e12, 900e9),
    # https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html; seven links of
    # 128 GB/s
    Chip("mi300x", 192 * _GIB, 5300e9, 1307.4e12, 896e9),
)
