"""The measurements of an accelerator, at a size that says nothing of this machine."""

from __future__ import annotations

from flaxen.benchmark.limits import Limits, device_limits, times_devices
from flaxen.kernels.device_speed import COPY_BYTES, copy_bytes_s, copy_size, product_flops


def test_a_copy_and_a_product_have_a_rate() -> None:
    assert copy_bytes_s(2**16) > 1e6
    assert product_flops("float32", side=32) > 1e5


def test_the_limits_of_a_device_are_those_of_its_copy_and_products() -> None:
    found = device_limits(["bfloat16", "float32"], copy_bytes=2**16, side=32)
    assert found.read_bytes_s > 1e6
    assert found.matmul_flops.keys() == {"bfloat16", "float32"}
    assert found.peak_flops == max(found.matmul_flops.values())


def test_a_copy_fits_beside_an_engine() -> None:
    assert copy_size(None) == copy_size(80 * 2**30) == COPY_BYTES
    assert copy_size(2**30) == 2**28


def test_each_accelerator_of_a_mesh_counts() -> None:
    one = Limits(read_bytes_s=1000, matmul_flops={"float32": 1e9})
    assert times_devices(one, 4) == Limits(read_bytes_s=4000, matmul_flops={"float32": 4e9})
