"""The part that names the device and measures its limits: a large copy, and a large product."""

from __future__ import annotations

import argparse

import jax
import jaxlib.version

from flaxen.kernels.device import describe_devices, memory_limit
from flaxen.kernels.device_speed import COPY_BYTES, PRODUCT_SIDE, copy_bytes_s, product_flops
from flaxen.kernels.hardware import driver_version

from .figures import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    say("device", describe_devices())
    say("driver", driver_version("cuda") or driver_version("rocm"))
    say("versions", {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__})
    say("memory_limit_bytes", memory_limit())
    say("copy_bytes_s", copy_bytes_s(2**20 if args.tiny else COPY_BYTES))
    say("matmul_flops", product_flops(side=256 if args.tiny else PRODUCT_SIDE))


if __name__ == "__main__":
    main()
