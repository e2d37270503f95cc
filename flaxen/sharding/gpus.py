"""The published figures of each GPU, in the form of `chips`. Nobody here has measured them.

Peaks are those of dense products: NVIDIA's tables also give twice that, for sparse ones.
Deliberately does not import JAX.
"""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.sharding.chips import Chip

_GIB = 2**30

GPUS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        # https://www.nvidia.com/en-us/data-center/a100/, SXM with 80 GB
        Chip(
            name="a100",
            hbm_bytes=80 * _GIB,
            hbm_bandwidth=2039e9,
            bf16_peak=312e12,
            link_bandwidth=600e9,
        ),
        # https://www.nvidia.com/en-us/data-center/h100/, SXM
        Chip(
            name="h100",
            hbm_bytes=80 * _GIB,
            hbm_bandwidth=3350e9,
            bf16_peak=989.4e12,
            link_bandwidth=900e9,
        ),
        # https://www.nvidia.com/en-us/data-center/h200/, SXM
        Chip(
            name="h200",
            hbm_bytes=141 * _GIB,
            hbm_bandwidth=4800e9,
            bf16_peak=989.4e12,
            link_bandwidth=900e9,
        ),
        # https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html; seven links of
        # 128 GB/s
        Chip(
            name="mi300x",
            hbm_bytes=192 * _GIB,
            hbm_bandwidth=5300e9,
            bf16_peak=1307.4e12,
            link_bandwidth=896e9,
        ),
    )
}
