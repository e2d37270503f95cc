"""What the server says of the devices that compute."""

from __future__ import annotations

from flaxen.cli.cpu import Cpu
from flaxen.cli.serve.devices import about_computing


def test_what_computes() -> None:
    (kernels,) = about_computing(Cpu(isa="avx2", num_threads=2))
    assert (kernels.label, kernels.text) == ("kernels", "avx2, 2 threads")
    (missing,) = about_computing(
        Cpu(isa="xla", num_threads=4, missing_reason="there is no compiler")
    )
    assert "slower path: there is no compiler" in missing.text
    (device,) = about_computing(Cpu(isa="xla", num_threads=4, accelerator="NVIDIA H100 (gpu)"))
    assert (device.label, device.text) == ("device", "NVIDIA H100 (gpu)")
    assert device.fields == {"device": "NVIDIA H100 (gpu)"}
    unused = Cpu(isa="avx2", num_threads=2, overlooked="this machine has an NVIDIA GPU, which")
    assert [each.label for each in about_computing(unused)] == ["kernels", "unused"]
