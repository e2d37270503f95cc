"""What the doctor advises, from facts that are written here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from flaxen.doctor.advice import Finding, findings
from flaxen.doctor.facts import (
    Compute,
    Facts,
    Failure,
    Kernels,
    Machine,
    Network,
    Place,
    PulledModel,
    Requirement,
    Software,
    Speeds,
)

MACHINE = Machine(
    cpu="Some CPU",
    cpu_features=("avx2", "fma", "f16c"),
    num_cpus=8,
    num_allowed_cpus=4,
    memory_bytes=16 * 10**9,
    available_bytes=12 * 10**9,
)
JAX = Requirement(text="jax<0.13,>=0.10", name="jax", version="0.12.0", fits=True)
TORCH = Requirement(text="torch<2.14,>=2.13", name="torch", version=None, fits=False, extra="torch")
SOFTWARE = Software(
    flaxen="0.1.0",
    source="installed from a package index",
    python="3.12.1",
    python_path="/venv/bin/python",
    in_environment=True,
    versions={"jax": "0.12.0", "jaxlib": None},
    compilers=("g++ 12.2.0",),
    requirements=(JAX, TORCH),
)
KERNELS = Kernels(isa="avx2", supported=("avx2", "portable"), num_threads=4, has_accelerator=False)
COMPUTE = Compute(
    platform="cpu",
    devices=("cpu:0",),
    kernels=KERNELS,
    speeds=Speeds(read_bytes_s=2e10, matmul_flops={"float32": 1e11}),
)
PLACE = Place(
    name="compiled programs",
    path="/home/me/.cache/flaxen",
    variable="FLAXEN_CACHE",
    is_writable=True,
    used_bytes=10**7,
    free_bytes=10**11,
)
NETWORK = Network(
    is_offline=False, endpoint="https://hub", has_token=False, port=8000, is_port_free=True
)
GOOD = Facts(machine=MACHINE, software=SOFTWARE, compute=COMPUTE, places=(PLACE,), network=NETWORK)


def only(facts: Facts) -> Finding:
    [found] = findings(facts)
    return found


def test_a_good_machine_has_nothing_to_fix() -> None:
    assert findings(GOOD) == []


@pytest.mark.parametrize(
    ("requirement", "is_broken", "text", "fix"),
    [
        (
            replace(JAX, version="0.9.1", fits=False), True,
            r"jax is version 0\.9\.1 here, and flaxen was made for jax<0\.13,>=0\.10",
            "pip install 'jax<0.13,>=0.10'",
        ),
        (
            Requirement(text="tokenizers>=0.21", name="tokenizers", version=None, fits=False), True,
            "tokenizers is not installed, and flaxen was made for tokenizers>=0.21",
            "pip install 'tokenizers>=0.21'",
        ),
        (
            replace(TORCH, version="2.14.1"), False,
            r"torch is version 2\.14\.1 here, and flaxen\[torch\] was made for torch<2\.14",
            "pip install 'torch<2.14,>=2.13'",
        ),
    ],
)  # fmt: skip
def test_a_library_that_does_not_fit(
    requirement: Requirement, is_broken: bool, text: str, fix: str
) -> None:
    found = only(replace(GOOD, software=replace(SOFTWARE, requirements=(requirement,))))
    assert found.is_broken is is_broken
    assert re.match(text, found.text)
    assert found.fix == fix


MISSING = replace(KERNELS, isa="xla", supported=(), missing_reason="there is no library")


@pytest.mark.parametrize(
    ("compute", "is_broken", "text", "fix"),
    [
        ({"jax_error": "ImportError: no jaxlib"}, True, "JAX can't be used: ImportError: no jax",
         "pip install --force-reinstall jax jaxlib"),
        ({"jax_error": "AssertionError", "jax_platforms": "cuda"}, True,
         "JAX can't be used with JAX_PLATFORMS=cuda: AssertionError", "unset JAX_PLATFORMS"),
        ({"kernels": None, "kernels_error": "OSError: bad ELF"}, True,
         "the CPU kernels can't be started: OSError: bad ELF", "pip install --force-reinst"),
        ({"kernels": None, "wanted_isa": "amx",
          "kernels_error": "ValueError: FLAXEN_CPU_ISA=amx: this machine has no"},
         True, "FLAXEN_CPU_ISA=amx: this machine has no", "unset FLAXEN_CPU_ISA"),
        ({"speeds": None, "speeds_error": "the process was ended by SIGILL"}, True,
         "a measurement with the chosen kernels failed: the process was ended by SIGILL",
         "FLAXEN_CPU_ISA=portable flaxen doctor"),
        ({"kernels": MISSING}, False, "installed without its CPU kernels, so XLA computes",
         "pip install --force-reinstall --no-deps --no-cache-dir DIRECTORY_OF_A_CHECKOUT"),
        ({"kernels": replace(KERNELS, isa="portable"), "wanted_isa": "portable"}, False,
         "FLAXEN_CPU_ISA=portable selects a slower path than this machine's avx2",
         "unset FLAXEN_CPU_ISA"),
        ({"jax_error": "ValueError: the device cuda was asked for, but", "wanted_device": "cuda"},
         True, "--device cuda does not work: ValueError: the device cuda was asked",
         "leave --device out"),
    ],
)  # fmt: skip
def test_what_computes(compute: dict[str, Any], is_broken: bool, text: str, fix: str) -> None:
    found = only(replace(GOOD, compute=replace(COMPUTE, **compute)))
    assert found.is_broken is is_broken
    assert text in found.text
    assert fix in found.fix


def test_without_a_compiler_it_comes_first() -> None:
    software = replace(SOFTWARE, compilers=(), checkout="/home/me/flaxen")
    found = only(replace(GOOD, software=software, compute=replace(COMPUTE, kernels=MISSING)))
    assert found.fix.startswith("apt-get install g++ && pip install --force-reinstall")
    assert found.fix.endswith(" /home/me/flaxen")


@pytest.mark.parametrize(
    ("machine", "text", "fix"),
    [
        ({"num_quota_cpus": 1.5}, "4 threads compute by default, and the control group allows 1.5",
         "--threads 1, or the container 4 CPUs"),
        ({"available_bytes": 10**9}, "only 1.0 GB of memory are available", "--kv-cache-size"),
        ({"memory_limit_bytes": 512 * 10**6}, "only 0.5 GB of memory the control group allows",
         "--kv-cache-size"),
        ({"cpu_features": ()}, "the CPU (Some CPU) shows no AVX2 here", "-cpu host"),
        ({"accelerators": ("NVIDIA GPU", "NVIDIA GPU")},
         "JAX has no plugin for the NVIDIA GPU of", "pip install 'flaxen[cuda]'"),
        ({"accelerators": ("Google TPU",)}, "for the Google TPU of", "'flaxen[tpu]'"),
        ({"accelerators": ("AMD GPU",)}, "for the AMD GPU of", "'flaxen[rocm]'"),
    ],
)  # fmt: skip
def test_a_machine_that_could_do_more(machine: dict[str, Any], text: str, fix: str) -> None:
    found = only(replace(GOOD, machine=replace(MACHINE, **machine)))
    assert not found.is_broken
    assert text in found.text
    assert fix in found.fix


def test_an_accelerator_that_does_not_start_and_one_that_is_left_unused_on_purpose() -> None:
    machine = replace(MACHINE, accelerators=("NVIDIA GPU",))
    compute = replace(COMPUTE, plugins={"cuda": "jax-cuda12-plugin 0.10.2"})
    found = only(replace(GOOD, machine=machine, compute=compute))
    assert found.is_broken
    assert "could not start the NVIDIA GPU of this machine with jax-cuda12-plugin" in found.text
    assert found.fix.startswith("flaxen doctor --device cuda says why; see whether nvidia-smi")
    for asked in ({"wanted_device": "cpu"}, {"jax_platforms": "cpu"}):
        assert not findings(replace(GOOD, machine=machine, compute=replace(compute, **asked)))
    running = replace(compute, platform="gpu", kernels=replace(KERNELS, has_accelerator=True))
    assert not findings(replace(GOOD, machine=machine, compute=running))


def test_directories_and_ports() -> None:
    locked = only(replace(GOOD, places=(replace(PLACE, is_writable=False),)))
    assert locked.is_broken
    assert locked.text.endswith("compiled programs, /home/me/.cache/flaxen, can't be written")
    assert locked.fix.startswith("export FLAXEN_CACHE=DIR")
    full = only(replace(GOOD, places=(replace(PLACE, free_bytes=10**8),)))
    assert not full.is_broken
    assert full.text.endswith("has only 0.1 GB free")
    taken = only(replace(GOOD, network=replace(NETWORK, is_port_free=False)))
    assert not taken.is_broken
    assert taken.text.startswith("port 8000 is in use")
    assert "--port 8001" in taken.fix


def test_a_download_that_broke_off() -> None:
    whole = PulledModel(name="org/whole:Q8_0", kind="GGUF", num_bytes=10**8)
    found = only(replace(GOOD, models=(whole, replace(whole, name="org/a", kind="incomplete"))))
    assert not found.is_broken
    assert found.text == "the download of org/a is not finished"
    assert found.fix == "flaxen pull org/a, or: flaxen rm org/a"


def test_a_probe_that_failed_is_told_after_what_is_broken() -> None:
    broken = replace(COMPUTE, jax_error="ImportError: no jaxlib", platform=None, kernels=None)
    first, second = findings(
        Facts(compute=broken, failures=(Failure(probe="machine", error="OSError: no /proc"),))
    )
    assert first.is_broken
    assert second.text == "the probe of the machine failed: OSError: no /proc"


def test_a_module_that_is_missing_is_told_once() -> None:
    failures = tuple(
        Failure(probe=probe, error="ModuleNotFoundError: no", module="huggingface_hub.constants")
        for probe in ("places", "network")
    )
    found = only(replace(GOOD, failures=failures))
    assert found.is_broken
    assert found.text == "the module huggingface_hub.constants can't be imported"
    assert found.fix == "pip install --force-reinstall huggingface_hub"
